"""What is said of invalid documents: the place, the fault, what was meant, and tried repairs."""

from __future__ import annotations

import copy
import random
import shutil
from collections import defaultdict
from pathlib import Path

import corpus
import faults
import pytest
from faults import Told
from lxml import etree

from xmlkit import Document, Finding, validate
from xmlkit.rules import RULES
from xmlkit.validation import diagnosis, schemas
from xmlkit.validation.findings import apply_fix

MAIN = ("domain", "domainsnapshot", "storagepool", "storagevol")
OTHERS = tuple(sorted(set(schemas.SCHEMAS.values()) - {*MAIN, "cpu"}))


def domain(devices: str = "", extra: str = "", attributes: str = "type='kvm'") -> str:
    return (
        f"<domain {attributes}>\n  <name>guest</name>\n  <memory>1</memory>\n"
        f"  <os><type>hvm</type></os>\n  <devices>\n{devices}\n</devices>\n{extra}\n</domain>\n"
    )


def disk(inner: str, attributes: str = " type='file'") -> str:
    return domain(f"<disk{attributes}>{inner}</disk>")


def nic(inner: str = "", attributes: str = "") -> str:
    return domain(f"<interface type='network'{attributes}><source network='n'/>{inner}</interface>")


SOURCE = "<source file='/x'/>"
TARGET = "<target dev='vda'/>"
VDA = SOURCE + TARGET


