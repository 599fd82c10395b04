"""Guests that Nova builds, with the seams in the way: what changes, what stays, what Nova reads."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import guests
import pytest
from guests import GUESTS, MIGRATED, UUID
from lookups import Seen
from lxml import etree
from nova import context, exception, objects
from nova.virt.libvirt import utils

import xmlkit.nova
from xmlkit import names
from xmlkit.disks import read_domain
from xmlkit.document import Document
from xmlkit.host import Host, Pool, Volume
from xmlkit.nova.builder import to_paths, to_volumes
from xmlkit.transformers import transform
from xmlkit.validation.verdict import validate

DISKS = ("disk", "disk.local", "disk.eph0", "disk.eph1", "disk.swap", "disk.rescue")
# What libvirt's schema refuses before anything is rewritten: flavors and containers of Nova's that
# it knows better.
INVALID = frozenset(("lxc",))


@pytest.fixture
def scene(nova_case: Any, tmp_path: Path) -> Iterator[Callable[[Host], Seen]]:
    """Nova's fixtures in a directory of the test's; called with a host, it puts the seams in."""
    guests.prepare(nova_case, str(tmp_path))

    def start(host: Host) -> Seen:
        lookup = Seen(host)
        xmlkit.nova.enable(lookup=lookup, destination=lambda _: lookup.seen)
        return lookup

    yield start
    xmlkit.nova.disable()


def host_of(instances: Path, images_type: str = "qcow2") -> Host:
    """A host whose pool has every disk that the instance could have."""
    pool, directory = "nova-disks-pool", f"{instances}/disks"
    files = tuple(
        Volume(pool, f"{UUID}_{name}", f"{directory}/{UUID}_{name}", capacity=1) for name in DISKS
    )
    blocks = tuple(
        Volume("vg", f"{UUID}_{name}", f"/dev/vg/{UUID}_{name}", "block", "raw") for name in DISKS
    )
    pools = (
        Pool(pool, "dir", directory, volumes=files),
        Pool("vg", "logical", "/dev/vg", volumes=blocks),
    )
    return Host(9_000_000, "qemu", (), (pools[images_type == "lvm"],))


def disks_of(xml: str) -> dict[str, str]:
    """Each disk as it is written, by its target."""
    document = Document.parse(xml)
    return {each.target: document.text_of(each.element) for each in read_domain(document).disks}


def local(xml: str) -> set[str]:
    """The targets of the disks that are the instance's own and could be volumes."""
    found = set()
    for disk in read_domain(Document.parse(xml)).disks:
        kind = names.kind_of(names.nova_name(disk.address.path or "") or "")
        if kind in ("root", "ephemeral", "swap") and not disk.owner:
            found.add(disk.target)
    return found


def test_there_are_as_many_guests_as_are_asked_for() -> None:
    """At least 44 guests and 8 live migrations."""
    assert len(GUESTS) >= 44
    assert len(MIGRATED) >= 8


@pytest.mark.parametrize("name", GUESTS)
def test_a_guest_is_written_onto_its_volumes(
    nova_case: Any, scene: Callable[[Host], Seen], tmp_path: Path, name: str
) -> None:
    """Its own disks change and no others; valid stays valid; the inverse gives the original."""
    plain = guests.xml_of(GUESTS[name], guests.driver_of(nova_case, GUESTS[name]))
    host = host_of(tmp_path, GUESTS[name].images_type)
    scene(host)
    xml = guests.xml_of(GUESTS[name], guests.driver_of(nova_case, GUESTS[name]))

    before, after = disks_of(plain), disks_of(xml)
    expected = local(plain)
    assert expected == {target for target in before if before[target] != after[target]}
    assert (name in INVALID) == bool(validate(Document.parse(plain)))
    assert bool(validate(Document.parse(plain))) == bool(validate(Document.parse(xml)))
    if GUESTS[name].rescue is not None:
        # Nova puts a guest's old XML aside while it rescues it: no disk gets another form, but
        # each is where its image is
        assert all(f'file="{tmp_path}/disks/{UUID}_disk' in after[target] for target in expected)
        return
    assert all('type="volume"' in after[target] for target in expected)

    rewritten = to_volumes(plain, host)
    assert rewritten.result == xml
    assert plain == transform(Document.parse(xml), rewritten.plan.inverse()).text
    assert xml == to_volumes(xml, host).result
    back = to_paths(xml, host)
    assert xml == to_volumes(back.result, host).result
    assert expected == {each.target for each in back.changes}


