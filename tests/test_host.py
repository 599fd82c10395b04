"""Host: what libvirt's documents say of pools and volumes, and what the operator says instead."""

from __future__ import annotations

import re
from pathlib import Path

import libvirt
import pytest
from lxml import etree

from xmlkit import DocumentError, Host, HostError, Pool, Volume, parse_host
from xmlkit.host import (
    CAPABILITIES,
    POOL_DISK_TYPES,
    aa_helper_reads,
    parse_pool,
    parse_pool_option,
    parse_volume,
    version_of,
    version_text,
)

FIXTURES = Path(__file__).parents[1] / "fixtures"


def volume(xml: str, pool: str = "p") -> Volume:
    return parse_volume(etree.fromstring(xml), pool)


# What the operator says.


@pytest.mark.parametrize(
    ("text", "name", "type_", "path"),
    [
        pytest.param("a=/x", "a", "dir", "/x", id="directory"),
        pytest.param("a=/x/", "a", "dir", "/x", id="slash-at-the-end"),
        pytest.param("a=/x///", "a", "dir", "/x", id="slashes-at-the-end"),
        pytest.param("a=/", "a", "dir", "/", id="root"),
        pytest.param("a=/x//y", "a", "dir", "/x/y", id="slashes-between"),
        pytest.param("a=/x:y", "a", "dir", "/x:y", id="colon-in-path"),
        pytest.param("a=/x:/y", "a", "dir", "/x:/y", id="colon-then-slash"),
        pytest.param("a=dir:/x", "a", "dir", "/x", id="type"),
        pytest.param("a=dir:/x:y", "a", "dir", "/x:y", id="type-and-colon"),
        pytest.param("a=netfs:/x", "a", "netfs", "/x", id="netfs"),
        pytest.param("a=logical:/dev/vg", "a", "logical", "/dev/vg", id="logical"),
        pytest.param("a=disk:/dev", "a", "disk", "/dev", id="disk"),
        pytest.param("a=rbd:pool", "a", "rbd", "pool", id="no-path"),
        pytest.param("a=/x=y", "a", "dir", "/x=y", id="equals-in-path"),
        pytest.param("a:b=/x", "a:b", "dir", "/x", id="colon-in-name"),
        pytest.param("a b=/x y", "a b", "dir", "/x y", id="blanks"),
        pytest.param("ä=/ü", "ä", "dir", "/ü", id="umlauts"),
    ],
)
def test_a_pool_is_said_as_name_type_and_path(text: str, name: str, type_: str, path: str) -> None:
    """NAME=[TYPE:]PATH: a type is there only if no "/" comes before the first ":"."""
    expected = Pool(name, type_, path, active=True, autostart=True, volumes=None)

    assert expected == parse_pool_option(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param("", "write NAME=PATH", id="empty"),
        pytest.param("a", "write NAME=PATH", id="no-path"),
        pytest.param("/x", "write NAME=PATH", id="path-alone"),
        pytest.param("a=", "write NAME=PATH", id="empty-path"),
        pytest.param("=/x", "write NAME=PATH", id="no-name"),
        pytest.param("a=dir:", "write NAME=PATH", id="type-without-path"),
        pytest.param("a=x", "must be absolute", id="relative"),
        pytest.param("a=dir:x", "must be absolute", id="relative-with-type"),
        pytest.param("a=lvm:/x", "not a pool type: 'lvm'", id="unknown-type"),
        pytest.param("a=DIR:/x", "not a pool type: 'DIR'", id="upper-case"),
        pytest.param("a=:/x", "not a pool type: ''", id="empty-type"),
    ],
)
def test_a_pool_that_cannot_be_is_refused(text: str, message: str) -> None:
    """The message says what is wrong and what to write."""
    with pytest.raises(HostError, match=re.escape(message)):
        parse_pool_option(text)


