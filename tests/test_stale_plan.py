"""A plan is done to the domain that it was made for, or not at all.

Rules: what has changed in a planned disk since is refused, in words; nothing is half done.
"""

from __future__ import annotations

import pytest

from xmlkit.document import Document
from xmlkit.host import Host, Pool
from xmlkit.plan import Plan, PlanError, plan
from xmlkit.transformers import transform

HOST = Host(pools=(Pool("images", "dir", "/img"),))
DISK = "<disk type='file'><driver type='qcow2'/><source file='/img/a'/><target dev='vda'/></disk>"
GUEST = (
    "<domain type='kvm'><name>g</name><uuid>3f2c1c8e-0d4b-4a7e-9b1a-6d5f0e9c7a11</uuid>"
    f"<devices>{DISK}</devices></domain>"
)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        pytest.param("<target dev='vda'/>", "<target dev='vda'/><transient/>", id="transient"),
        pytest.param("'/img/a'/>", "'/img/a' fdgroup='f'/>", id="fdgroup"),
        pytest.param("<disk type='file'>", "<disk type='file' device='cdrom'>", id="device"),
        pytest.param("type='qcow2'", "type='raw'", id="format"),
        pytest.param("/img/a", "/img/b", id="path"),
        pytest.param("'vda'", "'vdb'", id="target"),
        pytest.param(DISK, DISK + DISK, id="target-twice"),
        pytest.param("<domain type='kvm'>", "<domain type='kvm' id='4'>", id="running"),
        pytest.param("9c7a11", "9c7a12", id="uuid"),
        pytest.param(
            "<name>g</name><uuid>3f2c1c8e-0d4b-4a7e-9b1a-6d5f0e9c7a11</uuid>",
            "<name>other</name>",
            id="name-without-uuid",
        ),
    ],
)
def test_what_has_changed_is_refused(old: str, new: str) -> None:
    """A planned disk that says anything else, or another domain."""
    made = Plan.from_json(plan(Document.parse(GUEST), HOST).to_json())
    changed = GUEST.replace(old, new)
    assert changed != GUEST

    with pytest.raises(PlanError):
        transform(Document.parse(changed), made)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        pytest.param("'", '"', id="quotes"),
        pytest.param("<driver type='qcow2'/>", "<driver type='qcow2'></driver>", id="empty-tag"),
        pytest.param("<name>g</name>", "<name>renamed</name>", id="name"),
        pytest.param("<devices>", "<vcpu>2</vcpu><devices>", id="beside-the-disk"),
    ],
)
def test_what_is_only_written_otherwise_is_done(old: str, new: str) -> None:
    """The same disk in other words, and changes elsewhere, are no reason to refuse."""
    made = plan(Document.parse(GUEST), HOST)
    after = transform(Document.parse(GUEST.replace(old, new)), made)

    assert "volume" == after.root.find("devices/disk").get("type")  # type: ignore[union-attr]


def test_a_relative_namespace_is_no_obstacle() -> None:
    """Canonical XML cannot have one; the way back gives the same bytes all the same."""
    document = Document.parse(GUEST.replace("<disk ", "<disk xmlns:x='rel' "))
    made = plan(document, HOST)

    assert document.source == transform(transform(document, made), made.inverse()).source


def test_a_uuid_without_dashes_is_one() -> None:
    """libvirt takes it; a disk in the instance's directory is found by it."""
    uuid = "3f2c1c8e-0d4b-4a7e-9b1a-6d5f0e9c7a11"
    text = GUEST.replace("/img/a", f"/instances/{uuid}/disk")
    document = Document.parse(text.replace(f"<uuid>{uuid}", f"<uuid>{uuid.replace('-', '')}"))
    (disk,) = plan(document, HOST, relocate={None: "images"}).transitions

    assert f"{uuid}_disk" == disk.after.volume
