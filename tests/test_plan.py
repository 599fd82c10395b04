"""Plan: what becomes of each disk, and why nothing does.

- For each reason: the smallest document that shows it, and a near miss, one step away, that must
  not have it.
- The format comes from the domain; what a pool says can only stop a disk, shown on a real libvirtd.
- A host that cannot have volume disks gets the same volume by its path.
- A plan is data: it comes back from JSON as it was, and nothing else comes back at all.
"""

from __future__ import annotations

import copy
import inspect
import json
import re
import struct
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

import jsonschema
import libvirt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xmlkit import (
    Address,
    Document,
    Host,
    Plan,
    PlanError,
    Pool,
    Reason,
    Skip,
    Transition,
    Volume,
    parse_host,
    transform,
)
from xmlkit import plan as planning
from xmlkit.errors import XmlkitError
from xmlkit.observe import observe, opened
from xmlkit.plan import plan, plans_from_json
from xmlkit.testing import Libvirtd

ROOT = Path(__file__).parents[1]
FIXTURES = ROOT / "fixtures"
SCHEMA = json.loads((ROOT / "schemas/plan-1.json").read_text())
# What the command says of documents as such; all other ids are reasons.
UUID = "3f2c1c8e-0d4b-4a7e-9b1a-6d5f0e9c7a11"
INSTANCE = f"/var/lib/nova/instances/{UUID}"
DISKS = "/var/lib/nova/instances/disks"


def volume(pool: str, name: str, path: str, format_: str, type_: str = "file") -> Volume:
    return Volume(pool, name, path, type=type_, format=format_)


IMAGES = Pool(
    "images",
    "dir",
    "/srv/images",
    volumes=(
        volume("images", "a.qcow2", "/srv/images/a.qcow2", "qcow2"),
        volume("images", "b.raw", "/srv/images/b.raw", "raw"),
        volume("images", "config.iso", "/srv/images/config.iso", "iso"),
    ),
)
VG = Pool("vg", "logical", "/dev/vg", volumes=(volume("vg", "lv", "/dev/vg/lv", "raw", "block"),))
NOVA = Pool("nova", "dir", DISKS, volumes=())
ISCSI = Pool(
    "iscsi",
    "iscsi",
    "/dev/disk/by-path",
    volumes=(volume("iscsi", "unit:0:0:1", "/dev/disk/by-path/lun-1", "raw", "block"),),
)
CEPH = Pool(
    "ceph", "rbd", "", volumes=(volume("ceph", "image", "rbd/image", "raw", type_="network"),)
)
HOST = Host(9_000_000, "qemu", ("dac",), (IMAGES, VG, NOVA, ISCSI, CEPH))


def with_pools(*pools: Pool, host: Host = HOST) -> Host:
    """The host with these pools in the place of those of the same names."""
    names = {pool.name for pool in pools}
    return replace(host, pools=(*(p for p in host.pools if p.name not in names), *pools))


def without_volumes(pool: Pool) -> Pool:
    """The pool as `--pool` says it."""
    return replace(pool, volumes=None)


def text(name: str, old: str = "", new: str = "") -> str:
    """A document of fixtures/, with one of its parts replaced."""
    whole = (FIXTURES / f"{name}.xml").read_text()
    assert old in whole
    return whole.replace(old, new, 1) if old else whole


def fixture(name: str) -> Document:
    return Document.parse(text(name))


def domain(disks: str, *, uuid: str = UUID, type_: str = "kvm", metadata: str = "") -> Document:
    """A domain with these disks."""
    return Document.parse(
        f"<domain type='{type_}'><name>guest</name><uuid>{uuid}</uuid>{metadata}"
        f"<devices>{disks}</devices></domain>"
    )


def file_disk(path: str, format_: str | None = "qcow2", target: str = "vda") -> str:
    driver = "" if format_ is None else f"<driver name='qemu' type='{format_}'/>"
    return f"<disk type='file'>{driver}<source file='{path}'/><target dev='{target}'/></disk>"


def volume_disk(pool: str, name: str, format_: str = "qcow2", target: str = "vda") -> str:
    return (
        f"<disk type='volume'><driver name='qemu' type='{format_}'/>"
        f"<source pool='{pool}' volume='{name}'/><target dev='{target}'/></disk>"
    )


def what(disk: Transition | Skip) -> str:
    """In a word: the reason of a skip; else the action and the form."""
    return disk.reason.id if isinstance(disk, Skip) else f"{disk.action} {disk.disk_type}"


def only(made: Plan) -> Transition | Skip:
    (disk,) = made.disks
    return disk


def transition(made: Plan) -> Transition:
    disk = only(made)
    assert isinstance(disk, Transition), disk
    return disk


# Why not: each reason, and its near miss.


class Case(NamedTuple):
    """A reason, and the document, host and options that have it; then the near miss.

    near: its document, near_host and near_options: what is different there. instead: what becomes
    of the disk in the near miss.
    """

    reason: str
    document: str
    instead: str
    near: str | None = None
    host: Host = HOST
    near_host: Host | None = None
    options: Mapping[str, Any] = MappingProxyType({})
    near_options: Mapping[str, Any] | None = None


TO_PATH: dict[str, Any] = {"to": "path"}
RELOCATE: dict[str, Any] = {"relocate": {None: "nova"}}
OTHER_METADATA = ("xmlns:nova='http://openstack.org/", "xmlns:nova='http://example.org/")
MIRROR = re.search(r"<mirror.*</mirror>", text("mirror"), re.DOTALL)[0]  # type: ignore[index]
APPARMOR = replace(HOST, security_models=("apparmor", "dac"))
PLAIN = text("file-in-pool")
VOLUME = text("volume-disk")
SOURCE = "<source file='/srv/images/a.qcow2'/>"


def images(*volumes: Volume) -> Host:
    """The host with nothing but these volumes in its pool of images."""
    return with_pools(replace(IMAGES, volumes=volumes))


def image(format_: str | None = None, *, type_: str = "file", link: bool = False) -> Host:
    """The host with one image, of which the pool says this."""
    path = "/srv/images/a.qcow2"
    return images(Volume("images", "a.qcow2", path, type=type_, format=format_, link=link))


BARE = with_pools(replace(IMAGES, volumes=None))
STOPPED = with_pools(replace(IMAGES, volumes=None, active=False))