def test_an_unknown_pool_type_is_answered_with_libvirts_types(libvirt_source: Path) -> None:
    """The types are those of libvirt's schema, no more and no fewer."""
    schema = etree.parse(libvirt_source / "src/conf/schemas/storagepool.rng")
    values = schema.xpath(
        "//r:define[starts-with(@name, 'pool')]/r:attribute[@name='type']/r:value",
        namespaces={"r": "http://relaxng.org/ns/structure/1.0"},
    )
    assert isinstance(values, list)

    assert {each.text for each in values if isinstance(each, etree._Element)} == set(
        POOL_DISK_TYPES
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0.10.2", 10_002),
        ("1.0.4", 1_000_004),
        ("1.0.5", 1_000_005),
        ("9.0.0", 9_000_000),
        ("9.0", 9_000_000),
        ("12.8.0", 12_008_000),
        ("1.3.999", 1_003_999),
    ],
)
def test_a_version_counts_as_libvirt_counts_it(text: str, expected: int) -> None:
    """libVersion(): major * 1,000,000 + minor * 1,000 + release."""
    assert expected == version_of(text)


@pytest.mark.parametrize("text", ["0.10.2", "1.0.4", "9.0.0", "12.8.0"])
def test_a_version_is_shown_as_it_is_written(text: str) -> None:
    """What libVersion() counts reads as people write it."""
    assert text == version_text(version_of(text))


@pytest.mark.parametrize(
    "text",
    ["", "9", "9.", ".9", "9.0.0.0", "9.0.x", "v9.0.0", "9,0", "-1.0", "9.1000", "1.0 ", "1.0\n"],
)
def test_what_is_no_version_is_refused(text: str) -> None:
    """The message shows how to write one."""
    with pytest.raises(HostError, match=r"write it like 9\.0\.0"):
        version_of(text)


# What libvirt says.


@pytest.mark.parametrize(
    ("number", "unit", "expected"),
    [
        ("1", None, 1),
        ("1", "bytes", 1),
        ("1", "B", 1),
        ("2", "K", 2048),
        ("2", "KiB", 2048),
        ("2", "k", 2048),
        ("2", "KB", 2000),
        ("3", "M", 3 * 2**20),
        ("3", "MB", 3_000_000),
        ("5", "GiB", 5 * 2**30),
        ("5", "G", 5 * 2**30),
        ("1", "TiB", 2**40),
        ("1", "TB", 10**12),
        ("1", "PiB", 2**50),
        ("1", "EiB", 2**60),
        (" 7 ", "bytes", 7),
    ],
)
def test_a_size_counts_bytes(number: str, unit: str | None, expected: int) -> None:
    """As virScaleInteger of libvirt reads it: K, KiB by 1024, KB by 1000."""
    attribute = "" if unit is None else f" unit='{unit}'"
    found = volume(
        f"<volume><name>v</name><capacity{attribute}>{number}</capacity>"
        f"<allocation{attribute}>{number}</allocation></volume>"
    )

    assert (expected, expected) == (found.capacity, found.allocation)


@pytest.mark.parametrize("number", ["", "x", "-1", "1.5"])
def test_a_size_that_is_no_number_is_not_known(number: str) -> None:
    """It is None and never a guess."""
    assert None is volume(f"<volume><name>v</name><capacity>{number}</capacity></volume>").capacity


@pytest.mark.parametrize("text", ["", "x", "-1", "nan", "1e9", "1.0000000001", "1" * 13])
def test_a_time_that_is_none_is_not_known(text: str) -> None:
    """libvirt writes seconds, and nine digits after the point at most."""
    times = f"<timestamps><mtime>{text}</mtime></timestamps>"
    xml = f"<volume><name>v</name><target>{times}</target></volume>"

    assert None is volume(xml).modified


def test_a_volume_is_what_its_document_says() -> None:
    """Each field comes from the element that libvirt documents for it."""
    found = volume(
        """<volume type='file'>
             <name>a.qcow2</name>
             <key>/key</key>
             <capacity unit='bytes'>100</capacity>
             <allocation unit='bytes'>7</allocation>
             <target>
               <path>/x/a.qcow2</path>
               <format type='qcow2'/>
               <timestamps><mtime>1795635689.681289846</mtime></timestamps>
               <encryption format='luks'/>
             </target>
             <backingStore><path>/x/base</path><format type='raw'/></backingStore>
           </volume>"""
    )
    expected = Volume(
        pool="p",
        name="a.qcow2",
        path="/x/a.qcow2",
        type="file",
        format="qcow2",
        capacity=100,
        allocation=7,
        backing="/x/base",
        backing_format="raw",
        encryption="luks",
        modified=1795635689.681289846,
    )

    assert expected == found