# A document, and of each of its findings the id, the end of the XPath, and words of the message.
MISTAKES = {
    "element": (
        disk(VDA + "<serail>1</serail>"),
        [("misspelled-element", "disk/serail", "did you mean <serial>?")],
    ),
    "vcpus": (domain(extra="<vcpus>2</vcpus>"), [("misspelled-element", "/vcpus", "<vcpu>?")]),
    "unknown": (disk(VDA + "<colour/>"), [("unknown-element", "disk/colour", "in <disk>")]),
    "attribute": (
        disk("<source fil='/x'/>" + TARGET),
        [("misspelled-attribute", "source/@fil", "did you mean file?")],
    ),
    "unknown-attribute": (
        disk(SOURCE + "<target dev='vda' colour='red'/>"),
        [("unknown-attribute", "target/@colour", "colour of <target>")],
    ),
    "of-its-child": (
        disk(VDA, " type='file' bus='virtio'"),
        [("unknown-attribute", "disk/@bus", "<target> has one")],
    ),
    "by-value": (
        disk("<driver name='qemu' format='qcow2'/>" + VDA),
        [("misspelled-attribute", "driver/@format", "did you mean type?")],
    ),
    "child-for-attribute": (
        disk(VDA + "<bus>virtio</bus>"),
        [("unknown-element", "disk/bus", "an attribute of <target>")],
    ),
    "attribute-for-child": (
        "<domain type='kvm'><name>g</name><memory>1</memory><os type='hvm'/></domain>",
        [("unknown-attribute", "os/@type", "no attribute but a child element")],
    ),
    "text-for-attribute": (
        disk(SOURCE + "<target>vda</target>"),
        [("text-not-allowed", "target", "should be the attribute dev")],
    ),
    "path-for-attribute": (
        disk("<source>/x</source>" + TARGET),
        [("text-not-allowed", "source", "should be the attribute file")],
    ),
    "value": (
        disk(SOURCE + "<target dev='vda' bus='virtoi'/>"),
        [("bad-value", "target/@bus", 'did you mean "virtio"?')],
    ),
    "of-a-list": (
        domain(extra="<on_reboot>reboot</on_reboot>"),
        [("bad-value", "on_reboot", "not one of destroy, preserve,")],
    ),
    "yes-for-true": (
        domain("<graphics type='vnc' autoport='true'/>"),
        [("bad-value", "@autoport", 'did you mean "yes"?')],
    ),
    "multicast": (
        domain("<interface type='user'><mac address='53:54:00:12:34:56'/></interface>"),
        [("bad-value", "mac/@address", "its first byte must be even")],
    ),
    "uuid": (
        domain(extra="<uuid>1234</uuid>"),
        [("bad-value", "/uuid", "not a UUID (32 hexadecimal digits, 8-4-4-4-12): it has 4")],
    ),
    "blanks": (
        domain("<interface type='user'><mac address=' 52:54:00:12:34:56'/></interface>"),
        [("bad-value", "mac/@address", '" 52:54:00:12:34:56", not a')],
    ),
    "unit": (
        "<volume><name>a</name><capacity>1 GiB</capacity><target/></volume>",
        [("bad-value", "/capacity", "unit='GiB'")],
    ),
    "path": (
        disk("<source file='x.img'/>" + TARGET),
        [("bad-value", "source/@file", "not an absolute path: it does not start with /")],
    ),
    "slot": (
        domain(
            "<hostdev mode='subsystem' type='pci'><source><address domain='0' bus='0' slot='0x20' "
            "function='0'/></source></hostdev>"
        ),
        [("bad-value", "@slot", "not a PCI slot")],
    ),
    "missing-child": (disk(SOURCE), [("missing-child", "disk", "<disk> lacks <target>")]),
    "missing-attribute": (
        disk("<source pool='p'/>" + TARGET, " type='volume'"),
        [("missing-attribute", "source", "lacks the attribute volume")],
    ),
    "no-type": (
        disk("<source dev='/dev/sda'/>" + TARGET, ""),
        [("missing-attribute", "disk", "lacks the attribute type (block)")],
    ),
    "other-type": (
        disk(VDA, " type='block'"),
        [("bad-value", "disk/@type", 'does not fit with the rest of it; "file" does')],
    ),
    "duplicate": (
        disk(VDA + "\n<target dev='vdb'/>"),
        [("duplicate", "target[2]", "a second <target> in <disk>")],
    ),
    "misplaced": (
        domain(extra=f"<disk type='file'>{VDA}</disk>"),
        [("misplaced", "/domain/disk", "it is a child of <devices>")],
    ),
    "text": (domain("stray"), [("text-not-allowed", "/devices", '"stray"')]),
    "text-in-empty": (
        domain(extra="<features><acpi>on</acpi></features>"),
        [("text-not-allowed", "/acpi", "must be empty")],
    ),
    "namespace": (
        domain(attributes="type='kvm' xmlns='urn:x'"),
        [("wrong-namespace", "/*[name()='domain']", 'remove xmlns="urn:x"')],
    ),
    "prefix": (
        domain(
            extra="<q:commandline><q:arg value='-x'/></q:commandline>",
            attributes="type='kvm' xmlns:q='http://libvirt.org/schemas/domain/qemu/1'",
        ),
        [("wrong-namespace", "'q:commandline']", '"http://libvirt.org/schemas/domain/qemu/1.0"')],
    ),
    # What people write who know other tools, or libvirt from memory.
    "password-as-child": (
        domain("<graphics type='vnc'><password>hunter2</password></graphics>"),
        [("unknown-element", "graphics/password", "no child element but the attribute passwd")],
    ),
    "password-as-attribute": (
        domain("<graphics type='vnc' password='hunter2'/>"),
        [("misspelled-attribute", "graphics/@password", "did you mean passwd?")],
    ),
    "vlan-id": (
        nic("<vlan id='5'/>"),
        [("unknown-attribute", "vlan/@id", "; its child <tag> has one")],
    ),
    "vlan-tag": (
        nic("<vlan tag='5'/>"),
        [("unknown-attribute", "vlan/@tag", "no attribute but a child element, <tag id='...'/>")],
    ),
    "vlan-text": (
        nic("<vlan>5</vlan>"),
        [("text-not-allowed", "/vlan", "it belongs into a child, <tag id=...>")],
    ),
    "mac-attribute": (
        nic("", " mac='52:54:00:12:34:56'"),
        [("unknown-attribute", "interface/@mac", "a child element, <mac address='...'/>")],
    ),
    "mac-addr": (
        nic("<mac addr='52:54:00:12:34:56'/>"),
        [("misspelled-attribute", "mac/@addr", "did you mean address?")],
    ),
    "mac-with-dashes": (
        nic("<mac address='52-54-00-12-34-56'/>"),
        [("bad-value", "mac/@address", "its bytes are not separated by :")],
    ),
    "nat": (
        domain("<interface type='nat'><source network='default'/></interface>"),
        [("bad-value", "interface/@type", 'did you mean "network"?')],
    ),
    "vcpu-count": (
        domain(extra="<vcpu count='2'/>"),
        [("unknown-attribute", "vcpu/@count", "no attribute but its text, <vcpu>...</vcpu>")],
    ),
    "cpus": (
        domain(extra="<cpus>2</cpus>"),
        [("misspelled-element", "/cpus", "did you mean <vcpu>?")],
    ),
    "cpu-cores": (
        domain(extra="<cpu cores='2'/>"),
        [("unknown-attribute", "cpu/@cores", "; its child <topology> has one")],
    ),
    "cpu-host": (
        domain(extra="<cpu mode='host'/>"),
        [("bad-value", "cpu/@mode", 'did you mean "host-passthrough"?')],
    ),
    "memory-4GB": (
        domain(extra="<currentMemory>4GB</currentMemory>"),
        [("bad-value", "/currentMemory", "the unit is an attribute: unit='GB'")],
    ),
    "memory-fraction": (
        domain(extra="<currentMemory unit='GiB'>1.5</currentMemory>"),
        [("bad-value", "/currentMemory", "it has a fraction: say it in a smaller unit")],
    ),
    "ram": (
        "<domain type='kvm'><name>g</name><ram>1</ram><os><type>hvm</type></os></domain>",
        [("misspelled-element", "/ram", "did you mean <memory>?")],
    ),
    "format-as-type": (
        disk(VDA, " type='qcow2'"),
        [("bad-value", "disk/@type", "the format of an image is the attribute type of <driver>")],
    ),
    "format-of-disk": (
        disk(VDA, " type='file' format='qcow2'"),
        [("unknown-attribute", "@format", "the format of an image is the attribute type of")],
    ),
    "format-as-child": (
        disk("<format type='qcow2'/>" + VDA),
        [("unknown-element", "disk/format", "the format of an image is the attribute type of")],
    ),
    "source-path": (
        disk("<source path='/x'/>" + TARGET),
        [("misspelled-attribute", "source/@path", "did you mean file?")],
    ),
    "bus-of-qemu": (
        disk(SOURCE + "<target dev='vda' bus='virtio-blk'/>"),
        [("bad-value", "target/@bus", 'did you mean "virtio"?')],
    ),
    "target-path": (
        disk(SOURCE + "<target dev='/dev/vda'/>"),
        [("bad-value", "target/@dev", 'a name without /dev/: "vda"')],
    ),
    "cdrom": (
        domain("<cdrom><source file='/x'/></cdrom>"),
        [("unknown-element", "/cdrom", "a CD-ROM is a <disk> with device='cdrom'")],
    ),
    "capital": (
        domain(f"<Disk type='file'>{VDA}</Disk>"),
        [("misspelled-element", "/Disk", "did you mean <disk>?")],
    ),
    "boot-disk": (
        domain().replace("</type>", "</type><boot dev='disk'/>"),
        [("bad-value", "boot/@dev", 'did you mean "hd"?')],
    ),
    "boot-vda": (
        domain().replace("</type>", "</type><boot dev='vda'/>"),
        [("bad-value", "boot/@dev", "to boot from one device write <boot order='1'/> in that")],
    ),
    "features-text": (
        domain(extra="<features>acpi</features>"),
        [("text-not-allowed", "/features", "it should be a child, <acpi/>")],
    ),
    "feature-of-the-domain": (
        domain(extra="<acpi/>"),
        [("unknown-element", "/acpi", "it is a child of <features>")],
    ),
    "domain-type": (
        domain(attributes="type='qemu-kvm'"),
        [("bad-value", "/domain/@type", 'did you mean "kvm"?')],
    ),
    "commandline": (
        domain(extra="<commandline/>"),
        [("wrong-namespace", "/commandline", '"http://libvirt.org/schemas/domain/qemu/1.0"')],
    ),
    "pci": (
        domain(
            "<hostdev mode='subsystem' type='pci'><source><address>0000:03:00.0</address></source>"
            "</hostdev>"
        ),
        [("text-not-allowed", "/address", "a PCI address is domain='0x0000'")],
    ),
    "emulator-path": (
        domain("<emulator path='/usr/bin/kvm'/>"),
        [("unknown-attribute", "emulator/@path", "no attribute but its text")],
    ),
    "video-model": (
        domain("<video model='qxl'/>"),
        [("unknown-attribute", "video/@model", "a child element, <model type='...'/>")],
    ),
    "pool-target": (
        "<pool type='dir'><name>p</name><target>/a</target></pool>",
        [("text-not-allowed", "/target", "it belongs into a child, <path>")],
    ),
    "pool-of-lvm": (
        "<pool type='lvm'><name>p</name><source/><target><path>/dev/p</path></target></pool>",
        [("bad-value", "pool/@type", 'did you mean "logical"?')],
    ),
    "volume-size": (
        "<volume><name>v</name><size>10</size><target/></volume>",
        [("misspelled-element", "/size", "did you mean <capacity>?")],
    ),
    "forward-text": (
        "<network><name>n</name><forward>nat</forward></network>",
        [("text-not-allowed", "/forward", "it should be the attribute mode")],
    ),
    "bridge-text": (
        "<network><name>n</name><bridge>virbr0</bridge></network>",
        [("text-not-allowed", "/bridge", "it should be the attribute name")],
    ),
    "prefix-in-address": (
        "<network><name>n</name><ip address='10.0.0.1/24'/></network>",
        [("bad-value", "ip/@address", "behind the / is an attribute of its own, prefix")],
    ),
    "secret-value": (
        "<secret ephemeral='no' private='yes'><value>hunter2</value></secret>",
        [("unknown-element", "/value", "virsh secret-set-value")],
    ),
    "two": (
        disk("<source fil='/x'/><target dev='vda' bus='virtoi'/>"),
        [
            ("misspelled-attribute", "source/@fil", "did you mean file?"),
            ("bad-value", "target/@bus", "virtio"),
        ],
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_told_in_words(name: str) -> None:
    """As many findings as there are faults, each at its place."""
    text, expected = MISTAKES[name]
    findings = validate(Document.parse(text))

    assert [id for id, _, _ in expected] == [each.id for each in findings]
    for finding, (_, xpath, said) in zip(findings, expected, strict=True):
        assert finding.xpath.endswith(xpath)
        assert said in finding.message
        assert "\n" not in finding.message
        assert len(finding.message) < 200
        assert finding.link.startswith("https://libvirt.org/format")
        assert finding.name


def test_each_id_of_a_fault_is_a_rule() -> None:
    """And those of these documents are most of them."""
    found = {id for _, expected in MISTAKES.values() for id, _, _ in expected}

    assert found <= set(RULES)
    assert 11 <= len(found)


@pytest.mark.parametrize("name", MISTAKES)
def test_a_verified_repair_makes_the_document_valid(name: str) -> None:
    """All of them together, laid over the bytes."""
    document = Document.parse(MISTAKES[name][0])
    findings = validate(document)
    fixes = [finding.fixes[0] for finding in findings if finding.fixes]
    verified = [fix for fix in fixes if fix.verified]
    for fix in reversed(verified):
        document = apply_fix(document, fix.edit)

    assert len(findings) - len(verified) == len(validate(document))


def test_some_mistakes_have_a_repair_and_some_have_none() -> None:
    """No value is made up."""
    repaired = {
        name
        for name, (text, _) in MISTAKES.items()
        if all(each.fixes and each.fixes[0].verified for each in validate(Document.parse(text)))
    }

    assert {"element", "value", "no-type", "text-for-attribute", "namespace", "two"} <= repaired
    assert repaired.isdisjoint({"uuid", "multicast", "missing-child", "path", "of-a-list"})


def test_a_finding_tells_place_identity_and_what_is_meant() -> None:
    """All of it as data."""
    text, _ = MISTAKES["value"]
    (finding,) = validate(Document.parse(text))
    line = text.split("\n")[finding.line - 1]

    assert line[finding.column - 1 :].startswith("bus='virtoi'")
    assert ("virtio", "disk vda", "bus") == (
        finding.suggestions[0],
        finding.identity,
        finding.name,
    )
    assert "sata" in finding.expected
    assert finding.link.endswith("formatdomain.html#hard-drives-floppy-disks-cdroms")


def test_a_stray_text_is_told_where_it_stands() -> None:
    """Behind children and comments, and in the line in which it begins."""
    text = domain(
        "<disk type='file'><source file='/x'/>\n<target dev='vda'/></disk>\n\n"
        "<!-- a --> <!-- b -->\n  stray"
    )
    (finding,) = validate(Document.parse(text))

    line = text.split("\n")[finding.line - 1]
    assert "  stray" == line
    assert 3 == finding.column
    (fix,) = finding.fixes
    assert fix.verified
    assert () == validate(apply_fix(Document.parse(text), fix.edit))


@pytest.mark.parametrize(
    "inner",
    [
        "<graphics type='vnc' passwdValidTo='HIDE-ME'/>",
        "<graphics type='vnc' passwd='a' port='x'/><graphics type='spice' passwd='HIDE-ME' a='1'/>",
        "<disk type='network'><source protocol='https' name='n'><host name='h'/><cookies>"
        "<cookie name='a'> HIDE-ME\\;</cookie></cookies></source><target dev='vda'/></disk>",
        "<disk type='network'><auth username='HIDE-ME'/><target dev='vda'/></disk>",
        "<disk type='network'><auth username='HIDE ME!'><secret type='ceph' usage='u'/></auth>"
        "<source protocol='rbd' name='n'/><target dev='vda'/></disk>",
    ],
)
def test_no_finding_shows_a_secret(inner: str) -> None:
    """Neither in its message nor in its suggestions and repairs."""
    findings = validate(Document.parse(domain(inner)))

    assert findings
    assert "HIDE" not in repr(findings)


def test_where_nothing_is_found_libxml2_is_quoted(monkeypatch: pytest.MonkeyPatch) -> None:
    """And that the two disagree is said."""
    monkeypatch.setattr(diagnosis, "diagnosed", lambda *_: ())
    findings = validate(Document.parse(MISTAKES["value"][0]))

    assert "schema" in [each.id for each in findings]
    assert ("unexplained", "note") == (findings[-1].id, findings[-1].severity)


def test_an_order_that_only_libxml2_refuses_is_not_hidden() -> None:
    """A name behind the UUID of a guest with an id: RELAX NG allows it."""
    text = domain(attributes="type='kvm' id='1'")
    name = "  <name>guest</name>\n"
    moved = text.replace(name, "").replace("</domain>", f"{name}</domain>")
    findings = validate(Document.parse(moved))

    assert () == validate(Document.parse(text))
    assert [] == [each.id for each in findings] or "unexplained" == findings[-1].id


@pytest.mark.parametrize("depth", [200, 250])
def test_a_deep_document_is_told_or_quoted(depth: int) -> None:
    """No recursion without end."""
    deep = "<a>" * depth + "</a>" * depth
    (*_, last) = validate(Document.parse(domain(extra=f"<metadata>{deep}</metadata><nonsense/>")))

    assert last.message
    assert validate(Document.parse(domain(deep)))


def test_a_document_of_nothing_but_faults_is_bounded() -> None:
    """In findings."""
    findings = validate(Document.parse(domain("<x y='1'>z</x>" * 2000)))

    assert 1 <= len(findings) <= 200


def test_a_name_that_a_newer_libvirt_knows_is_said_to_be_newer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the first of the newer schemas at hand that knows it; others are unknown as before."""
    for version in ("9.0.0", "10.1.0", "99.0.0"):
        shutil.copytree(schemas.directory(), tmp_path / version)
    for version in ("10.1.0", "99.0.0"):
        common = tmp_path / version / "domaincommon.rng"
        old = '<ref name="diskSerial"/>'
        new = '<optional><attribute name="origin"/></optional>' + old
        assert old in common.read_text()
        common.write_text(common.read_text().replace(old, new))
    monkeypatch.setenv("XMLKIT_SCHEMAS", str(tmp_path))
    text = disk(VDA + "<serial origin='a' colour='b'>1</serial>")
    newer, unknown = validate(Document.parse(text), "9.0.0")

    assert newer.message.endswith("; libvirt 10.1.0 knows it")
    assert () == newer.fixes
    assert "libvirt" not in unknown.message
    (unknown,) = validate(Document.parse(text), "99.0.0")
    assert "colour" == unknown.name


@pytest.mark.parametrize("seed", range(3))
def test_whatever_was_changed_is_told_with_places_and_edits(
    libvirt_source: Path, seed: int
) -> None:
    """Every XPath finds one thing, every edit fits; alone and verified, it is the whole repair."""
    random_ = random.Random(seed)  # noqa: S311 - not for secrets
    for sample in random_.sample(corpus.samples(libvirt_source), 120):
        root = copy.deepcopy(Document.parse(sample.path.read_bytes()).root)
        for _ in range(random_.choice((1, 1, 2, 4))):
            elements = list(root.iter(etree.Element))
            one, other = random_.choice(elements), random_.choice(elements)
            kind = random_.choice(sorted(faults.PUTS))
            if len(elements) > 3 and one is not root:
                _ = faults.PUTS[kind]([one, other], random_) if other is not root else None
        document = Document.parse(etree.tostring(root))
        findings = validate(document)
        for finding in findings:
            found = document.root.getroottree().xpath(finding.xpath)
            assert isinstance(found, list)
            assert 1 == len(found), finding.xpath
            for fix in finding.fixes:
                changed = apply_fix(document, fix.edit)
                if fix.verified and len(findings) == 1:
                    assert () == validate(changed), fix


# How good it is.


def told(findings: tuple[Finding, ...]) -> list[Told]:
    return [Told(each.line, each.message, each.suggestions, each.xpath) for each in findings]


@pytest.mark.parametrize(
    ("names", "each"), [pytest.param(MAIN, 20, id="main"), pytest.param(OTHERS, 10, id="others")]
)
def test_the_first_finding_is_right(
    libvirt_source: Path, names: tuple[str, ...], each: int
) -> None:
    """The line in 99 of 100, name, what was meant and XPath in 98; few follow-ons."""
    scores = []
    found = 0
    by_kind: dict[str, list[bool]] = defaultdict(list)
    for case in faults.cases(libvirt_source, seed=7, each=each, names=names):
        findings = validate(Document.parse(case.source))
        score = faults.score(case.faults[0], told(findings)[0])
        by_kind[case.faults[0].kind].append(score.named)
        scores.append(score)
        found += len(findings)

    assert 12 * each * 0.9 <= len(scores)
    for number, name in enumerate(faults.Score._fields):
        least = 0.99 if name == "line" else 0.98
        assert least <= sum(score[number] for score in scores) / len(scores), name
    assert all(0.9 <= sum(hits) / len(hits) for hits in by_kind.values()), by_kind
    assert found / len(scores) <= 1.05


def test_two_faults_are_both_found(libvirt_source: Path) -> None:
    """In 99 of 100 documents at the least, and little else."""
    both = []
    found = 0
    for case in faults.cases(libvirt_source, seed=8, each=8, names=MAIN, together=2):
        said = told(validate(Document.parse(case.source)))
        both.append(all(any(faults.score(x, y).named for y in said) for x in case.faults))
        found += len(said)

    assert 80 <= len(both)
    assert 0.99 <= sum(both) / len(both)
    assert found / len(both) <= 2.1


def test_the_score_can_fail(libvirt_source: Path) -> None:
    """libxml2's own words name the line in a quarter of these documents."""
    scores = []
    for case in faults.cases(libvirt_source, seed=7, each=5, names=MAIN):
        root = etree.fromstring(case.source)
        schema = schemas.compiled(schemas.directory(), case.schema)
        assert not schema.validate(copy.deepcopy(root))
        entry = schema.error_log[0]
        scores.append(faults.score(case.faults[0], Told(entry.line, entry.message)))

    assert sum(score.line for score in scores) / len(scores) < 0.6
    assert sum(score.named for score in scores) / len(scores) < 0.5