CASES = {
    "transient": Case(
        "transient",
        text("transient"),
        near=text("transient", "<transient/>", "<shareable/>"),
        instead="adopt volume",
    ),
    "lun-type": Case(
        "lun-type",
        text("file-in-pool", "<disk type='file'", "<disk type='file' device='lun'"),
        near=PLAIN,
        instead="adopt volume",
    ),
    "lun-reservations": Case(
        "lun-reservations",
        text("lun-reservations"),
        near=text("lun-reservations", "<reservations managed='yes'/>", ""),
        instead="adopt volume",
    ),
    "fdgroup": Case(
        "fdgroup",
        text("fdgroup"),
        near=text("fdgroup", " fdgroup='descriptors'", ""),
        instead="adopt volume",
    ),
    "mirror": Case(
        "mirror", text("mirror"), near=text("mirror", MIRROR, ""), instead="adopt volume"
    ),
    "mirror, to path": Case(
        "mirror",
        text("volume-disk", "<target", MIRROR + "<target"),
        near=VOLUME,
        options=TO_PATH,
        instead="adopt path",
    ),
    "live": Case("live", text("live"), near=text("live", " id='7'", ""), instead="adopt volume"),
    "live, said to be so": Case(
        "live", text("live"), near_options={"live": True}, instead="adopt volume"
    ),
    "live, to path": Case(
        "live",
        text("volume-disk", "'kvm'", "'kvm' id='7'"),
        near=VOLUME,
        options=TO_PATH,
        instead="adopt path",
    ),
    "symlink": Case(
        "symlink", PLAIN, host=image(link=True), near_host=image(), instead="adopt volume"
    ),
    "symlink, to path": Case(
        "symlink",
        VOLUME,
        host=image(link=True),
        near_host=image(),
        options=TO_PATH,
        instead="adopt path",
    ),
    "source-type": Case(
        "source-type",
        text("network-disk"),
        near=text("no-driver-type", SOURCE, "<source file='/srv/images/b.raw'/>"),
        instead="adopt volume",
    ),
    "source-type, to path": Case(
        "source-type",
        text("network-disk"),
        near=VOLUME,
        options=TO_PATH,
        instead="adopt path",
    ),
    "source-type, of the volume": Case(
        "source-type", PLAIN, host=image(type_="dir"), near_host=image(), instead="adopt volume"
    ),
    "pool-type, a block disk in a directory": Case(
        "pool-type",
        text("block-in-directory"),
        near=PLAIN,
        instead="adopt volume",
    ),
    "pool-type, a file in a volume group": Case(
        "pool-type",
        PLAIN,
        host=with_pools(Pool("images", "logical", "/srv/images")),
        near_host=with_pools(Pool("images", "netfs", "/srv/images")),
        instead="adopt volume",
    ),
    "pool-type, to path": Case(
        "pool-type",
        VOLUME,
        host=with_pools(Pool("images", "rbd", "")),
        near_host=with_pools(Pool("images", "fs", "/srv/images")),
        options=TO_PATH,
        instead="adopt path",
    ),
    "pool-type, over the network": Case(
        "pool-type",
        text("volume-direct"),
        near=text("volume-direct", "'direct'", "'host'"),
        options=TO_PATH,
        instead="adopt path",
    ),
    "pool-type, of a move": Case(
        "pool-type",
        text("nova-root"),
        options={"relocate": {None: "vg"}},
        near_options=RELOCATE,
        instead="move volume",
    ),
    "pool-inactive": Case(
        "pool-inactive", PLAIN, host=STOPPED, near_host=BARE, instead="adopt volume"
    ),
    "pool-inactive, to path": Case(
        "pool-inactive",
        VOLUME,
        host=STOPPED,
        near_host=with_pools(replace(IMAGES, autostart=False)),
        options=TO_PATH,
        instead="adopt path",
    ),
    "pool-inactive, of a move": Case(
        "pool-inactive",
        text("nova-root"),
        host=with_pools(replace(NOVA, active=False, volumes=None)),
        near_host=HOST,
        options=RELOCATE,
        instead="move volume",
    ),
    "no-pool": Case(
        "no-pool",
        VOLUME,
        host=Host(9_000_000, "qemu"),
        near_host=HOST,
        options=TO_PATH,
        instead="adopt path",
    ),
    "no-volume": Case("no-volume", PLAIN, host=images(), near_host=BARE, instead="adopt volume"),
    "no-volume, to path": Case(
        "no-volume",
        VOLUME,
        host=images(),
        near_host=BARE,
        options=TO_PATH,
        instead="adopt path",
    ),
    "no-volume, a path that only libvirt knows": Case(
        "no-volume",
        text("volume-direct", "mode='direct'", ""),
        host=with_pools(replace(ISCSI, volumes=None)),
        near_host=HOST,
        options=TO_PATH,
        instead="adopt path",
    ),
    "bad-name": Case(
        "bad-name",
        text("dot-dot"),
        near=text("dot-dot", "/..'", "/..a'"),
        host=BARE,
        instead="adopt volume",
    ),
    "bad-name, a tab": Case(
        "bad-name",
        text("tab-in-name"),
        near=text("tab-in-name", "a&#9;b", "a b"),
        host=BARE,
        instead="adopt volume",
    ),
    "bad-name, to path": Case(
        "bad-name",
        text("volume-disk", "a.qcow2", ".."),
        near=VOLUME,
        options=TO_PATH,
        instead="adopt path",
    ),
    "bad-name, of the pool": Case(
        "bad-name",
        PLAIN,
        host=Host(pools=(Pool("a/b", "dir", "/srv/images"),)),
        near_host=Host(pools=(Pool("a b", "dir", "/srv/images"),)),
        instead="adopt volume",
    ),
    "volume-taken": Case(
        "volume-taken",
        text("nova-root"),
        host=with_pools(replace(NOVA, volumes=(Volume("nova", f"{UUID}_disk", "/x"),))),
        near_host=with_pools(replace(NOVA, volumes=(Volume("nova", f"{UUID}_disk2", "/x"),))),
        options=RELOCATE,
        instead="move volume",
    ),
    "volume-taken, by another disk": Case(
        "volume-taken",
        text("shared-image"),
        near=text("shared-image", f"{UUID}/disk'", f"{UUID}/disk.local'"),
        options=RELOCATE,
        instead="move volume",
    ),
    "cinder, by its serial": Case(
        "cinder",
        text("cinder-serial"),
        near=text("cinder-serial", *OTHER_METADATA),
        instead="adopt volume",
    ),
    "cinder, by its alias": Case(
        "cinder",
        text("cinder-alias"),
        near=text("cinder-alias", "'ua-", "'user-"),
        instead="adopt volume",
    ),
    "config-drive": Case(
        "config-drive",
        text("config-drive"),
        near=text("config-drive", "disk.config'", "disk.configs'"),
        instead="outside-pools",
    ),
    "config-drive, without metadata": Case(
        "config-drive",
        text("config-drive", *OTHER_METADATA),
        near=text("config-drive", *OTHER_METADATA).replace(f"<uuid>{UUID[:-1]}", "<uuid>0"),
        instead="outside-pools",
    ),
    "rescue": Case(
        "rescue",
        text("rescue"),
        near=text("rescue", "disk.rescue'", "disk.rescued'"),
        instead="outside-pools",
    ),
    "rescue, without metadata": Case(
        "rescue",
        text("rescue"),
        near=text("rescue", *OTHER_METADATA),
        instead="outside-pools",
    ),
    "empty": Case(
        "empty",
        text("empty-drive"),
        near=text("empty-drive", "<target", "<source file='/srv/images/config.iso'/><target"),
        instead="adopt volume",
    ),
    "empty, to path": Case(
        "empty",
        text("volume-disk", " volume='a.qcow2'", ""),
        near=VOLUME,
        options=TO_PATH,
        instead="adopt path",
    ),
    "outside-pools, in a subdirectory": Case(
        "outside-pools",
        text("subdirectory"),
        near=text("subdirectory", "/old/", "/"),
        instead="adopt volume",
    ),
    "outside-pools, a kind that nobody moves": Case(
        "outside-pools",
        text("nova-root"),
        options={"relocate": {"swap": "nova"}},
        near_options={"relocate": {"swap": "nova", "root": "nova"}},
        instead="move volume",
    ),
    "outside-pools, of another instance": Case(
        "outside-pools",
        text("nova-root", f"<uuid>{UUID[:-1]}", f"<uuid>{UUID[:-2]}2"),
        near=text("nova-root"),
        options=RELOCATE,
        instead="move volume",
    ),
    "apparmor": Case(
        "apparmor",
        text("nova-root"),
        host=APPARMOR,
        options=RELOCATE,
        near_options={**RELOCATE, "accept": ["apparmor"]},
        instead="move path",
    ),
    "apparmor, where it may read": Case(
        "apparmor",
        text("nova-root"),
        host=APPARMOR,
        near_host=with_pools(Pool("nova", "dir", "/srv/nova"), host=APPARMOR),
        options=RELOCATE,
        instead="move path",
    ),
    "apparmor, where it could not read before": Case(
        "apparmor",
        text("nova-root"),
        near=text("nova-root", f"{UUID}/disk'", f"{UUID}/other'"),
        host=APPARMOR,
        options=RELOCATE,
        instead="move path",
    ),
    "format-unknown": Case(
        "format-unknown",
        text("driver-dir"),
        near=text("driver-dir", "'dir'", "'fat'"),
        host=BARE,
        instead="adopt volume",
    ),
    "format-unknown, to path": Case(
        "format-unknown",
        text("volume-disk", "'qcow2'", "'dir'"),
        near=VOLUME,
        options=TO_PATH,
        instead="adopt path",
    ),
    "format-disagrees": Case(
        "format-disagrees",
        PLAIN,
        host=image("raw"),
        near_host=image("qcow2"),
        instead="adopt volume",
    ),
    "format-disagrees, with no driver": Case(
        "format-disagrees",
        text("no-driver-type"),
        host=image("qcow2"),
        near_host=image("raw"),
        instead="adopt volume",
    ),
    "format-disagrees, to path": Case(
        "format-disagrees",
        VOLUME,
        host=image("raw"),
        near_host=image("qcow2"),
        options=TO_PATH,
        instead="adopt path",
    ),
    "already": Case("already", VOLUME, near_options=TO_PATH, instead="adopt path"),
    "already, to path": Case(
        "already", PLAIN, options=TO_PATH, near_options={}, instead="adopt volume"
    ),
    "no-target": Case(
        "no-target",
        text("no-target"),
        near=text("no-target", "'vda'", "'vdb'"),
        instead="adopt volume",
    ),
    "no-target at all": Case(
        "no-target",
        text("file-in-pool", "<target dev='vda'/>", ""),
        near=PLAIN,
        instead="adopt volume",
    ),
}