@pytest.mark.parametrize(
    "format_",
    [
        pytest.param("", id="none"),
        pytest.param("<format type='linux'/>", id="a-partitions-type"),
        pytest.param("<format type='qcow2'/>", id="a-probe"),
    ],
)
def test_a_volume_of_type_block_is_raw(format_: str) -> None:
    """Whatever its document says: nothing is probed there, a disk pool says a partition's type."""
    found = volume(f"<volume type='block'><name>v</name><target>{format_}</target></volume>")

    assert "raw" == found.format


def test_what_a_volumes_document_does_not_say_is_not_known() -> None:
    """No format, sizes or backing file are made up."""
    found = volume("<volume><name>v</name></volume>")

    assert (None, None, None, None, None) == (
        found.format,
        found.capacity,
        found.allocation,
        found.backing,
        found.encryption,
    )


def test_a_pool_without_a_path_has_none() -> None:
    """Such as a pool of RBD images."""
    assert "" == parse_pool(etree.fromstring("<pool type='rbd'><name>p</name></pool>")).path


@pytest.mark.parametrize(
    ("pool", "expected"),
    [
        pytest.param(Pool("p", "dir", "/x"), "/x/new", id="dir"),
        pytest.param(Pool("p", "dir", "/"), "/new", id="root"),
        pytest.param(Pool("p", "logical", "/dev/vg"), "/dev/vg/new", id="logical"),
        pytest.param(Pool("p", "iscsi", "/dev/disk/by-path"), None, id="iscsi"),
        pytest.param(Pool("p", "rbd", ""), None, id="rbd"),
        pytest.param(
            Pool("p", "iscsi", "/x", volumes=(Volume("p", "new", "/y/lun-1"),)),
            "/y/lun-1",
            id="observed",
        ),
    ],
)
def test_a_volumes_path_is_the_pools_and_its_name(pool: Pool, expected: str | None) -> None:
    """PATH/NAME where libvirt makes it so; else only libvirt knows, of volumes that are there."""
    assert expected == pool.path_of("new")


# Where a path lies.

HOST = Host(
    pools=(
        Pool("images", "dir", "/srv/images", volumes=(Volume("images", "a", "/srv/images/a"),)),
        Pool("vg", "logical", "/dev/vg"),
        Pool("iscsi", "iscsi", "/dev/disk/by-path", volumes=(Volume("iscsi", "u", "/dev/lun"),)),
        Pool("root", "dir", "/"),
    )
)


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        pytest.param("/srv/images/a", ("images", "a", True), id="observed"),
        pytest.param("/srv/images/b", ("images", "b", False), id="not-observed"),
        pytest.param("/srv//images/a", ("images", "a", True), id="slashes-as-libvirt-reads-them"),
        pytest.param("/dev/vg/lv", ("vg", "lv", False), id="logical"),
        pytest.param("/dev/lun", ("iscsi", "u", True), id="by-the-volumes-path"),
        pytest.param("/a", ("root", "a", False), id="root"),
        pytest.param("/srv/images/old/a", None, id="subdirectory"),
        pytest.param("/srv/imagesx/a", None, id="other-directory"),
        pytest.param("/srv", ("root", "srv", False), id="directory-in-root"),
        pytest.param("/dev/disk/by-path/x", None, id="a-pool-whose-names-are-no-paths"),
        pytest.param("a", None, id="relative"),
        pytest.param("srv/images/a", None, id="relative-directory"),
    ],
)
def test_a_path_lies_directly_in_a_pool_or_outside(
    path: str, expected: tuple[str, str, bool] | None
) -> None:
    """By string equality of the directory; subdirectories and relative paths lie in no pool."""
    found = HOST.lookup(path)

    assert expected == (found and (found[0].name, found[1], found[2] is not None))


