"""Pools: whatever is asked for is a valid document or a refusal with a reason."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import libvirt
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from strategies import LAWS
from syrupy.assertion import SnapshotAssertion

from xmlkit.compare import lost
from xmlkit.document import Document
from xmlkit.host import parse_pool
from xmlkit.pools import TYPES, Auth, PoolError, commands, nova_pools, parse_source, pool
from xmlkit.rules import RULES
from xmlkit.testing import Libvirtd
from xmlkit.validation.policy import policy
from xmlkit.validation.verdict import validate
from xmlkit.volumes import Permissions

UUID = "0b34a1c2-7d5e-4b1f-9a55-3f2c1c8e0d4b"
AUTH = Auth("libvirt", UUID)
MONITORS = (("mon1.example.org", 6789), ("2001:db8::1", None), ("[2001:db8::2]", 3300))

WORDS = st.one_of(
    st.text(max_size=8), st.sampled_from(["", "vg", "a b", "&<>'\"", "/", "..", "a/b"])
)
PATHS = st.one_of(
    st.sampled_from(["/srv/p", "/dev/sdb", "/srv/&<>'\"", "", "/", "srv", "/a/../b", "//a", "/a/"]),
    WORDS,
)
HOSTS = st.lists(
    st.tuples(
        st.one_of(st.sampled_from(["host", "192.0.2.1", "::1", "[::1]", "a b", ""]), WORDS),
        st.one_of(st.none(), st.integers(-1, 70000)),
    ),
    max_size=3,
).map(tuple)


@LAWS
@given(
    st.one_of(st.just("p"), WORDS),
    st.sampled_from([*TYPES, "iscsi", ""]),
    PATHS,
    st.one_of(PATHS, st.just("vg")),
    HOSTS,
    st.one_of(st.none(), st.sampled_from(["auto", "ext4", "xfs", "nfs", "cifs", "gpt", "lvm2"])),
    st.one_of(st.none(), st.just(AUTH), st.builds(Auth, WORDS, WORDS)),
    st.one_of(
        st.none(), st.builds(Permissions, st.integers(-1, 0o10000), st.integers(-1, 1 << 33))
    ),
)
@example("p", "dir", "/srv/p", "", (), None, None, Permissions(0o711, 0, 0))
@example("p", "netfs", "/srv/p", "/export", (("host", None),), "nfs", None, None)
@example("p", "rbd", "", "rbd", MONITORS, None, AUTH, None)
def test_a_pool_is_valid_or_refused(
    name: str,
    type_: str,
    target: str,
    source: str,
    hosts: Any,
    format_: str | None,
    auth: Auth | None,
    permissions: Permissions | None,
) -> None:
    """By libvirt's schema; it has the name and type that were asked for, and no other host."""
    refused = None
    try:
        made = pool(
            name,
            type_,
            target=target,
            source=source,
            hosts=hosts,
            format=format_,
            auth=auth,
            permissions=permissions,
        )
    except PoolError as error:
        refused = error
    if refused is not None:
        assert refused.id in RULES
        assert "\n" not in str(refused)
        return
    assert () == validate(made)
    assert () == policy(made, "storage")
    read = parse_pool(made.root)
    assert (name, type_) == (read.name, read.type)
    assert len(hosts) == len(made.root.findall("source/host"))


EXAMPLES: dict[str, Callable[[], Document]] = {
    "dir": lambda: pool(
        "nova-disks-pool", "dir", target="/srv/disks", permissions=Permissions(0o711, 0, 0)
    ),
    "fs": lambda: pool("fs", "fs", target="/srv/fs", source="/dev/sdb1", format="xfs"),
    "netfs": lambda: pool(
        "nfs", "netfs", target="/srv/nfs", source="/export/a", hosts=(("nfs1", None),), format="nfs"
    ),
    "logical": lambda: pool("vg", "logical", source="nova-vg"),
    "disk": lambda: pool("disk", "disk", source="/dev/sdb", format="gpt"),
    "rbd": lambda: pool("ceph", "rbd", source="vms", hosts=MONITORS, auth=AUTH),
}


@pytest.mark.parametrize("name", EXAMPLES)
def test_libvirt_takes_each(libvirtd: Libvirtd, name: str) -> None:
    """Defined on a real libvirtd and read back, nothing that was said is lost or another."""
    document = EXAMPLES[name]()
    made = libvirt.open(libvirtd.uri).storagePoolDefineXML(document.text)

    assert () == lost(document, Document.parse(made.XMLDesc(libvirt.VIR_STORAGE_XML_INACTIVE)))


@pytest.mark.parametrize("name", EXAMPLES)
def test_examples(name: str, libvirt_snapshot: SnapshotAssertion) -> None:
    """What an operator gets, one of each type, and valid."""
    assert libvirt_snapshot == EXAMPLES[name]()