def first(text: str, host: Host, options: Mapping[str, Any]) -> Transition | Skip:
    """What becomes of the first disk."""
    return plan(Document.parse(text), host, **options).disks[0]


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_a_reason_keeps_the_disk_as_it_is(case: Case) -> None:
    """The smallest document that shows the reason: the disk is skipped, for that."""
    disk = first(case.document, case.host, case.options)

    assert case.reason == what(disk)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_a_near_miss_does_not(case: Case) -> None:
    """One step away from the reason's document, host or options there is another outcome."""
    host = case.host if case.near_host is None else case.near_host
    options = case.options if case.near_options is None else case.near_options
    disk = first(case.document if case.near is None else case.near, host, options)

    assert case.instead == what(disk)


def test_every_reason_has_its_document() -> None:
    """No id of a reason is left without one; those that only change the form are further below."""
    shown = {case.reason for case in CASES.values()}

    known = set(re.findall(r'_Refusal\(\s*"([a-z-]+)"', inspect.getsource(planning)))
    known |= set(re.findall(r'reason = Reason\("([a-z-]+)"', inspect.getsource(planning)))
    assert known == shown


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_a_message_is_one_line_about_this_disk(case: Case) -> None:
    """It can be printed as it is, after something else: no line break, no full stop."""
    message = first(case.document, case.host, case.options).reason
    assert message is not None

    assert re.fullmatch(r"[^\n]*[^\n.]", message.message)


# What becomes of a disk.


