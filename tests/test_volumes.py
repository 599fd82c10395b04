"""Volumes: whatever is asked for is a valid document or a refusal with a reason.

Rules
- Documents are judged by libvirt's own schemas, and whole ones are shown as snapshots.
- A refusal has an id that can be explained, and one line that says what to do.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from strategies import LAWS
from syrupy.assertion import SnapshotAssertion

from xmlkit import names
from xmlkit.document import Document, DocumentError
from xmlkit.host import POOL_DISK_TYPES, Host, Pool, Volume, version_of
from xmlkit.rules import RULES
from xmlkit.validation.policy import policy
from xmlkit.validation.verdict import validate
from xmlkit.volumes import (
    SNAPSHOT_POOL,
    Creation,
    Permissions,
    Target,
    VolumeError,
    blank,
    commands,
    copy,
    domain_snapshot,
    overlay,
    snapshot,
)

MIB = 1 << 20
HOST = Host(libversion=version_of("9.0.0"))
UUID = "0b34a1c2-7d5e-4b1f-9a55-3f2c1c8e0d4b"
RAW, QCOW2 = Target("raw"), Target("qcow2")
DIR = Pool("disks", "dir", "/srv/disks")
IMAGES = Pool("images", "dir", "/srv/images")
VG = Pool("vg", "logical", "/dev/vg")
DISK = Pool("disk", "disk", "/dev")
RBD = Pool("ceph", "rbd", "")
BASE = "/srv/images/base"
DOMAIN = """<domain type='kvm'><name>guest</name><devices>
<disk type='file' device='disk'><driver type='qcow2'/><source file='/srv/a'/>
<target dev='vda'/></disk>
<disk type='volume' device='disk'><driver type='qcow2'/><source pool='p' volume='b'/>
<target dev='vdb'/></disk>
<disk type='file' device='cdrom'><target dev='hda'/></disk>
<disk type='network' device='disk'><source protocol='rbd' name='p/i'/><target dev='vdc'/></disk>
</devices></domain>"""

# What is given on purpose: right more often than not, and wrong in every way.
NAMES = st.one_of(
    st.sampled_from(["disk", f"{UUID}_disk", "sdb1", "a b", "&<>'\"", "é", "-a", "snapshot1"]),
    st.text(max_size=12),
    st.sampled_from(["", ".", "..", "a/b", "a\nb", "a" * 300, "x_mlog", "a\x00b", "\ud800"]),
)
FORMATS = st.one_of(st.sampled_from(["raw", "qcow2"]), st.sampled_from(["", "vmdk", "auto"]))
SIZES = st.one_of(
    st.integers(1, 1 << 30).map(lambda number: number * 1024),
    st.integers(-1, 1 << 63),
    st.sampled_from([0, 1, 512, 1 << 62, 1 << 64]),
)
PATHS = st.one_of(
    st.sampled_from([BASE, "/a b/c", "/srv/&<>'\"", "/dev/vg/lv"]),
    st.sampled_from(["", "/", "a", "/a/../b", "//a", "/a//b", "/a/", "json:{}", "/a\nb", "/a\x85"]),
    st.text(max_size=12).map("/".__add__),
)
NUMBERS = st.one_of(st.none(), st.integers(-1, 1 << 33))
TARGETS = st.builds(
    Target,
    format=FORMATS,
    cluster_size=st.one_of(
        st.none(), st.sampled_from([512, 65536, 131072, 1 << 21, 0, 3, 1 << 22])
    ),
    lazy_refcounts=st.booleans(),
    extended_l2=st.booleans(),
    nocow=st.booleans(),
    encryption=st.one_of(st.none(), st.none(), st.sampled_from([UUID, "open sesame", ""])),
    permissions=st.one_of(
        st.none(), st.builds(Permissions, st.one_of(st.none(), st.integers(-1, 0o1000)), NUMBERS)
    ),
)
POOLS = st.builds(
    Pool,
    st.one_of(st.just("p"), st.sampled_from(["a b", "&<>'\"", "", "a/b"])),
    st.one_of(st.just("dir"), st.sampled_from(sorted(POOL_DISK_TYPES))),
    st.sampled_from(["/srv/p", "/dev/vg", ""]),
)
HOSTS = st.sampled_from(["0.10.2", "1.0.5", "7.0.0", "9.0.0", "12.8.0"]).map(
    lambda version: Host(libversion=version_of(version))
)
PREALLOCATE = st.sampled_from(["no", "no", "metadata", "full"])


def judged(host: Host, make: Callable[[], Creation]) -> Creation | None:
    """What was made, valid; None if it was refused, with words that help."""
    refused = None
    try:
        made = make()
    except VolumeError as error:
        refused = error
    if refused is not None:
        assert refused.id in RULES
        assert str(refused).endswith(f" ({refused.id})")
        assert "\n" not in str(refused)
        return None
    assert () == validate(made.document)
    assert () == policy(made.document, "storage")
    nova = policy(made.document, "nova")
    assert (names.split_volume_name(made.name) is None) == bool(nova), nova
    assert made.document.source == Document.parse(made.document.source).source
    for command in commands(made):
        assert all(word.isprintable() for word in command.words)
    return made


def said(document: Document, path: str) -> str | None:
    """The text of an element."""
    return document.root.findtext(path)


# The laws, on everything.


@LAWS
@given(HOSTS, POOLS, NAMES, TARGETS, SIZES, PREALLOCATE)
@example(HOST, DIR, "v", RAW, MIB, "full")
def test_a_blank_volume_is_valid_or_refused(
    host: Host, pool: Pool, name: str, target: Target, size: int, preallocate: Any
) -> None:
    """And says the name, size and format that were asked for, and whether space is reserved."""
    made = judged(host, lambda: blank(host, pool, name, target, size, preallocate))
    if made is None:
        return
    assert (name, str(size)) == (made.name, said(made.document, "capacity"))
    allocation = said(made.document, "allocation")
    if pool.type == "rbd":
        assert allocation is None
    elif preallocate == "full" or pool.type in ("logical", "disk", "zfs"):
        assert str(size) == allocation
    else:
        assert "0" == allocation
    assert (preallocate != "no" and target.format == "qcow2") == bool(made.flags)
    assert None is said(made.document, "backingStore/path")


@LAWS
@given(HOSTS, POOLS, NAMES, TARGETS, PATHS, FORMATS, st.one_of(st.none(), SIZES))
@example(HOST, DIR, "v", QCOW2, BASE, "raw", None)
def test_an_overlay_is_valid_or_refused(
    host: Host,
    pool: Pool,
    name: str,
    target: Target,
    backing: str,
    format_: str,
    size: int | None,
) -> None:
    """And always has the path and the format of its backing image, and takes no space."""
    made = judged(host, lambda: overlay(host, pool, name, target, backing, format_, size))
    if made is None:
        return
    backed = made.document.root.find("backingStore/format")
    assert backing == said(made.document, "backingStore/path")
    assert backed is not None
    assert format_ == backed.get("type")
    assert "qcow2" == target.format
    assert "0" == said(made.document, "allocation")


@LAWS
@given(
    HOSTS,
    POOLS,
    NAMES,
    TARGETS,
    POOLS,
    NAMES,
    FORMATS,
    st.one_of(st.none(), SIZES),
    PREALLOCATE,
    st.booleans(),
)
@example(HOST, DIR, "v", RAW, IMAGES, "base", "raw", MIB, "no", True)
@example(HOST, DIR, "v", QCOW2, IMAGES, "base", "raw", MIB, "no", False)
@example(HOST, DISK, "sdb1", RAW, IMAGES, "base", "qcow2", MIB, "no", False)
@example(HOST, RBD, "v", RAW, RBD, "base", "raw", MIB, "no", False)
def test_a_copy_is_valid_or_refused(
    host: Host,
    pool: Pool,
    name: str,
    target: Target,
    source_pool: Pool,
    source: str,
    format_: str,
    size: int | None,
    preallocate: Any,
    reflink: bool,
) -> None:
    """It has no backing file; growing is a step of its own, unless libvirt copies by itself."""
    made = judged(
        host,
        lambda: copy(
            host,
            pool,
            name,
            target,
            source_pool,
            source,
            format_,
            size,
            preallocate,
            reflink=reflink,
        ),
    )
    if made is None:
        return
    assert size is not None
    assert str(size) == said(made.document, "capacity")
    assert made.capacity in (None, size)
    if "raw" == target.format == format_ and pool.type != "rbd":
        assert made.capacity is None
    assert None is said(made.document, "backingStore/path")
    assert ((source_pool.name, source), format_) == (made.source, made.source_format)
    if "rbd" in (pool.type, source_pool.type):
        assert pool.name == source_pool.name


@LAWS
@given(
    HOSTS,
    POOLS,
    NAMES,
    TARGETS,
    PATHS,
    FORMATS,
    SIZES,
    st.sampled_from([None, "zlib", "zstd"]),
)
@example(HOST, DIR, "v", QCOW2, BASE, "qcow2", MIB, "zlib")
@example(HOST, DIR, "v", QCOW2, BASE, "qcow2", MIB + 512, "zlib")
@example(HOST, DIR, "v", QCOW2, BASE, "raw", MIB, "zstd")
@example(HOST, DISK, "sdb1", RAW, BASE, "raw", MIB, None)
def test_a_snapshot_is_valid_or_refused(
    host: Host,
    pool: Pool,
    name: str,
    target: Target,
    source: str,
    format_: str,
    size: int,
    compress: Any,
) -> None:
    """qemu-img is told both formats, never probes, and never ignores a lock."""
    made = judged(host, lambda: snapshot(host, pool, name, target, source, format_, size, compress))
    if made is None:
        return
    assert made.fill is not None
    words = made.fill.argv
    assert ("qemu-img", "convert", "-f", format_, "-O", target.format) == words[:6]
    assert (source, pool.path_of(name)) == words[-2:]
    assert (compress is not None) == ("-c" in words)
    assert ("-n" in words) != ("-o" in words)
    assert not {"-U", "--force-share"} & set(words)
    assert ("compression_type=zstd" in " ".join(words)) == (compress == "zstd")
    assert size <= int(said(made.document, "capacity") or 0) < size + 1024


@LAWS
@given(
    HOSTS,
    NAMES,
    st.dictionaries(st.sampled_from(["vda", "vdb", "vdc", "hda", "vdx"]), PATHS, max_size=3),
    st.text(max_size=12),
    st.booleans(),
)
@example(HOST, "s", {"vda": "/srv/new", "vdb": "/srv/newer"}, "why & what for", True)
def test_a_domain_snapshot_is_valid_or_refused(
    host: Host, name: str, files: dict[str, str], description: str, running: bool
) -> None:
    """Each disk is said, those that take part with the new file and its format."""
    refused = None
    try:
        made = domain_snapshot(
            *(host, Document.parse(DOMAIN), name, files), description=description, running=running
        )
    except DocumentError:
        return  # what no XML can have
    except VolumeError as error:
        refused = error
    if refused is not None:
        assert refused.id in RULES
        assert "\n" not in str(refused)
        return
    assert () == validate(made) == policy(made, "storage")
    assert name == made.name
    disks = {disk.get("name"): disk for disk in made.root.iterfind("disks/disk")}
    assert ["vda", "vdb", "hda", "vdc"] == list(disks)
    for target, disk in disks.items():
        source, driver = disk.find("source"), disk.find("driver")
        if target not in files:
            assert ("no", None, None) == (disk.get("snapshot"), source, driver)
            continue
        assert source is not None
        assert driver is not None
        assert ("external", files[target], "qcow2") == (
            *(disk.get("snapshot"), source.get("file"), driver.get("type")),
        )


# Whole documents.


EVERYTHING = Target(
    "qcow2",
    cluster_size=131072,
    lazy_refcounts=True,
    extended_l2=True,
    nocow=True,
    encryption=UUID,
    permissions=Permissions(0o640, 64055, 64055),
)
EXAMPLES: dict[str, Callable[[], Document]] = {
    "blank": lambda: blank(HOST, DIR, "swap", RAW, MIB).document,
    "overlay": lambda: overlay(HOST, DIR, f"{UUID}_disk", QCOW2, BASE, "raw", 10 * MIB).document,
    "everything": lambda: overlay(HOST, DIR, "a&b", EVERYTHING, BASE, "raw", MIB).document,
    "logical": lambda: blank(HOST, VG, "swap", RAW, MIB).document,
    "rbd": lambda: blank(HOST, RBD, "swap", RAW, MIB).document,
    "copy": lambda: copy(HOST, DIR, "disk", RAW, IMAGES, "base", "raw", MIB, reflink=True).document,
    "snapshot": lambda: snapshot(HOST, DIR, "s", QCOW2, "/srv/a", "raw", MIB, "zstd").document,
    "domain-snapshot": lambda: domain_snapshot(
        HOST, Document.parse(DOMAIN), "s1", {"vda": "/srv/a.s1"}, description="before <upgrade>"
    ),
}


@pytest.mark.parametrize("name", EXAMPLES)
def test_examples(name: str, libvirt_snapshot: SnapshotAssertion) -> None:
    """What an operator gets, and valid."""
    assert libvirt_snapshot == EXAMPLES[name]()


def test_a_document_has_one_element_a_line() -> None:
    """Indented by two, without an empty line, as libvirt writes its own."""
    for make in EXAMPLES.values():
        for line in make().text.splitlines():
            assert re.fullmatch(r"(  )*<[^ ].*>", line)


# What is refused, and why.


def refusal(make: Callable[[], object]) -> str:
    """The id of a refusal."""
    with pytest.raises(VolumeError) as caught:
        make()
    return caught.value.id


@pytest.mark.parametrize(
    ("expected", "make"),
    [
        ("volume-name", lambda: blank(HOST, DIR, "a/b", RAW, MIB)),
        ("volume-name", lambda: blank(HOST, DISK, f"{UUID}_disk", RAW, MIB)),
        ("volume-name", lambda: blank(HOST, VG, "snapshot1", RAW, MIB)),
        ("volume-name", lambda: blank(HOST, VG, "lv_mimage_0", RAW, MIB)),
        ("volume-name", lambda: blank(HOST, VG, "a b", RAW, MIB)),
        ("volume-pool", lambda: blank(HOST, Pool("i", "iscsi", "/dev"), "v", RAW, MIB)),
        ("volume-pool", lambda: blank(HOST, Pool("a/b", "dir", "/a"), "v", RAW, MIB)),
        ("volume-format", lambda: blank(HOST, VG, "v", QCOW2, MIB)),
        ("volume-format", lambda: blank(HOST, RBD, "v", QCOW2, MIB)),
        ("volume-format", lambda: blank(HOST, DIR, "v", Target("auto"), MIB)),
        ("volume-format", lambda: overlay(HOST, DIR, "v", QCOW2, BASE, "")),
        ("volume-capacity", lambda: blank(HOST, DIR, "v", QCOW2, MIB + 512)),
        ("volume-capacity", lambda: blank(HOST, DIR, "v", RAW, MIB + 1)),
        ("volume-capacity", lambda: copy(HOST, DIR, "v", RAW, IMAGES, "base", "raw")),
        ("volume-backing", lambda: overlay(HOST, VG, "v", RAW, BASE, "raw")),
        ("volume-backing", lambda: overlay(HOST, DIR, "v", RAW, BASE, "raw")),
        ("volume-backing", lambda: overlay(HOST, DIR, "v", QCOW2, "/srv/disks/v", "raw")),
        ("volume-path", lambda: overlay(HOST, DIR, "v", QCOW2, "base", "raw")),
        ("volume-path", lambda: overlay(HOST, DIR, "v", QCOW2, "/a/../base", "raw")),
        ("volume-path", lambda: overlay(HOST, DIR, "v", QCOW2, "/" + "a" * 1023, "raw")),
        ("volume-path", lambda: snapshot(HOST, DIR, "v", RAW, "nbd:h:1", "raw", MIB)),
        ("volume-path", lambda: snapshot(HOST, Pool("p", "dir", ""), "v", RAW, BASE, "raw", MIB)),
        ("volume-option", lambda: blank(HOST, DIR, "v", RAW, MIB, "metadata")),
        ("volume-option", lambda: blank(HOST, DIR, "v", replace(RAW, lazy_refcounts=True), MIB)),
        ("volume-option", lambda: blank(HOST, DIR, "v", replace(QCOW2, cluster_size=3), MIB)),
        ("volume-option", lambda: blank(HOST, DIR, "v", replace(QCOW2, encryption="key"), MIB)),
        ("volume-option", lambda: blank(HOST, VG, "v", replace(RAW, encryption=UUID), MIB)),
        ("volume-option", lambda: blank(HOST, VG, "v", replace(RAW, nocow=True), MIB)),
        (
            "volume-option",
            lambda: blank(HOST, RBD, "v", replace(RAW, permissions=Permissions(0o600)), MIB),
        ),
        ("volume-option", lambda: snapshot(HOST, DIR, "v", RAW, BASE, "raw", MIB, "zlib")),
        (
            "volume-option",
            lambda: copy(HOST, DIR, "v", QCOW2, IMAGES, "base", "raw", MIB, reflink=True),
        ),
        ("volume-copy", lambda: copy(HOST, RBD, "v", RAW, IMAGES, "base", "raw")),
        ("volume-copy", lambda: copy(HOST, DIR, "v", RAW, RBD, "base", "raw")),
        ("volume-copy", lambda: copy(HOST, DIR, "v", RAW, DIR, "v", "raw")),
        ("volume-copy", lambda: snapshot(HOST, RBD, "v", RAW, BASE, "raw", MIB)),
        ("volume-copy", lambda: snapshot(HOST, DIR, "v", RAW, "/srv/disks/v", "raw", MIB)),
    ],
)
def test_what_makes_no_sense_is_refused(expected: str, make: Callable[[], object]) -> None:
    """Before libvirt refuses it, ignores it, or does something else."""
    assert expected == refusal(make)


@pytest.mark.parametrize(
    ("target", "version", "honoured"),
    [
        (replace(QCOW2, cluster_size=131072), "7.3.0", "7.4.0"),
        (replace(QCOW2, extended_l2=True), "7.10.0", "8.0.0"),
        (QCOW2, "1.0.6", "1.1.0"),
        (replace(RAW, nocow=True), "1.2.6", "1.2.7"),
        (replace(RAW, encryption=UUID), "4.4.0", "4.5.0"),
    ],
    ids=["cluster_size", "extended_l2", "compat", "nocow", "encryption"],
)
def test_an_option_is_refused_where_libvirt_would_not_honour_it(
    target: Target, version: str, honoured: str
) -> None:
    """7.0 ignores clusterSize without a word; the message says since when it is honoured."""
    old, new = (Host(libversion=version_of(each)) for each in (version, honoured))
    with pytest.raises(VolumeError, match=rf"since {re.escape(honoured)}\).*volume-version"):
        blank(old, DIR, "v", target, MIB)

    assert "v" == blank(new, DIR, "v", target, MIB).name
    assert "v" == blank(Host(), DIR, "v", target, MIB).name


def test_compat_is_always_said() -> None:
    """Without it libvirt before 10.2 makes 0.10 images; where it cannot be said, none is made."""
    assert "1.1" == said(blank(HOST, DIR, "v", QCOW2, MIB).document, "target/compat")
    assert None is said(blank(HOST, DIR, "v", RAW, MIB).document, "target/compat")


def observed(**fields: Any) -> Pool:
    """A pool with one observed volume, `base`."""
    volume = Volume("images", "base", BASE, capacity=8 * MIB, **fields)
    return replace(IMAGES, volumes=(volume,))


@pytest.mark.parametrize(
    ("expected", "fields"),
    [
        ("format-disagrees", {"format": "qcow2"}),
        ("volume-path", {"format": "raw", "link": True}),
        ("volume-path", {"format": "raw", "type": "dir"}),
    ],
)
def test_what_the_pool_says_of_a_source_may_only_confirm(
    expected: str, fields: dict[str, Any]
) -> None:
    """Overlay, copy and snapshot alike."""
    pool = observed(**fields)
    host = replace(HOST, pools=(pool,))
    assert {expected} == {
        refusal(lambda: overlay(host, DIR, "v", QCOW2, BASE, "raw")),
        refusal(lambda: copy(host, DIR, "v", RAW, pool, "base", "raw")),
        refusal(lambda: snapshot(host, DIR, "v", RAW, BASE, "raw", MIB)),
    }


def test_a_source_that_is_not_observed_or_agrees_is_taken() -> None:
    """An unknown volume, one without a format, an ISO image said to be raw."""
    for format_ in (None, "raw", "iso"):
        pool = observed(format=format_)
        host = replace(HOST, pools=(pool,))
        assert "v" == overlay(host, DIR, "v", QCOW2, BASE, "raw").name
        assert "v" == copy(host, DIR, "v", RAW, pool, "base", "raw").name
        assert "v" == copy(host, DIR, "v", RAW, pool, "other", "raw", MIB).name


def test_an_observed_rbd_image_is_copied_within_its_pool_only() -> None:
    """It is no file, so only libvirt can read it."""
    volume = Volume("ceph", "base", "vms/base", type="network", format="raw", capacity=8 * MIB)
    pool = replace(RBD, volumes=(volume,))

    assert ("ceph", "base") == copy(HOST, pool, "v", RAW, pool, "base", "raw").source
    assert "volume-copy" == refusal(lambda: copy(HOST, DIR, "v", RAW, pool, "base", "raw"))


def test_nothing_is_smaller_than_what_it_is_made_from() -> None:
    """Where the size of the source is known."""
    pool = observed(format="raw")
    host = replace(HOST, pools=(pool,))
    assert {"volume-capacity"} == {
        refusal(lambda: overlay(host, DIR, "v", QCOW2, BASE, "raw", MIB)),
        refusal(lambda: copy(host, DIR, "v", RAW, pool, "base", "raw", MIB)),
    }


def test_a_copy_of_what_has_a_backing_file_is_refused() -> None:
    """libvirt would follow it."""
    pool = observed(format="qcow2", backing="/etc/shadow")
    assert "volume-copy" == refusal(lambda: copy(HOST, DIR, "v", RAW, pool, "base", "qcow2"))


def test_an_encrypted_image_is_no_backing_and_no_source_of_qemu_img() -> None:
    """Its bytes are not its content."""
    pool = observed(format="raw", encryption="luks")
    host = replace(HOST, pools=(pool,))
    assert {"volume-option"} == {
        refusal(lambda: overlay(host, DIR, "v", QCOW2, BASE, "raw")),
        refusal(lambda: snapshot(host, DIR, "v", RAW, BASE, "raw", MIB)),
        refusal(lambda: snapshot(HOST, DIR, "v", replace(RAW, encryption=UUID), BASE, "raw", MIB)),
    }


def test_a_volume_that_is_there_is_refused() -> None:
    """Where the pool was observed."""
    assert "volume-exists" == refusal(lambda: blank(HOST, observed(), "base", RAW, MIB))


def test_a_secret_that_is_no_uuid_is_not_repeated() -> None:
    """It may be the passphrase itself."""
    with pytest.raises(VolumeError) as caught:
        blank(HOST, DIR, "v", replace(RAW, encryption="open sesame"), MIB)

    assert "sesame" not in str(caught.value)


# Snapshots of domains.


def snapshot_of(files: dict[str, str], *, version: str = "9.0.0", running: bool = True) -> Document:
    host = Host(libversion=version_of(version))
    return domain_snapshot(host, Document.parse(DOMAIN), "s1", files, running=running)


@pytest.mark.parametrize(
    "make",
    [
        lambda: snapshot_of({}),
        lambda: snapshot_of({"vdx": "/a"}),
        lambda: snapshot_of({"hda": "/a"}),
        lambda: snapshot_of({"vdc": "/a"}),
        lambda: snapshot_of({"vda": "/srv/a"}),
        lambda: snapshot_of({"vda": "/new", "vdb": "/new"}),
        lambda: snapshot_of({"vdb": "/new"}, version="8.10.0"),
        lambda: snapshot_of({"vdb": "/new"}, running=False),
        lambda: domain_snapshot(HOST, Document.parse("<pool/>"), "s1", {"vda": "/new"}),
    ],
)
def test_a_disk_that_cannot_be_snapshot_is_refused(make: Callable[[], object]) -> None:
    """No such disk, a drive, a network disk, its own file, a libvirt that would lose data."""
    assert "snapshot-disk" == refusal(make)


def test_a_snapshot_says_each_disk() -> None:
    """Those that take no part are said to: libvirt would take them along."""
    root = snapshot_of({"vdb": "/new"}).root

    assert [("vda", "no"), ("vdb", "external"), ("hda", "no"), ("vdc", "no")] == [
        (disk.get("name"), disk.get("snapshot")) for disk in root.iterfind("disks/disk")
    ]
    assert () == validate(snapshot_of({"vda": "/new", "vdb": "/new2"}))


# Commands.


def test_commands_of_a_snapshot() -> None:
    """Create, fill, refresh; what fails after the volume is there removes it."""
    pool = Pool(SNAPSHOT_POOL, "dir", "/srv/snapshots")
    made = snapshot(HOST, pool, "s", QCOW2, "/srv/a b", "qcow2", MIB, "zstd")
    create, filled, refresh = commands(made)

    assert ("virsh vol-create --pool nova-snapshots-pool --file /dev/stdin", made.document) == (
        str(create),
        create.document,
    )
    assert (
        "qemu-img convert -f qcow2 -O qcow2 -c -o compat=1.1,compression_type=zstd "
        "'/srv/a b' /srv/snapshots/s"
    ) == str(filled)
    assert ("virsh", "vol-delete", "--pool", SNAPSHOT_POOL, "--vol", "s") == filled.undo
    assert "virsh pool-refresh --pool nova-snapshots-pool" == str(refresh)


def test_commands_of_a_copy_that_grows() -> None:
    """createXMLFrom ignores a larger size."""
    made = copy(HOST, DIR, "v", QCOW2, IMAGES, "base", "raw", MIB)
    refresh, look, create, resize = commands(made)

    assert "virsh pool-refresh --pool images" == str(refresh)
    assert ("sh", "-c", ("sh", "images", "base", "raw")) == (*look.words[:2], look.words[3:])

    assert (
        "virsh vol-create-from --pool disks --file /dev/stdin --inputpool images --vol base"
    ) == str(create)
    assert "virsh vol-resize --pool disks --vol v --capacity 1048576" == str(resize)