def test_there_is_an_example_of_each_type() -> None:
    """So that none goes unseen."""
    assert EXAMPLES.keys() == TYPES.keys()


@pytest.mark.parametrize(
    ("expected", "name", "type_", "options"),
    [
        ("pool-name", "a/b", "dir", {"target": "/srv"}),
        ("pool-name", "", "dir", {"target": "/srv"}),
        ("pool-type", "p", "gluster", {"target": "/srv"}),
        ("pool-target", "p", "dir", {}),
        ("pool-target", "p", "dir", {"target": "srv"}),
        ("pool-target", "p", "dir", {"target": "/srv/../etc"}),
        ("pool-target", "p", "rbd", {"target": "/srv", "source": "a", "hosts": (("h", None),)}),
        ("pool-target", "p", "logical", {"source": "vg", "permissions": Permissions(0o700)}),
        ("pool-source", "p", "dir", {"target": "/srv", "source": "/dev/sdb"}),
        ("pool-source", "p", "fs", {"target": "/srv"}),
        ("pool-source", "p", "fs", {"target": "/srv", "source": "sdb1"}),
        ("pool-source", "p", "fs", {"target": "/srv", "source": "/dev/sdb", "format": "gpt"}),
        ("pool-source", "p", "netfs", {"target": "/srv", "source": "/export"}),
        ("pool-source", "p", "logical", {"source": "v g"}),
        ("pool-source", "p", "disk", {"source": "/dev/sdb"}),
        ("pool-source", "p", "rbd", {"source": "a"}),
        ("pool-source", "p", "rbd", {"source": "a@b", "hosts": (("h", None),)}),
        ("pool-source", "p", "rbd", {"source": "a", "hosts": (("h", 70000),)}),
        ("pool-auth", "p", "dir", {"target": "/srv", "auth": AUTH}),
        ("pool-auth", "p", "rbd", {"source": "a", "hosts": (("h", 1),), "auth": Auth("u", "AQB")}),
    ],
)
def test_what_makes_no_sense_is_refused(
    expected: str, name: str, type_: str, options: dict[str, Any]
) -> None:
    """With the part that is wrong."""
    with pytest.raises(PoolError) as caught:
        pool(name, type_, **options)

    assert expected == caught.value.id
    assert "AQB" not in str(caught.value)


@pytest.mark.parametrize(
    ("type_", "text", "expected"),
    [
        ("fs", "/dev/sdb1", ("/dev/sdb1", ())),
        ("netfs", "nfs1:/export/a", ("/export/a", (("nfs1", None),))),
        ("netfs", "[2001:db8::1]:/export", ("/export", (("[2001:db8::1]", None),))),
        ("rbd", "a:6789,b/vms", ("vms", (("a", 6789), ("b", None)))),
        ("rbd", "[::1]:3300/vms", ("vms", (("[::1]", 3300),))),
    ],
)
def test_a_source_is_written_as_operators_do(type_: str, text: str, expected: object) -> None:
    """A device, an export, monitors and a pool."""
    assert expected == parse_source(type_, text)


@pytest.mark.parametrize(
    ("type_", "text"),
    [("netfs", "/export"), ("netfs", "h:export"), ("rbd", "vms"), ("rbd", "a:b/v")],
)
def test_a_source_that_cannot_be_read_is_refused(type_: str, text: str) -> None:
    """The message says how to write it."""
    with pytest.raises(PoolError, match="write"):
        parse_source(type_, text)


def test_novas_pools() -> None:
    """Image cache, disks and snapshots; or a pool for each kind of disk."""
    one = {document.name: document.root.findtext("target/path") for document in nova_pools()}
    each = [document.name for document in nova_pools("/i", kinds=True)]

    assert {
        "nova-base-images-pool": "/var/lib/nova/instances/_base",
        "nova-disks-pool": "/var/lib/nova/instances/disks",
        "nova-snapshots-pool": "/var/lib/nova/instances/snapshots-pool",
    } == one
    assert [
        "nova-base-images-pool",
        "nova-root-pool",
        "nova-ephemeral-pool",
        "nova-swap-pool",
        "nova-config-pool",
        "nova-snapshots-pool",
    ] == each


def test_only_directories_are_built() -> None:
    """To build a disk or a volume group would be to format it."""
    built = {
        name
        for name, make in EXAMPLES.items()
        if any("pool-build" in command.words for command in commands(make()))
    }

    assert {"dir", "fs", "netfs"} == built


def test_autostart_is_a_step() -> None:
    """No element."""
    document = EXAMPLES["dir"]()
    words = [command.words[1] for command in commands(document)]

    assert ["pool-define", "pool-build", "pool-start", "pool-autostart"] == words
    assert words[:-1] == [command.words[1] for command in commands(document, autostart=False)]