@pytest.mark.parametrize(
    ("pool", "source", "expected"),
    [
        pytest.param(Pool("p", "dir", "/x"), "type='file'><source file='/x/v'/>", "file", id="dir"),
        pytest.param(Pool("p", "fs", "/x"), "type='file'><source file='/x/v'/>", "file", id="fs"),
        pytest.param(
            Pool("p", "netfs", "/x"), "type='file'><source file='/x/v'/>", "file", id="netfs"
        ),
        pytest.param(
            Pool("p", "logical", "/x"), "type='block'><source dev='/x/v'/>", "block", id="logical"
        ),
        pytest.param(
            Pool("p", "disk", "/x"), "type='block'><source dev='/x/v'/>", "block", id="disk"
        ),
    ],
)
def test_a_disk_whose_path_lies_directly_in_a_pool_is_adopted(
    pool: Pool, source: str, expected: str
) -> None:
    """It becomes the volume of that name, at the same path; and back to the same type."""
    document = domain(f"<disk {source}<target dev='vda'/></disk>")
    there = transition(plan(document, Host(9_000_000, "qemu", (), (pool,))))
    back = transition(plan(domain(volume_disk("p", "v", "raw")), Host(pools=(pool,)), to="path"))

    assert Address("volume", "/x/v", "p", "v") == there.after
    assert ("adopt", "volume", Address(expected, "/x/v")) == (
        there.action,
        there.disk_type,
        there.before,
    )
    assert Address(expected, "/x/v", "p", "v") == back.after


def test_a_device_beside_the_partitions_of_a_disk_pool_lies_outside() -> None:
    """Such pools are all at /dev: what they do not list is another disk, not a stale list."""
    pools = tuple(
        Pool(
            name,
            "disk",
            "/dev",
            volumes=(volume(name, f"{name}1", f"/dev/{name}1", "raw", "block"),),
        )
        for name in ("sdb", "sdc")
    )
    host = Host(9_000_000, "qemu", (), pools)
    disk = "<disk type='block'><source dev='/dev/{}'/><target dev='{}'/></disk>"
    disks = [("sdb1", "vda"), ("sdc1", "vdb"), ("nvme0n1", "vdc")]
    made = plan(domain("".join(disk.format(*each) for each in disks)), host)

    assert ["adopt volume", "adopt volume", "outside-pools"] == [what(each) for each in made.disks]
    assert ["sdb", "sdc"] == [each.after.pool for each in made.transitions]


def test_a_relative_path_lies_in_no_pool() -> None:
    """Not even if there is a pool over the root directory: nobody knows what it is relative to."""
    host = Host(pools=(Pool("root", "dir", "/"),))

    assert "outside-pools" == what(only(plan(domain(file_disk("a.qcow2")), host)))


@pytest.mark.parametrize(
    ("host", "verified"),
    [pytest.param(HOST, True, id="observed"), pytest.param(BARE, False, id="said")],
)
def test_a_volume_that_nobody_saw_is_not_verified(host: Host, verified: bool) -> None:
    """The plan says which volumes were seen on the host; those of --pool were not."""
    assert verified is transition(plan(Document.parse(PLAIN), host)).verified
    assert verified is transition(plan(Document.parse(VOLUME), host, to="path")).verified


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("disk", "root"),
        ("disk.local", "ephemeral"),
        ("disk.eph0", "ephemeral"),
        ("disk.swap", "swap"),
        ("disk.other", None),
    ],
)
def test_a_disk_moves_to_the_pool_of_its_kind(name: str, kind: str | None) -> None:
    """To volume {uuid}_{name} of that pool, or of the pool for the rest."""
    pools = {each: Pool(f"for-{each}", "dir", f"/x/{each}") for each in ("root", "ephemeral", None)}
    host = Host(9_000_000, "qemu", (), tuple(pools.values()))
    relocate = {each: pool.name for each, pool in pools.items()}
    moved = transition(plan(domain(file_disk(f"{INSTANCE}/{name}")), host, relocate=relocate))
    pool = pools.get(kind, pools[None])

    assert "move" == moved.action
    assert Address("file", f"{INSTANCE}/{name}") == moved.before
    assert (
        Address("volume", f"{pool.path}/{UUID}_{name}", pool.name, f"{UUID}_{name}") == moved.after
    )


def test_a_disk_in_a_pool_is_adopted_and_never_moved() -> None:
    """--relocate is for disks outside every pool."""
    made = plan(Document.parse(PLAIN), HOST, relocate={None: "nova"})

    assert "adopt volume" == what(only(made))


def test_two_disks_never_move_to_one_volume() -> None:
    """Two directories of one instance, two disks of one name: one would overwrite the other."""
    document = domain(
        file_disk(f"/one/{UUID}/disk", target="vda") + file_disk(f"/two/{UUID}/disk", target="vdb")
    )
    host = Host(9_000_000, "qemu", (), (Pool("nova", "dir", DISKS),))
    made = plan(document, host, relocate={None: "nova"})
    after = [disk.after.path for disk in made.transitions]

    assert sorted(set(after), key=str) == sorted(after, key=str)
    assert "volume-taken" in [what(disk) for disk in made.disks]


def test_a_disk_never_moves_to_the_volume_of_another_disk() -> None:
    """A volume disk of the same domain has the name, whether the pool was observed or not."""
    document = domain(
        file_disk(f"{INSTANCE}/disk", target="vda")
        + volume_disk("nova", f"{UUID}_disk", target="vdb")
    )
    host = Host(9_000_000, "qemu", (), (Pool("nova", "dir", DISKS),))
    made = plan(document, host, relocate={None: "nova"})

    assert ["volume-taken", "already"] == [what(disk) for disk in made.disks]


@pytest.mark.parametrize("to", ["volume", "path"])
def test_in_rescue_nothing_changes_whatever_form_the_disks_have(
    to: Literal["volume", "path"],
) -> None:
    """Nova defines its XML from before again, so in neither direction may an address change."""
    metadata = (
        "<metadata><x:instance xmlns:x='http://openstack.org/xmlns/libvirt/nova/1.1'/></metadata>"
    )
    document = domain(
        volume_disk("nova", f"{UUID}_disk.rescue", target="vda")
        + volume_disk("nova", f"{UUID}_disk", target="vdb")
        + file_disk("/srv/images/a.qcow2", target="vdc"),
        metadata=metadata,
    )
    host = Host(9_000_000, "qemu", (), (Pool("nova", "dir", DISKS), IMAGES))

    assert not plan(document, host, to=to).changes