@pytest.mark.parametrize("name", GUESTS)
def test_a_guest_without_volumes_is_as_nova_writes_it(
    nova_case: Any, scene: Callable[[Host], Seen], name: str
) -> None:
    """A legacy disk is rewritten only if its volume exists."""
    plain = guests.xml_of(GUESTS[name], guests.driver_of(nova_case, GUESTS[name]))
    scene(Host())
    assert plain == guests.xml_of(GUESTS[name], guests.driver_of(nova_case, GUESTS[name]))


@pytest.mark.parametrize("name", MIGRATED)
def test_a_guest_migrates_onto_volumes(
    nova_case: Any, scene: Callable[[Host], Seen], tmp_path: Path, name: str
) -> None:
    """As above, for what Nova makes of it for another host."""
    made = guests.driver_of(nova_case, GUESTS[name])
    running = guests.xml_of(GUESTS[name], made)
    plain = guests.migrated(GUESTS[name], running, made)
    host = host_of(tmp_path, GUESTS[name].images_type)
    scene(host)
    xml = guests.migrated(GUESTS[name], running, made)

    before, after = disks_of(plain), disks_of(xml)
    expected = local(plain)
    assert expected == {target for target in before if before[target] != after[target]}
    assert all('type="volume"' in after[target] for target in expected)
    assert bool(validate(Document.parse(plain))) == bool(validate(Document.parse(xml)))
    rewritten = to_volumes(plain, host, live=True)
    assert plain == transform(Document.parse(xml), rewritten.plan.inverse()).text


def test_text_bytes_trees_and_novas_objects_are_taken(
    nova_case: Any, scene: Callable[[Host], Seen], tmp_path: Path
) -> None:
    """The result is of the kind that came in, and what came in is as it was."""
    made = guests.driver_of(nova_case, GUESTS["qcow2-ephemeral-swap"])
    kept = []
    original = made._get_guest_config

    def get_guest_config(*args: Any, **kwargs: Any) -> Any:
        kept.append(original(*args, **kwargs))
        return kept[0]

    with mock.patch.object(made, "_get_guest_config", get_guest_config):
        text = guests.xml_of(GUESTS["qcow2-ephemeral-swap"], made)
    host = host_of(tmp_path)
    found = to_volumes(kept[0], host)
    assert isinstance(found.result, etree._Element)
    assert text == kept[0].to_xml()
    expected = to_volumes(text, host).result
    assert to_volumes(text.encode(), host).result == expected.encode()
    plain = etree.XMLParser(remove_blank_text=True)
    tree = etree.fromstring(expected.encode(), plain)
    assert etree.tostring(tree, method="c14n") == etree.tostring(found.result, method="c14n")


@pytest.mark.parametrize(
    "name", [name for name in GUESTS if name.startswith(("qcow2", "raw", "default", "bfv-eph"))]
)
def test_nova_reads_volumes_as_it_reads_files(
    nova_case: Any, scene: Callable[[Host], Seen], tmp_path: Path, name: str
) -> None:
    """find_disk, the disks' information, what a migration copies, get_disk: the same answers."""
    wanted = GUESTS[name]
    made = guests.driver_of(nova_case, wanted)
    xml = guests.xml_of(wanted, made)
    host = host_of(tmp_path)
    pool = tmp_path / "disks"
    pool.mkdir()
    for disk in read_domain(Document.parse(xml)).disks:
        path = disk.address.path
        if disk.address.type != "file" or path is None or not path.startswith(str(tmp_path)):
            continue
        os.makedirs(os.path.dirname(path), exist_ok=True)
        if not os.path.exists(path):
            run = ["qemu-img", "create", "-q", "-f", disk.image_format, path, "4M"]
            subprocess.run(run, check=True)
        if names.kind_of(os.path.basename(path)) != "config":
            os.link(path, pool / f"{UUID}_{os.path.basename(path)}")
    volumes = to_volumes(xml, host).result
    as_files = answers(nova_case, wanted, made, to_paths(volumes, host).result)
    scene(host_of(tmp_path))
    assert as_files == answers(nova_case, wanted, made, volumes)