@pytest.mark.parametrize("order", [(0, 1), (1, 0)], ids=["active-first", "active-last"])
def test_of_two_pools_on_a_directory_the_active_one_counts(order: tuple[int, int]) -> None:
    """libvirt lets an inactive pool have the directory of another one."""
    pools = (Pool("on", "dir", "/x", active=True), Pool("off", "dir", "/x", active=False))
    found = Host(pools=tuple(pools[i] for i in order)).lookup("/x/a")

    assert found is not None
    assert "on" == found[0].name


def test_a_pool_without_a_path_holds_no_file() -> None:
    """An empty `<target><path>` is not the root directory."""
    assert None is Host(pools=(Pool("p", "dir", ""),)).lookup("/a")


# Host files.


def test_a_host_is_what_its_file_says() -> None:
    """Version, driver, security models, and each pool with its state and volumes."""
    host = parse_host(
        """<host version="1" uri="qemu:///system" libversion="9000000">
             <capabilities><host>
               <secmodel><model>apparmor</model><doi>0</doi></secmodel>
               <secmodel><model>dac</model><doi>0</doi></secmodel>
             </host></capabilities>
             <storage active='yes' autostart='no'>
               <pool type='dir'><name>a</name><target><path>/a</path></target></pool>
               <volume><name>v</name><target><path>/a/v</path></target></volume>
               <volume><name>w</name><target><path>/a/w</path></target></volume>
               <link>/a/w</link>
             </storage>
             <storage active='no' autostart='yes'>
               <pool type='dir'><name>b</name><target><path>/b</path></target></pool>
             </storage>
           </host>"""
    )
    expected = Host(
        libversion=9_000_000,
        driver="qemu",
        security_models=("apparmor", "dac"),
        pools=(
            Pool(
                "a",
                "dir",
                "/a",
                active=True,
                autostart=False,
                volumes=(Volume("a", "v", "/a/v"), Volume("a", "w", "/a/w", link=True)),
            ),
            Pool("b", "dir", "/b", active=False, autostart=True, volumes=None),
        ),
    )

    assert expected == host


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("qemu:///system", "qemu"),
        ("qemu+unix:///system?socket=/x", "qemu"),
        ("qemu+tls://host/system", "qemu"),
        ("xen:///", "xen"),
        ("test:///default", "test"),
        ("", "kvm"),
    ],
)
def test_the_driver_is_the_uris_scheme(uri: str, expected: str) -> None:
    """Without its transport; without a URI the capabilities' first type of guest says it."""
    host = parse_host(
        f"<host version='1' uri='{uri}' libversion='9000000'><capabilities><guest><arch name='x'>"
        "<domain type='kvm'/><domain type='qemu'/></arch></guest></capabilities></host>"
    )

    assert expected == host.driver


def test_an_empty_host_is_a_host() -> None:
    """Nothing observed is nothing known: no pools, no version, no driver."""
    assert Host() == parse_host("<host version='1' uri='' libversion=''/>")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        pytest.param("<domain/>", "its root is <domain>", id="other-root"),
        pytest.param("<host version='2'/>", "'2'", id="other-version"),
        pytest.param("<host/>", "version", id="no-version"),
        pytest.param("<host version='1' libversion='x'/>", "'x' is not a number", id="libversion"),
        pytest.param("<host version='1' libversion='-1'/>", "not a number", id="negative"),
        pytest.param("<host version='1'><storage/></host>", "without <pool>", id="no-pool"),
    ],
)
def test_what_is_no_host_file_is_refused(source: str, message: str) -> None:
    """The message says what is wrong."""
    with pytest.raises(HostError, match=re.escape(message)):
        parse_host(source)


def test_a_truncated_host_file_is_refused() -> None:
    """Half a host is no host."""
    whole = "<host version='1' uri='' libversion='9000000'><capabilities/></host>"
    with pytest.raises(DocumentError, match="not well-formed"):
        parse_host(whole[:-4])


# The table.