def test_plans_name_each_disk_once_in_the_domains_order() -> None:
    """A transition or a reason for every disk, none left out."""
    document = fixture("secrets")
    made = plan(document, HOST)

    assert ["vda", "vdb", "vdc"] == [disk.target for disk in made.disks]
    assert made.transitions + made.skips != made.disks
    assert set(made.transitions) | set(made.skips) == set(made.disks)


@pytest.mark.parametrize(
    "document",
    [
        pytest.param("<network><name>n</name></network>", id="network"),
        pytest.param("<domainsnapshot><domain/></domainsnapshot>", id="snapshot"),
        pytest.param("<disk/>", id="disk"),
        pytest.param("<domain xmlns='urn:x'/>", id="another-namespace"),
    ],
)
def test_what_is_no_domain_has_no_plan(document: str) -> None:
    """The message says what it is instead."""
    with pytest.raises(PlanError, match="not a domain"):
        plan(Document.parse(document), HOST)


def test_a_pool_to_relocate_to_must_be_there() -> None:
    """A wrong name is an error, with the names that there are, not a reason for each disk."""
    with pytest.raises(PlanError, match=r"no pool 'x'.*ceph, images, iscsi, nova, vg"):
        plan(Document.parse(PLAIN), HOST, relocate={None: "x"})


# Formats.


@pytest.mark.parametrize(
    ("driver", "probe", "expected"),
    [
        ("raw", "raw", True),
        ("qcow2", "qcow2", True),
        ("vmdk", "vmdk", True),
        ("raw", "iso", True),
        ("aio", "raw", True),
        (None, "raw", True),
        (None, "iso", True),
        ("raw", None, True),
        ("qcow2", None, True),
        ("raw", "qcow2", False),
        (None, "qcow2", False),
        ("aio", "qcow2", False),
        ("raw", "vmdk", False),
        ("raw", "luks", False),
        ("raw", "dir", False),
        ("raw", "unknown", False),
        ("qcow2", "raw", False),
        ("qcow2", "iso", False),
        ("qcow2", "qcow", False),
        ("qcow2", "luks", False),
        ("iso", "raw", False),
    ],
)
@pytest.mark.parametrize("to", ["volume", "path"])
def test_a_probe_confirms_or_stops_and_never_decides(
    driver: str | None, probe: str | None, expected: bool, to: Literal["volume", "path"]
) -> None:
    """An adopted disk has the domain's format; any other probe than its own refuses it."""
    source = text("file-in-pool" if to == "volume" else "volume-disk")
    stated = "" if driver is None else f" type='{driver}'"
    document = Document.parse(source.replace(" type='qcow2'", stated))
    disk = only(plan(document, image(probe), to=to))

    if expected:
        assert isinstance(disk, Transition)
        assert (disk.format, driver) in ((driver, driver), ("raw", None), ("raw", "aio"))
    else:
        assert "format-disagrees" == what(disk)


@pytest.mark.parametrize("where", ["<disk type='file'>", SOURCE])
def test_an_encrypted_disk_may_be_raw_and_probed_as_luks(where: str) -> None:
    """`<encryption>` in the disk or its source says it; without it LUKS is a disagreement."""
    encryption = "<encryption format='luks'><secret type='passphrase' usage='x'/></encryption>"
    inside = SOURCE.replace("/>", ">") + encryption + "</source>"
    plain = PLAIN.replace("qcow2'/>\n      <source", "raw'/>\n      <source")
    encrypted = plain.replace(where, inside if where == SOURCE else where + encryption)

    assert plain != encrypted
    assert "adopt volume" == what(first(encrypted, image("luks"), {}))
    assert "format-disagrees" == what(first(plain, image("luks"), {}))


def test_a_block_volume_is_raw_whatever_the_domain_says() -> None:
    """Nothing is probed on block devices: qcow2 on one is not confirmed, so it is refused."""
    disk = "<source dev='/dev/vg/lv'/><target dev='vda'/></disk>"
    raw, qcow2 = (f"<disk type='block'><driver type='{each}'/>{disk}" for each in ("raw", "qcow2"))

    assert "format-disagrees" == what(only(plan(domain(qcow2), HOST)))
    assert "adopt volume" == what(only(plan(domain(raw), HOST)))


def test_a_raw_disk_into_which_a_guest_wrote_a_qcow2_header_is_refused(libvirtd: Libvirtd) -> None:
    """The attack: libvirt's pool reports the guest's own bytes as the format and backing file.

    The domain says raw. The pool says qcow2 with the host's file as its base. Whoever took the
    pool's word would hand that file to the guest.
    """
    directory = libvirtd.directory / "pool"
    directory.mkdir()
    secret = libvirtd.directory / "secret"
    secret.write_bytes(b"of another tenant".ljust(4096, b"\0"))
    disk = directory / "disk"
    disk.write_bytes(bytes(1 << 20))
    document = domain(file_disk(str(disk), "raw"), type_="qemu")
    connection = libvirt.open(libvirtd.uri)
    pool = connection.storagePoolCreateXML(
        f"<pool type='dir'><name>p</name><target><path>{directory}</path></target></pool>"
    )
    before = only(plan(document, host_of(libvirtd.uri)))
    # the guest writes to its own disk
    header = struct.pack(">4sIQIIQ", b"QFI\xfb", 3, 104, len(str(secret)), 16, 1 << 20)
    with disk.open("r+b") as opened_disk:
        opened_disk.write(header.ljust(104, b"\0") + str(secret).encode())
    pool.refresh()
    host = host_of(libvirtd.uri)
    after = only(plan(document, host))

    assert "adopt volume" == what(before)
    reported = host.by_name["p"].by_name["disk"]
    assert ("qcow2", str(secret)) == (reported.format, reported.backing)
    assert "format-disagrees" == what(after)
    assert after.reason is not None
    assert "the domain says raw, pool p says qcow2" == after.reason.message
    back = domain(volume_disk("p", "disk", "raw"), type_="qemu")
    assert "format-disagrees" == what(only(plan(back, host, to="path")))