def answers(case: Any, wanted: guests.Guest, made: Any, xml: str) -> list[Any]:
    """What Nova's readers say of a domain."""
    guest = guests.guest_of(xml, made._host.get_connection)
    attached = guests.block_device_info_of(wanted)
    instance = guests.instance_of(wanted)
    with (
        mock.patch.object(made._host, "get_guest", return_value=guest),
        mock.patch.object(objects.BlockDeviceMappingList, "get_by_instance_uuid", return_value=[]),
        mock.patch("nova.virt.driver.get_block_device_info", return_value=attached),
    ):
        found = [
            utils.find_disk(guest),
            made._get_instance_disk_info(instance, attached),
            made._live_migration_copy_disk_paths(context.get_admin_context(), instance, guest),
        ]
    path = utils.find_disk(guest)[0]
    disk = guest.get_disk(path)
    found.append(None if disk is None else (disk.target_dev, disk.source_type, disk.source_path))
    found.append([each.source_path for each in guest.get_all_disks()])
    return found


def test_a_volume_without_a_path_is_an_error_and_not_lost(
    nova_case: Any, scene: Callable[[Host], Seen], tmp_path: Path
) -> None:
    """Nova alone takes such a disk for none at all; with the seams it says which volume it is."""
    made = guests.driver_of(nova_case, GUESTS["qcow2"])
    xml = guests.xml_of(GUESTS["qcow2"], made)
    volumes = to_volumes(xml, host_of(tmp_path)).result
    guest = guests.guest_of(volumes, made._host.get_connection)
    assert [None] == [each.source_path for each in guest.get_all_disks()]
    scene(Host())
    for ask in (guest.get_config, guest.get_all_disks, lambda: guest.get_disk("vda")):
        with pytest.raises(exception.DiskNotFound, match=f"nova-disks-pool/{UUID}_disk"):
            ask()


def test_a_block_job_finds_a_volume_by_its_target(
    nova_case: Any, scene: Callable[[Host], Seen], tmp_path: Path
) -> None:
    """libvirt does not know a volume disk by the path that Nova has of it."""
    made = guests.driver_of(nova_case, GUESTS["qcow2"])
    xml = guests.xml_of(GUESTS["qcow2"], made)
    scene(host_of(tmp_path))
    host = host_of(tmp_path)
    guest = guests.guest_of(to_volumes(xml, host).result, made._host.get_connection)
    path = host.pools[0].by_name[f"{UUID}_disk"].path
    assert path == utils.find_disk(guest)[0]
    assert "vda" == guest.get_block_device(path)._disk
    assert "/elsewhere" == guest.get_block_device("/elsewhere")._disk
    assert "vda" == guest.get_block_device("vda")._disk


@pytest.mark.parametrize("copied", [["vda"], None])
def test_a_copied_disk_arrives_as_a_path_and_stays_a_volume(
    nova_case: Any, scene: Callable[[Host], Seen], tmp_path: Path, copied: list[str] | None
) -> None:
    """libvirt does not copy onto volumes, but keeps them in the persistent XML."""
    made = guests.driver_of(nova_case, GUESTS["qcow2"])
    xml = guests.xml_of(GUESTS["qcow2"], made)
    scene(host_of(tmp_path))
    volumes = to_volumes(xml, host_of(tmp_path)).result
    guest = guests.guest_of(volumes, made._host.get_connection)
    asked = mock.Mock()
    guest._domain.migrateToURI3 = asked
    guest.migrate("qemu+tcp://there/system", migrate_disks=copied, destination_xml=volumes)
    params = asked.call_args.kwargs["params"]
    assert volumes == params["persistent_xml"]
    live = to_paths(volumes, host_of(tmp_path)).result if copied else volumes
    assert live == params["destination_xml"]
