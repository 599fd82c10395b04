"""The config builder without a Nova: what it takes, what it leaves, what it says."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
from lxml import etree

from xmlkit.document import Document, DocumentError
from xmlkit.host import Host, Pool, Volume
from xmlkit.nova.builder import to_paths, to_volumes
from xmlkit.plan import PlanError
from xmlkit.transformers import transform

FIXTURES = Path(__file__).parents[1] / "fixtures"
GUESTS = sorted((FIXTURES / "nova").rglob("*.xml"))
UUID = "3f2c1c8e-0d4b-4a7e-9b1a-6d5f0e9c7a11"
POOL = "nova-disks-pool"
DIRECTORY = "/var/lib/nova/instances/disks"
NAMES = ("disk", "disk.local", "disk.eph0", "disk.swap")


def host(*names: str, security: tuple[str, ...] = (), format: str | None = None) -> Host:
    """A host whose pool has the volumes of these disks of the instance."""
    volumes = tuple(
        Volume(POOL, f"{UUID}_{name}", f"{DIRECTORY}/{UUID}_{name}", format=format)
        for name in names
    )
    return Host(9_000_000, "qemu", security, (Pool(POOL, "dir", DIRECTORY, volumes=volumes),))


def guest(name: str = "qcow2-ephemeral-swap") -> str:
    """The XML of a guest that Nova has built."""
    return (FIXTURES / "nova" / f"{name}.xml").read_text()


@pytest.mark.parametrize("path", GUESTS, ids=lambda path: path.stem)
def test_there_and_back_is_the_original(path: Path) -> None:
    """The plan's inverse gives the bytes back; paths and volumes change into each other."""
    text = path.read_text()
    live = path.parent.name == "live-migrated"
    found = to_volumes(text, host(*NAMES), live=live)
    assert text == transform(Document.parse(found.result), found.plan.inverse()).text
    assert found.result == to_volumes(found.result, host(*NAMES), live=live).result
    back = to_paths(found.result, host(*NAMES))
    assert len(found.changes) == len(back.changes)
    assert found.result == to_volumes(back.result, host(*NAMES), live=live).result


def test_only_volumes_that_are_there_count() -> None:
    """Each disk for itself; one whose volume nobody has seen stays, with the reason."""
    found = to_volumes(guest(), host("disk.swap"))
    assert ["disk.swap"] == [(each.after.volume or "")[37:] for each in found.changes]
    assert {"no-volume"} == {each.reason.id for each in found.skips}
    unseen = Host(9_000_000, "qemu", (), (Pool(POOL, "dir", f"/var/lib/nova/instances/{UUID}"),))
    assert guest() == to_volumes(guest(), unseen).result


def test_kinds_come_out_as_they_went_in() -> None:
    """Text as text, bytes as bytes, a tree as a new tree; what came in is as it was."""
    text = guest()
    expected = to_volumes(text, host(*NAMES)).result
    assert expected.encode() == to_volumes(text.encode(), host(*NAMES)).result
    tree = etree.fromstring(text.encode())
    before = etree.tostring(tree)
    found = to_volumes(tree, host(*NAMES)).result
    assert before == etree.tostring(tree)
    canonical = etree.tostring(etree.fromstring(expected.encode()), method="c14n")
    assert canonical == etree.tostring(found, method="c14n")
    assert found.getparent() is None

    @dataclass
    class Config:
        """As nova.virt.libvirt.config has them."""

        def format_dom(self) -> etree._Element:
            return etree.fromstring(text.encode())

    assert canonical == etree.tostring(to_volumes(Config(), host(*NAMES)).result, method="c14n")


def test_what_is_no_guest_is_refused() -> None:
    """By an error that says what was given."""
    with pytest.raises(TypeError, match="int"):
        to_volumes(1, host())  # type: ignore[arg-type]
    with pytest.raises(DocumentError):
        to_volumes("<domain>", host())
    with pytest.raises(PlanError, match="volume"):
        to_paths("<volume/>", host())


def test_a_host_with_apparmor_keeps_paths_of_the_volumes() -> None:
    """The disk is where its image is, and the finding says why it is no volume."""
    found = to_volumes(guest(), host(*NAMES, security=("apparmor",)))
    assert {"path"} == {each.disk_type for each in found.changes}
    assert {"apparmor"} == {each.id for each in found.findings}
    assert f'file="{DIRECTORY}/{UUID}_disk"' in found.result
    assert all(each.line > 1 for each in found.findings)


def test_a_format_that_a_guest_may_have_written_decides_nothing() -> None:
    """A raw disk in which libvirt sees qcow2 stays on its path."""
    found = to_volumes(guest("raw-file"), host(*NAMES, format="qcow2"))
    assert guest("raw-file") == found.result
    assert ["format-disagrees"] == [each.id for each in found.findings]


def test_a_running_guest_is_read_with_all_that_libvirt_has_filled_in() -> None:
    """Only the address changes on the way to paths: index and backing chain are read, too."""
    live = (
        "<domain type='kvm' id='3'><name>g</name><devices><disk type='volume' device='disk'>"
        "<driver name='qemu' type='qcow2'/>"
        f"<source pool='{POOL}' volume='{UUID}_disk' index='1'/>"
        "<backingStore type='file' index='2'><format type='raw'/><source file='/b'/>"
        "</backingStore><target dev='vda'/></disk></devices></domain>"
    )
    found = to_paths(live, host("disk")).result
    assert "<backingStore type='file' index='2'>" in found
    source = Document.parse(found).root.find("devices/disk/source")
    assert source is not None
    assert {"index": "1", "file": f"{DIRECTORY}/{UUID}_disk"} == dict(source.attrib)
    assert live == to_paths(live, host()).result