def test_what_libvirt_probes_of_honest_images_agrees(libvirtd: Libvirtd) -> None:
    """Images of each format that qemu-img makes and libvirt knows are adopted as they are."""
    directory = libvirtd.directory / "pool"
    directory.mkdir()
    formats = ("raw", "qcow2", "vmdk", "qed", "vdi", "vpc", "qcow")
    for each in formats:
        create = ["qemu-img", "create", "-q", "-f", each, str(directory / each), "1M"]
        subprocess.run(create, check=True)
    # a CD image: its descriptor stands in sector 16
    (directory / "cd").write_bytes(bytes(32768) + b"\x01CD001\x01".ljust(2048, b"\0"))
    connection = libvirt.open(libvirtd.uri)
    connection.storagePoolCreateXML(
        f"<pool type='dir'><name>p</name><target><path>{directory}</path></target></pool>"
    )
    images = {**{each: each for each in formats}, "cd": "raw"}
    disks = "".join(
        file_disk(f"{directory}/{name}", format_, f"vd{chr(ord('a') + number)}")
        for number, (name, format_) in enumerate(images.items())
    )
    host = host_of(libvirtd.uri)
    made = plan(domain(disks, type_="qemu"), host)

    assert "iso" == host.by_name["p"].by_name["cd"].format
    assert dict.fromkeys(images, "adopt volume") == dict(
        zip(images, map(what, made.disks), strict=True)
    )


def test_a_link_into_a_pool_is_seen_on_a_real_host(libvirtd: Libvirtd) -> None:
    """libvirt follows the link and reports a file; what is observed says that it is one."""
    directory = libvirtd.directory / "pool"
    directory.mkdir()
    (libvirtd.directory / "image").write_bytes(bytes(4096))
    (directory / "link").symlink_to("../image")
    (directory / "file").write_bytes(bytes(4096))
    libvirt.open(libvirtd.uri).storagePoolCreateXML(
        f"<pool type='dir'><name>p</name><target><path>{directory}</path></target></pool>"
    )
    disks = file_disk(f"{directory}/link", "raw", "vda") + file_disk(
        f"{directory}/file", "raw", "vdb"
    )
    made = plan(domain(disks, type_="qemu"), host_of(libvirtd.uri))

    assert ["symlink", "adopt volume"] == [what(disk) for disk in made.disks]


def host_of(uri: str) -> Host:
    """The host that libvirt reports."""
    with opened(uri) as connection:
        return parse_host(observe(connection))


# Hosts without volume disks.

WITHOUT = {
    "libvirt 1.0.4": (replace(HOST, libversion=1_000_004), "libvirt-version"),
    "xen": (replace(HOST, driver="xen"), "hypervisor"),
    "lxc": (replace(HOST, driver="lxc"), "hypervisor"),
    "apparmor": (APPARMOR, "apparmor"),
}
WITH = {
    "libvirt 1.0.5": replace(HOST, libversion=1_000_005),
    "unknown version": replace(HOST, libversion=None),
    "unknown driver, a KVM guest": replace(HOST, driver=""),
    "bhyve": replace(HOST, driver="bhyve"),
    "selinux": replace(HOST, security_models=("selinux", "dac")),
}


@pytest.mark.parametrize(("host", "reason"), WITHOUT.values(), ids=WITHOUT)
def test_a_host_without_volume_disks_keeps_the_path(host: Host, reason: str) -> None:
    """The plan's form is the path, of the same volume, in the disk's own format, and says why."""
    kept = transition(plan(Document.parse(PLAIN), host))

    assert ("adopt", "path", "qcow2") == (kept.action, kept.disk_type, kept.format)
    assert Address("file", "/srv/images/a.qcow2", "images", "a.qcow2") == kept.after
    assert kept.reason is not None
    assert reason == kept.reason.id
    assert not kept.changes


@pytest.mark.parametrize(("host", "reason"), WITHOUT.values(), ids=WITHOUT)
def test_a_host_without_volume_disks_turns_those_that_are_there_into_paths(
    host: Host, reason: str
) -> None:
    """A volume disk could not start there."""
    turned = transition(plan(Document.parse(VOLUME), host))

    assert ("adopt", "path", reason) == (
        turned.action,
        turned.disk_type,
        turned.reason and turned.reason.id,
    )
    assert Address("volume", "/srv/images/a.qcow2", "images", "a.qcow2") == turned.before
    assert Address("file", "/srv/images/a.qcow2", "images", "a.qcow2") == turned.after
    assert turned.changes


@pytest.mark.parametrize(("host", "reason"), WITHOUT.values(), ids=WITHOUT)
def test_a_host_without_volume_disks_moves_to_the_volumes_path(host: Host, reason: str) -> None:
    """The image goes where it should be; the document names it by its path."""
    options: dict[str, Any] = {**RELOCATE, "accept": ["apparmor"]}
    moved = transition(plan(fixture("nova-root"), host, **options))

    assert ("move", "path", reason) == (
        moved.action,
        moved.disk_type,
        moved.reason and moved.reason.id,
    )
    assert Address("file", f"{DISKS}/{UUID}_disk", "nova", f"{UUID}_disk") == moved.after


@pytest.mark.parametrize("host", WITH.values(), ids=WITH)
def test_a_host_with_volume_disks_has_them(host: Host) -> None:
    """The near misses: the version in which they came, other drivers and security models."""
    made = transition(plan(Document.parse(PLAIN), host))

    assert ("volume", None) == (made.disk_type, made.reason)


def test_the_domains_type_counts_where_the_driver_is_not_known() -> None:
    """With --pool alone a Xen guest keeps its paths."""
    host = Host(pools=(IMAGES,))
    made = transition(plan(domain(file_disk("/srv/images/a.qcow2"), type_="xen"), host))

    assert ("path", "hypervisor") == (made.disk_type, made.reason and made.reason.id)


def test_on_a_pool_without_volume_disks_the_path_stays() -> None:
    """Such as a multipath device: the disk type stays and the plan says why."""
    pool = Pool(
        "mpath",
        "mpath",
        "/dev/mapper",
        volumes=(Volume("mpath", "dm-1", "/dev/mapper/m", "block"),),
    )
    disk = "<disk type='block'><source dev='/dev/mapper/m'/><target dev='vda'/></disk>"
    made = transition(plan(domain(disk), Host(9_000_000, "qemu", (), (pool,))))

    assert ("path", "pool-type") == (made.disk_type, made.reason and made.reason.id)
    assert not made.changes