def test_each_capability_says_what_by_whom_and_where_it_was_seen() -> None:
    """No entry without a source and the versions it was tried on, and without a limit."""
    incomplete = [
        key
        for key, each in CAPABILITIES.items()
        if key != each.id
        or not (each.what and each.source and each.seen)
        or not (each.since or each.only or each.never)
    ]

    assert [] == incomplete


@pytest.mark.parametrize(
    ("libversion", "expected"),
    [(1_000_004, False), (1_000_005, True), (9_000_000, True), (None, True)],
    ids=["1.0.4", "1.0.5", "9.0.0", "unknown"],
)
def test_a_host_can_what_came_with_its_version(libversion: int | None, expected: bool) -> None:
    """`<disk type='volume'>` came with 1.0.5; an unknown version is taken as new."""
    assert expected is Host(libversion=libversion).can("volume-disks")


def test_volume_disks_came_when_libvirts_documentation_says(libvirt_source: Path) -> None:
    """docs/formatdomain.rst says since when there is `<disk type='volume'>`."""
    text = (libvirt_source / "docs/formatdomain.rst").read_text()
    found = re.search(r'"volume" \( :since:`since ([\d.]+)`', text)

    assert found is not None
    assert version_of(found.group(1)) == CAPABILITIES["volume-disks"].since


def test_pools_have_paths_where_libvirt_translates_volumes_to_paths(libvirt_source: Path) -> None:
    """By the cases of virDomainStorageSourceTranslateSourcePool: a path, or something else."""
    text = (libvirt_source / "src/conf/domain_conf.c").read_text()
    start = text.index("\nvirDomainStorageSourceTranslateSourcePool(")
    start = text.index("    switch ((virStoragePoolType) pooldef->type) {", start)
    body = text[start : text.index("\n    }\n", start)]
    groups = re.findall(r"((?:\n    case VIR_STORAGE_POOL_\w+:)+)(.*?)(?=\n    case|$)", body, re.S)
    found = {
        name.lower().replace("_", "-"): "virStorageVolGetPath" in action
        for cases, action in groups
        for name in re.findall(r"POOL_(\w+):", cases)
    }
    del found["last"]

    assert found == {pool: disk is not None for pool, disk in POOL_DISK_TYPES.items()}


def test_volume_disks_can_be_on_all_pools_but_those_that_libvirt_refuses(
    libvirt_source: Path,
) -> None:
    """The cases of the same function that end in "isn't yet supported"."""
    text = (libvirt_source / "src/conf/domain_conf.c").read_text()
    start = text.index("\nvirDomainStorageSourceTranslateSourcePool(")
    end = text.index("pools for backing 'volume' disks", start)
    cases = text[text.rindex("break;", start, end) : end]
    refused = {name.lower() for name in re.findall(r"POOL_(\w+):", cases)} - {"last"}

    assert POOL_DISK_TYPES.keys() - refused == CAPABILITIES["volume-disk-pools"].only


def test_drivers_with_volume_disks_call_libvirts_translation(libvirt_source: Path) -> None:
    """Of the directories in libvirt's src/, those that call virDomainDiskTranslateSourcePool."""
    callers = {
        path.parent.name
        for path in (libvirt_source / "src").glob("*/*.c")
        if "virDomainDiskTranslateSourcePool(" in path.read_text()
    }
    # in conf/ it is defined; kvm and hvf are guests of the qemu driver; test starts nothing
    expected = callers - {"conf"} | {"kvm", "hvf", "test"}

    assert expected == CAPABILITIES["volume-disk-drivers"].only


