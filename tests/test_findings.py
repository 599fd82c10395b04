"""Findings: an edit is data, and laid over a document it changes what it names and nothing else."""

from __future__ import annotations

import pytest
from lxml import etree

from xmlkit import Document
from xmlkit.validation.findings import Edit, apply_fix, xpath_of

TEXT = """<domain type="kvm" xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>
  <!-- kept -->
  <name >guest</name >
  <os><type>hvm</type> stray</os>
  <devices>
    <disk   type='file'>
      <target dev='vda'   bus="virtio"/>
      <alias><name>ua-1</name></alias>
    </disk>
    <disk type='file'/>
  </devices>
  <qemu:commandline>
    <qemu:arg value='-x'/>
  </qemu:commandline>
</domain>
"""
DISK = "/domain/devices/disk[1]"


@pytest.mark.parametrize(
    ("edit", "old", "new"),
    [
        pytest.param(
            Edit("rename", "/domain/name", name="title"),
            "<name >guest</name >",
            "<title >guest</title>",
            id="rename",
        ),
        pytest.param(
            Edit("rename", f"{DISK}/target", "dev", name="devs"),
            "dev='vda'   bus",
            "devs='vda'   bus",
            id="rename-attribute",
        ),
        pytest.param(
            Edit("value", f"{DISK}/target", "bus", value="s&ta"),
            'bus="virtio"',
            'bus="s&amp;ta"',
            id="value",
        ),
        pytest.param(Edit("value", "/domain/name", value="b"), ">guest<", ">b<", id="text"),
        pytest.param(
            Edit("delete", f"{DISK}/target"),
            "\n      <target dev='vda'   bus=\"virtio\"/>",
            "",
            id="delete",
        ),
        pytest.param(Edit("delete", f"{DISK}/target", "dev"), " dev='vda'", "", id="attribute"),
        pytest.param(Edit("delete", "/domain/os/text()[1]"), " stray", "", id="delete-text"),
        pytest.param(
            Edit("add", f"{DISK}/target", "tray", value="open"),
            'bus="virtio"',
            "bus=\"virtio\" tray='open'",
            id="add-attribute",
        ),
        pytest.param(
            Edit("add", DISK, xml="<boot order='1'/>"),
            "</alias>\n",
            '</alias>\n      <boot order="1"/>\n',
            id="add",
        ),
        pytest.param(
            Edit("add", DISK, xml="<boot/>", before=f"{DISK}/alias"),
            "      <alias>",
            "      <boot/>\n      <alias>",
            id="add-before",
        ),
        pytest.param(
            Edit("move", f"{DISK}/alias/name", to=f"{DISK}/alias", name="@name"),
            "<alias><name>ua-1</name></alias>",
            '<alias name="ua-1"></alias>',
            id="child-to-attribute",
        ),
        pytest.param(
            Edit("move", f"{DISK}/target", "bus", to=DISK, name="bus"),
            '   bus="virtio"/>\n      <alias><name>ua-1</name></alias>\n',
            "/>\n      <alias><name>ua-1</name></alias>\n      <bus>virtio</bus>\n",
            id="attribute-to-child",
        ),
        pytest.param(
            Edit("move", f"{DISK}/alias", to=DISK, before=f"{DISK}/target"),
            "      <target dev='vda'   bus=\"virtio\"/>\n      <alias><name>ua-1</name></alias>\n",
            "      <alias><name>ua-1</name></alias>\n      <target dev='vda'   bus=\"virtio\"/>\n",
            id="move-before",
        ),
        pytest.param(
            Edit("value", "/domain", "xmlns:qemu", value="urn:x"),
            "'http://libvirt.org/schemas/domain/qemu/1.0'",
            "'urn:x'",
            id="declaration",
        ),
    ],
)
def test_an_edit_changes_what_it_names_and_nothing_else(edit: Edit, old: str, new: str) -> None:
    """All else is there byte for byte."""
    assert 1 == TEXT.count(old)
    changed = apply_fix(Document.parse(TEXT), edit)

    assert TEXT.replace(old, new) == changed.text


@pytest.mark.parametrize(
    ("text", "edit", "expected"),
    [
        (
            "<a><b  c='5'/></a>",
            Edit("move", "/a/b", "c", name="text()", to="/a/b"),
            "<a><b>5</b></a>",
        ),
        (
            "<a>\n  <b c='5'/>\n</a>",
            Edit("move", "/a/b", "c", name="d/@e", to="/a/b"),
            "<a>\n  <b><d e='5'/></b>\n</a>",
        ),
        (
            "<a><b>5</b></a>",
            Edit("move", "/a/b/text()[1]", name="d/@e", to="/a/b"),
            "<a><b><d e='5'/></b></a>",
        ),
    ],
)
def test_a_value_moves_into_a_text_or_a_new_child(text: str, edit: Edit, expected: str) -> None:
    """Alone: what held it stays, or goes."""
    assert etree.canonicalize(expected, strip_text=True) == etree.canonicalize(
        apply_fix(Document.parse(text), edit).text, strip_text=True
    )


def test_an_element_moves_with_its_own_writing() -> None:
    """Onto a line of its own."""
    edit = Edit("move", f"{DISK}/target", to="/domain/devices")
    changed = apply_fix(Document.parse(TEXT), edit).text

    target = "<target dev='vda'   bus=\"virtio\"/>"
    assert f"    <disk type='file'/>\n    {target}\n  </devices>" in changed
    assert "<disk   type='file'>\n      <alias>" in changed


def test_a_default_namespace_is_taken_away_by_its_declaration() -> None:
    """The tag is all that changes."""
    document = Document.parse("<domain xmlns='urn:x' type='kvm'>\n <name/></domain>")
    changed = apply_fix(document, Edit("delete", "/*[name()='domain']", "xmlns"))

    assert "<domain type='kvm'>\n <name/></domain>" == changed.text


@pytest.mark.parametrize(
    "edit",
    [
        Edit("delete", "/domain/nothing"),
        Edit("delete", "/domain/devices/disk"),
        Edit("delete", "/domain"),
        Edit("delete", "/domain/name", "nothing"),
        Edit("value", "/domain/name", "nothing", value="1"),
        Edit("delete", "/domain/os/text()[9]"),
        Edit("rename", "/domain/name", name="x:y"),
    ],
)
def test_an_edit_that_does_not_fit_is_refused(edit: Edit) -> None:
    """Nothing is changed by half."""
    with pytest.raises(ValueError, match=r"/domain|prefix|root"):
        apply_fix(Document.parse(TEXT), edit)


def test_each_element_is_found_by_its_xpath() -> None:
    """Also those in namespaces, without a map of prefixes."""
    text = "<a xmlns:q='urn:q'><q:b/><b/><b xmlns='urn:x'><c/></b><q:b/><b/><!-- --></a>"
    root = etree.fromstring(text)
    for element in root.iter(etree.Element):
        assert [element] == root.getroottree().xpath(xpath_of(element)), xpath_of(element)