@pytest.mark.parametrize(
    ("libversion", "expected"), [(8_999_999, "path"), (9_000_000, "volume"), (None, "volume")]
)
def test_slices_of_a_volume_need_their_version(libversion: int | None, expected: str) -> None:
    """An older schema has none in the source of a volume disk; without them it does not matter."""
    host = replace(HOST, libversion=libversion)

    assert expected == transition(plan(fixture("slices"), host)).disk_type
    assert "volume" == transition(plan(Document.parse(PLAIN), host)).disk_type


# Live.


def test_a_migrations_document_is_planned_as_live() -> None:
    """With live=True the id of a running domain is no reason, and each transition says so."""
    made = plan(fixture("live"), HOST, live=True)

    assert [True] == [each.live for each in made.transitions]
    assert [False] == [each.live for each in plan(Document.parse(PLAIN), HOST).transitions]


# Arrived.

ROOT_VOLUME = volume("nova", f"{UUID}_disk", f"{DISKS}/{UUID}_disk", "qcow2")
ARRIVED = with_pools(replace(NOVA, volumes=(ROOT_VOLUME,)))
SECOND = Pool("second", "dir", "/second", volumes=(replace(ROOT_VOLUME, pool="second"),))


def test_an_image_that_has_arrived_is_at_the_volume_of_its_name() -> None:
    """In the one pool that lists it, which needs no --relocate; without arrived it is no volume."""
    made = transition(plan(fixture("nova-root"), ARRIVED, arrived=True))

    assert ("move", "volume", True) == (made.action, made.disk_type, made.verified)
    assert Address("file", f"{INSTANCE}/disk") == made.before
    assert Address("volume", ROOT_VOLUME.path, "nova", ROOT_VOLUME.name) == made.after
    assert "outside-pools" == what(only(plan(fixture("nova-root"), ARRIVED)))
    assert "volume-taken" == what(only(plan(fixture("nova-root"), ARRIVED, **RELOCATE)))


def test_what_has_arrived_goes_to_its_own_pool_whatever_relocate_says() -> None:
    """What no pool lists has not arrived, and is not relocated either."""
    options: dict[str, Any] = {"arrived": True, "relocate": {None: "images"}}

    assert "nova" == transition(plan(fixture("nova-root"), ARRIVED, **options)).after.pool
    assert "no-volume" == what(only(plan(fixture("nova-root"), HOST, **options)))


ON_VOLUME = volume_disk("nova", ROOT_VOLUME.name, target="vdb")
NOT_ARRIVED = {
    "nowhere": ("no-volume", fixture("nova-root"), HOST),
    "not observed": (
        "no-volume",
        fixture("nova-root"),
        with_pools(replace(NOVA, volumes=None)),
    ),
    "in two pools": ("no-volume", fixture("nova-root"), with_pools(SECOND, host=ARRIVED)),
    "in a stopped pool": (
        "no-volume",
        fixture("nova-root"),
        with_pools(replace(NOVA, volumes=(ROOT_VOLUME,), active=False)),
    ),
    "in a pool of blocks": (
        "pool-type",
        fixture("nova-root"),
        with_pools(replace(VG, volumes=(replace(ROOT_VOLUME, pool="vg"),))),
    ),
    "in another format": (
        "format-disagrees",
        fixture("nova-root"),
        with_pools(replace(NOVA, volumes=(replace(ROOT_VOLUME, format="raw"),))),
    ),
    "as a link": (
        "symlink",
        fixture("nova-root"),
        with_pools(replace(NOVA, volumes=(replace(ROOT_VOLUME, link=True),))),
    ),
    "for another domain": (
        "outside-pools",
        domain(file_disk(f"{INSTANCE}/disk"), uuid=UUID.replace("3", "4")),
        ARRIVED,
    ),
    "for two disks": (
        "volume-taken",
        domain(file_disk(f"{INSTANCE}/disk") + file_disk(f"{INSTANCE}/disk", target="vdb")),
        ARRIVED,
    ),
    "for a disk beside its volume": (
        "volume-taken",
        domain(file_disk(f"{INSTANCE}/disk") + ON_VOLUME),
        ARRIVED,
    ),
}


@pytest.mark.parametrize(("reason", "document", "host"), NOT_ARRIVED.values(), ids=NOT_ARRIVED)
def test_what_has_not_arrived_for_sure_stays(reason: str, document: Document, host: Host) -> None:
    """With a reason; once it is there, in one active pool and as it should be, it does not."""
    assert reason == what(plan(document, host, arrived=True).disks[0])


def test_pools_that_list_what_has_arrived_are_named() -> None:
    """Whoever reads the reason has to look at them."""
    made = only(plan(fixture("nova-root"), with_pools(SECOND, host=ARRIVED), arrived=True))

    assert isinstance(made, Skip)
    assert f"more than one pool lists '{ROOT_VOLUME.name}': nova, second" == made.reason.message


def test_an_image_in_a_pools_directory_need_not_arrive() -> None:
    """It is adopted as ever."""
    document = Document.parse(PLAIN)

    assert plan(document, HOST) == plan(document, HOST, arrived=True)


def test_a_host_without_volume_disks_gets_what_has_arrived_by_path() -> None:
    """The path of the volume, with the reason."""
    made = transition(plan(fixture("nova-root"), replace(ARRIVED, driver="xen"), arrived=True))

    assert Address("file", ROOT_VOLUME.path, "nova", ROOT_VOLUME.name) == made.after
    assert ("path", "hypervisor") == (made.disk_type, made.reason and made.reason.id)


# Data.

SOURCES = {
    name: (Document.parse(case.document), case.host, case.options) for name, case in CASES.items()
} | {
    "moves": (fixture("nova-root"), HOST, RELOCATE),
    "falls back": (fixture("nova-root"), replace(HOST, driver="xen"), RELOCATE),
    "many": (Document.parse((FIXTURES / "nova/qcow2-many-volumes.xml").read_bytes()), HOST, {}),
    "arrived": (fixture("nova-root"), ARRIVED, {"arrived": True, "live": True}),
    "none": (domain(""), HOST, {}),
}