def test_apparmor_alone_keeps_volume_disks_from_starting() -> None:
    """SELinux and DAC label what the pool said; AppArmor's profile is made before."""
    assert frozenset(("apparmor",)) == CAPABILITIES["volume-disk-security"].never


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/var/lib/libvirt/images/a", True),
        ("/var/lib/libvirt/images/sub/a", True),
        ("/var/lib/nova/instances/_base/0123", True),
        ("/var/lib/nova/instances/_base/sub/0123", False),
        ("/var/lib/nova/instances/3f2c1c8e/disk", True),
        ("/var/lib/nova/instances/3f2c1c8e/disk.local", True),
        ("/var/lib/nova/instances/disks/3f2c1c8e_disk", False),
        ("/var/lib/nova/instances/disks/3f2c1c8e_disk.local", False),
        ("/srv/a", True),
        ("/srv/deep/er/a", True),
        ("/opt/a", True),
        ("/mnt/a", True),
        ("/media/a", True),
        ("/home/user/a", True),
        ("/home/a", False),
        ("/root/a", True),
        ("/home/user/.cache/a", False),
        ("/data/a", False),
        ("/data/a.qcow2", True),
        ("/data/a.qcow", True),
        ("/data/a.img", True),
        ("/data/a.iso", True),
        ("/data/a.ISO", True),
        ("/data/a.qcow3", False),
        ("/data/diskette", False),
        ("/srv", False),
    ],
)
def test_virt_aa_helper_reads_where_its_profile_lets_it(path: str, expected: bool) -> None:
    """As libvirt ships the profile."""
    assert expected is aa_helper_reads(path)


def test_what_virt_aa_helper_reads_stands_in_its_profile(libvirt_source: Path) -> None:
    """Each place that is taken as readable has its line in libvirt's own profile."""
    profile = (
        libvirt_source / "src/security/apparmor/usr.lib.libvirt.virt-aa-helper.in"
    ).read_text()
    lines = [
        "/var/lib/libvirt/images/** r,",
        "/var/lib/nova/instances/_base/* r,",
        "/**.img r,",
        "/**.raw r,",
        "/**.qcow{,2} r,",
        "/**.qed r,",
        "/**.vmdk r,",
        "/**.vhd r,",
        "/**.[iI][sS][oO] r,",
        "/**/disk{,.*} r,",
        "/{media,mnt,opt,srv}/** r,",
        "@{HOME}/** r,",
    ]

    assert [] == [line for line in lines if line not in profile]


# The real thing.


def test_what_the_test_driver_says_is_read() -> None:
    """Each kind of pool, from the documents of libvirt's own test driver."""
    connection = libvirt.open(f"test://{FIXTURES}/every-pool-type.xml")
    pools = {
        pool.name(): parse_pool(
            etree.fromstring(pool.XMLDesc()),
            [
                parse_volume(etree.fromstring(each.XMLDesc()), pool.name())
                for each in pool.listAllVolumes()
            ],
        )
        for pool in connection.listAllStoragePools()
    }

    assert {
        "images": ("dir", "/srv/images"),
        "usb": ("fs", "/mnt/usb"),
        "nfs": ("netfs", "/mnt/nfs"),
        "vg": ("logical", "/dev/vg"),
        "sdc": ("disk", "/dev"),
        "ceph": ("rbd", ""),
    } == {name: (pool.type, pool.path) for name, pool in pools.items()}
    assert (
        Volume(
            pool="images",
            name="a.qcow2",
            path="/srv/images/a.qcow2",
            type="file",
            format="qcow2",
            capacity=2**30,
            allocation=3 * 2**20,
            backing="/srv/base",
            backing_format="raw",
        )
        == pools["images"].by_name["a.qcow2"]
    )
    assert "raw" == pools["vg"].by_name["lv"].format


@pytest.mark.parametrize(
    ("pool", "wrong"),
    [
        pytest.param("<storage active='maybe' autostart='no'><pool type='dir'/>", "maybe", id="a"),
        pytest.param("<storage active='yes' autostart='no'><pool/>", "type", id="no-type"),
        pytest.param(
            "<storage active='yes' autostart='no'><pool type='dir'><name>p</name>"
            "<target><path>rel</path></target></pool>",
            "absolute",
            id="relative",
        ),
    ],
)
def test_a_host_file_that_was_edited_is_checked(pool: str, wrong: str) -> None:
    """A host file that somebody has edited is not taken on trust."""
    with pytest.raises(HostError, match=wrong):
        parse_host(f"<host version='1' uri='' libversion='9000000'>{pool}</storage></host>")