@pytest.mark.parametrize(("document", "host", "options"), SOURCES.values(), ids=SOURCES)
def test_a_plan_comes_back_from_json(
    document: Document, host: Host, options: Mapping[str, Any]
) -> None:
    """As it was, and so does its inverse; both are valid by the schema that is published."""
    made = plan(document, host, **options)
    for each in (made, made.inverse()):
        written = each.to_json()
        jsonschema.validate(json.loads(written), SCHEMA, jsonschema.Draft202012Validator)

        assert each == Plan.from_json(written)
        assert each == Plan.from_json(written.encode())


@pytest.mark.parametrize(("document", "host", "options"), SOURCES.values(), ids=SOURCES)
def test_the_inverse_of_the_inverse_is_the_plan(
    document: Document, host: Host, options: Mapping[str, Any]
) -> None:
    """And the inverse leads from where the plan leads to, to where it came from."""
    made = plan(document, host, **options)
    back = made.inverse()

    assert made == back.inverse()
    assert [(each.after, each.before) for each in made.transitions] == [
        (each.before, each.after) for each in back.transitions
    ]


@given(st.text())
@settings(max_examples=50, deadline=None)
def test_any_text_survives_json(name: str) -> None:
    """Names that libvirt would not take, too: a plan is not the place to lose a character."""
    made = Plan("volume", name, "", (Skip(name, Address("file", name), "raw", Reason("x", name)),))

    assert made == Plan.from_json(made.to_json())


def whole() -> dict[str, Any]:
    """A plan with a move, as data."""
    data: dict[str, Any] = json.loads(plan(fixture("nova-root"), HOST, **RELOCATE).to_json())
    return data


def places(data: Any, so_far: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of each value in a JSON document."""
    yield so_far
    if isinstance(data, (dict, list)):
        for key in data if isinstance(data, dict) else range(len(data)):
            yield from places(data[key], (*so_far, key))


def changed(place: tuple[Any, ...], value: Any) -> str:
    """The whole plan with another value at one place."""
    data = whole()
    if not place:
        return json.dumps(value)
    around = data
    for key in place[:-1]:
        around = around[key]
    around[place[-1]] = value
    return json.dumps(data)


def comes_back(text: str | bytes) -> bool:
    try:
        plans_from_json(text)
    except PlanError:
        return False
    return True


@pytest.mark.parametrize("value", [None, 1, "x", [], {}, True], ids=repr)
def test_a_plan_with_a_wrong_value_is_refused(value: Any) -> None:
    """At every place: what the schema allows comes back, and what it does not allow does not."""
    checker = jsonschema.Draft202012Validator(SCHEMA)
    texts = {place: changed(place, value) for place in places(whole())}
    allowed = [place for place, text in texts.items() if checker.is_valid(json.loads(text))]

    assert allowed == [place for place, text in texts.items() if comes_back(text)]


def test_a_plan_without_one_of_its_parts_is_refused() -> None:
    """Nothing is made up for what is missing."""
    taken = []
    for place in places(whole()):
        if place and isinstance(place[-1], str):
            data = whole()
            around: Any = data
            for key in place[:-1]:
                around = around[key]
            del around[place[-1]]
            if comes_back(json.dumps(data)):
                taken.append(place)

    assert [] == taken


@pytest.mark.parametrize("span", ["", "x", "<disk", "<disk/>", "<disk/><disk/>", "<a>&b;</a>"])
def test_a_plan_whose_span_is_not_the_disk_undoes_nothing(span: str) -> None:
    """The way back of a plan that somebody has changed is refused, in words."""
    document = fixture("nova-root")
    there = plan(document, HOST, **RELOCATE)
    made = transform(document, there)
    back = Plan.from_json(changed(("plans", 0, "disks", 0, "span"), span)).inverse()
    try:
        result = transform(made, back)
    except XmlkitError:
        return

    # without the span it can only be the address that goes back
    assert document.root.find("devices/disk/source").attrib == (  # type: ignore[union-attr]
        result.root.find("devices/disk/source").attrib  # type: ignore[union-attr]
    )


@pytest.mark.parametrize("place", [(), (0,), (0, "domain"), (0, "disks", 0, "after")])
def test_a_plan_with_something_unknown_is_refused(place: tuple[Any, ...]) -> None:
    """What a later xmlkit may mean by it is not ignored."""
    data = whole()
    around: Any = data["plans"] if place else data
    for key in place:
        around = around[key]
    around["unknown"] = 1

    with pytest.raises(PlanError):
        Plan.from_json(json.dumps(data))


@pytest.mark.parametrize(
    "source",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"{", id="half"),
        pytest.param(b"<domain/>", id="xml"),
        pytest.param(b"\xff\xfe\xfd", id="binary"),
        pytest.param(b"[" * 100_000, id="deep"),
        pytest.param(b"NaN", id="nan"),
        pytest.param(json.dumps(whole()).encode()[:-1], id="truncated"),
    ],
)
def test_what_is_no_plan_is_refused(source: bytes) -> None:
    """The message says how to make one."""
    with pytest.raises(PlanError, match="xmlkit plan"):
        Plan.from_json(source)


def test_a_plan_of_another_schema_is_refused() -> None:
    """The message names both schemas."""
    with pytest.raises(PlanError, match=r"'xmlkit.plan/2'.*xmlkit.plan/1"):
        Plan.from_json(changed(("schema",), "xmlkit.plan/2"))


def test_the_host_file_and_the_connection_make_the_same_plan() -> None:
    """What observe wrote is all that a plan depends on."""
    with opened(f"test://{FIXTURES}/every-pool-type.xml") as connection:
        host = parse_host(observe(connection))
        document = Document.parse(
            connection.lookupByName("guest").XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)
        )
    made = plan(document, host)

    assert [
        ("vda", "adopt volume"),
        ("vdb", "adopt volume"),
        ("vdc", "already"),
        ("vdd", "outside-pools"),
    ] == [(disk.target, what(disk)) for disk in made.disks]
    assert all(each.verified for each in made.transitions)


def test_planning_changes_nothing() -> None:
    """The document and the host are as they were."""
    document, host = fixture("nova-root"), copy.deepcopy(HOST)
    source = document.source
    plan(document, host, relocate={None: "nova"})

    assert (source, HOST) == (document.source, host)
