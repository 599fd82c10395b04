"""Policy: what a storage document that libvirt shall create has to say."""

from __future__ import annotations

import re
from decimal import Decimal
from pathlib import Path

import corpus
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lxml import etree

from xmlkit import Document, Limits, shipped, validate
from xmlkit.rules import RULES
from xmlkit.validation.policy import POLICIES, Policy, policy

UUID = "3f2c1c8e-0d4b-4a7e-9b1a-6d5f0e9c7a11"
XSI = "http://www.w3.org/2001/XMLSchema-instance"
SCHEMA_FILES = sorted(Path(shipped.directory("schemas")).glob("*.xsd"))


def volume(
    name: str = "v",
    sizes: str = "<capacity>4096</capacity><allocation>0</allocation>",
    target: str = "<format type='raw'/>",
    backing: str = "",
    type: str = "file",
) -> str:
    return (
        f"<volume type='{type}'>\n <name>{name}</name>\n {sizes}\n <target>{target}</target>\n"
        f" {backing}\n</volume>"
    )


def pool(inside: str, type: str = "dir", name: str = "p") -> str:
    return f"<pool type='{type}'><name>{name}</name>{inside}</pool>"


def disk(inside: str, type: str = "file") -> str:
    return f"<disk type='{type}'>{inside}<target dev='vda'/></disk>"


def backed(inside: str) -> str:
    return f"<backingStore>{inside}</backingStore>"


def found(text: str, name: Policy = "storage") -> list[tuple[str, str]]:
    """Id and XPath of each finding."""
    return [(each.id, each.xpath) for each in policy(Document.parse(text), name)]


SOURCE = "<source file='/x'/>"
DOTS = disk("<source file='..'/>")
RELATIVE = disk("<source file='a'/>")
RAW = "<format type='raw'/>"
QCOW2 = "<format type='qcow2'/>"
TARGET = "<target><path>/x</path></target>"
FS = "http://libvirt.org/schemas/storagepool/fs/1.0"
RBD = "http://libvirt.org/schemas/storagepool/rbd/1.0"

REFUSED = [
    # backing format
    (volume(backing=backed("<path>/b</path>")), "policy-backing-format", "/volume/backingStore"),
    (
        volume(backing=backed("<path>/b</path><format type='unknown'/>")),
        "policy-backing-format",
        "/volume/backingStore",
    ),
    (disk(SOURCE + backed(SOURCE)), "policy-backing-format", "/disk/backingStore"),
    (
        disk(SOURCE + backed(RAW + SOURCE + backed("<format type=''/>" + SOURCE))),
        "policy-backing-format",
        "/disk/backingStore/backingStore",
    ),
    # compat
    (volume(target=QCOW2), "policy-compat", "/volume/target"),
    (volume(target=QCOW2 + "<features/>"), "policy-compat", "/volume/target"),
    # paths
    (volume(target="<path>images/v</path>"), "policy-path", "/volume/target/path"),
    (volume(target="<path>/a/../v</path>"), "policy-path", "/volume/target/path"),
    (volume(type="network", target="<path>p/../v</path>"), "policy-path", "/volume/target/path"),
    (volume(backing=backed("<path>b</path>" + RAW)), "policy-path", "/volume/backingStore/path"),
    (volume(backing=backed("<path>/..</path>" + RAW)), "policy-path", "/volume/backingStore/path"),
    (pool("<target><path>images</path></target>"), "policy-path", "/pool/target/path"),
    (pool("<target><path>/a/..</path></target>"), "policy-path", "/pool/target/path"),
    (pool("<source><dir path='/a/../b'/></source>" + TARGET), "policy-path", "/pool/source"),
    (disk("<source file='a'/>"), "policy-path", "/disk/source"),
    (disk("<source dev='/dev/../x'/>", "block"), "policy-path", "/disk/source"),
    (disk("<source dir='..'/>", "dir"), "policy-path", "/disk/source"),
    (
        f"<domainsnapshot><disks>{DOTS}</disks></domainsnapshot>",
        "policy-path",
        "/domainsnapshot/disks/disk/source",
    ),
    (
        f"<domain><devices>{disk(SOURCE)}{RELATIVE}</devices></domain>",
        "policy-path",
        "/domain/devices/disk[2]/source",
    ),
    (
        "<domainsnapshot><memory file='m'/></domainsnapshot>",
        "policy-path",
        "/domainsnapshot/memory",
    ),
    # names
    (volume(name="a/b"), "policy-name", "/volume/name"),
    (volume(name=".."), "policy-name", "/volume/name"),
    (volume(name=""), "policy-name", "/volume/name"),
    (volume(name="a&#9;b"), "policy-name", "/volume/name"),
    (pool(TARGET, name="a/b"), "policy-name", "/pool/name"),
    (pool(TARGET, name="a&#10;"), "policy-name", "/pool/name"),
    (volume(target="<path>/a/w</path>"), "policy-name-path", "/volume/name"),
    (volume(target="<path>/a/v/</path>"), "policy-name-path", "/volume/name"),
    # sizes
    (volume(sizes="<allocation>0</allocation>"), "policy-capacity", "/volume"),
    (
        volume(sizes="<capacity>1</capacity><allocation>2</allocation>"),
        "policy-allocation",
        "/volume/allocation",
    ),
    (
        volume(sizes="<capacity unit='MB'>1</capacity><allocation unit='KiB'>1000</allocation>"),
        "policy-allocation",
        "/volume/allocation",
    ),
    # secrets
    (
        volume(target="<encryption format='luks'><secret>pw</secret></encryption>"),
        "policy-secret",
        "/volume/target/encryption",
    ),
    (
        volume(type="network", target="<path>nbd://u:pw@h/v</path>"),
        "policy-secret",
        "/volume",
    ),
    (
        pool("<source><auth type='chap' login='u' passwd='pw'/></source>" + TARGET, "iscsi"),
        "policy-secret",
        "/pool/source",
    ),
    (
        pool(
            TARGET + f"<fs:mount_opts xmlns:fs='{FS}'><fs:option name='user=a,password=pw'/>"
            "</fs:mount_opts>",
            "netfs",
        ),
        "policy-secret",
        "/pool",
    ),
    (
        pool(
            f"<r:config_opts xmlns:r='{RBD}'><r:option name='key' value='pw'/></r:config_opts>",
            "rbd",
        ),
        "policy-secret",
        "/pool",
    ),
    (
        disk("<auth username='u'><secret>pw</secret></auth>", "network"),
        "policy-secret",
        "/disk/auth",
    ),
    (
        disk("<source protocol='rbd' name='p/v:id=a:key=pw'/>", "network"),
        "policy-secret",
        "/disk",
    ),
    (
        disk("<source protocol='https'><cookies><cookie name='a'>pw</cookie></cookies></source>"),
        "policy-secret",
        "/disk",
    ),
    (
        disk("<source file='/x'><encryption><secret>pw</secret></encryption></source>"),
        "policy-secret",
        "/disk/source/encryption",
    ),
    # what only a validator would obey
    (
        volume().replace("<volume", f"<volume xmlns:xsi='{XSI}' xsi:type='x'"),
        "policy-instance",
        "/volume",
    ),
    (
        volume().replace("<target", f"<target xmlns:xsi='{XSI}' xsi:nil='true'"),
        "policy-instance",
        "/volume/target",
    ),
]

ALLOWED = [
    volume(),
    volume(target=QCOW2 + "<compat>1.1</compat>"),
    volume(target="<path>/images/v</path>"),
    volume(type="network", target="<path>pool/v</path>"),
    volume(name="a b+c", target="<path>/images/a b+c</path>"),
    volume(name="..v.."),
    volume(sizes="", backing=backed("<path>/b</path>" + QCOW2)),
    volume(sizes="<capacity>1</capacity>"),
    volume(sizes="<capacity>what</capacity><allocation>ever</allocation>"),
    volume(sizes="<capacity unit='GiB'>1</capacity><allocation unit='k'>1048576</allocation>"),
    volume(target="<encryption format='luks'><secret type='passphrase' uuid='u'/></encryption>"),
    pool(TARGET),
    pool("<source><device path='iqn.2013-06.com.example'/></source>" + TARGET, "iscsi"),
    pool("<source><auth type='ceph' username='u'><secret uuid='u'/></auth></source>", "rbd"),
    disk(SOURCE),
    disk(""),
    disk(SOURCE + "<backingStore/>"),
    disk(SOURCE + backed(QCOW2 + SOURCE + backed(RAW + SOURCE))),
    disk("<source file='[datastore] a/b.vmdk'/>"),
    disk("<source protocol='rbd' name='pool/monkey'/>", "network"),
    disk("<source pool='p' volume='..v'/>", "volume"),
    "<network><name>../x</name></network>",
    "<volume xmlns='urn:x'/>",
    "<disk><!-- <source file='..'/> --><?a <source file='..'/>?></disk>",
    "<domainsnapshot/>",
]


@pytest.mark.parametrize(("text", "id_", "xpath"), REFUSED)
def test_what_the_policy_refuses(text: str, id_: str, xpath: str) -> None:
    """Each has one finding, at its place; the policy for Nova has it as well."""
    others = {"policy-name-path", "policy-nova-name"} - {id_}

    assert [(id_, xpath)] == [each for each in found(text) if each[0] not in others]
    assert (id_, xpath) in found(text, "nova")


@pytest.mark.parametrize("text", ALLOWED)
def test_what_the_policy_allows(text: str) -> None:
    """Nothing is found in it."""
    assert [] == found(text)


def test_a_finding_has_line_column_and_message() -> None:
    """Those of the element that it is about."""
    (finding,) = policy(Document.parse(volume(target=QCOW2)), "storage")

    assert ("policy-compat", "error", 4, 2) == (
        finding.id,
        finding.severity,
        finding.line,
        finding.column,
    )
    assert "compat" in finding.message


def test_all_is_found_in_the_documents_order() -> None:
    """It does not stop at the first."""
    text = volume("a/b", "", QCOW2 + "<path>x</path>", backed("<path>b</path>"))

    ids = [id_ for id_, _ in found(text)]
    assert sorted(ids) == [
        *("policy-backing-format", "policy-compat", "policy-name", "policy-name-path"),
        *("policy-path", "policy-path"),
    ]
    lines = [each.line for each in policy(Document.parse(text), "storage")]
    assert sorted(lines) == lines


@pytest.mark.parametrize(("text", "id_"), [(text, id_) for text, id_, _ in REFUSED])
def test_a_finding_does_not_show_a_secret(text: str, id_: str) -> None:
    """Whatever it is about."""
    text = text.replace("pw", "HIDE-ME")

    assert "HIDE-ME" not in repr(policy(Document.parse(text), "nova"))


# Names that LVM refuses: only where the document tells that the volume will be a logical one.

LVM_REFUSES = [
    *("-v", "a b", "a:b", "ä", "snapshot", "snapshot1", "pvmove0", "v" * 128),
    *(
        "a_cdata",
        "a_cmeta",
        "a_corig",
        "a_mlog",
        "a_mimage_0",
        "a_rimage_1",
        "a_tmeta",
        "a_vorigin",
    ),
]
LVM_TAKES = ["v", "a+b_c.d-e", "my-snapshot", "v" * 127, ".v", f"{UUID}_disk.local"]


@pytest.mark.parametrize("name", LVM_REFUSES)
def test_a_name_that_lvm_refuses(name: str) -> None:
    """For /dev/GROUP/NAME it is one; for a file, a device by its bus, or no path it is not."""

    def at(path: str, type: str = "block") -> list[str]:
        return [id_ for id_, _ in found(volume(name, target=f"<path>{path}</path>", type=type))]

    assert ["policy-lvm-name"] == at(f"/dev/vg/{name}")
    assert [] == at(f"/images/{name}", "file")
    assert [] == at(f"/dev/mapper/{name}")
    assert [] == at(f"/dev/disk/{name}")
    assert [] == found(volume(name, type="block"))


@pytest.mark.parametrize("name", LVM_TAKES)
def test_a_name_that_lvm_takes(name: str) -> None:
    """Nothing is found."""
    assert [] == found(volume(name, target=f"<path>/dev/vg/{name}</path>", type="block"))


def test_a_logical_pool_is_named_as_lvm_takes_it() -> None:
    """By its source's name, else by its own; other pools may have any name."""
    assert [("policy-lvm-name", "/pool")] == found(pool("", "logical", "a b"))
    assert [("policy-lvm-name", "/pool")] == found(
        pool("<source><name>-v</name></source>", "logical")
    )
    assert [] == found(pool("<source><name>vg</name></source>", "logical", "a b"))
    assert [] == found(pool(TARGET, "dir", "a b"))


# Nova.


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (f"{UUID}_disk", True),
        (f"{UUID.upper()}_disk.eph0", True),
        (f"{UUID}_a_b", True),
        (f"{UUID}_", False),
        (f"{UUID}-disk", False),
        (f"x{UUID}_disk", False),
        (UUID, False),
        ("disk", False),
        (UUID.replace("-", "") + "_disk", False),
    ],
)
def test_novas_volumes_are_named_by_instance_and_disk(name: str, expected: bool) -> None:
    """In a volume and in a disk; the policy for storage takes any name."""
    for text, xpath in (
        (volume(name), "/volume/name"),
        (disk(f"<source pool='p' volume='{name}'/>", "volume"), "/disk/source"),
    ):
        assert [] == found(text)
        assert ([] if expected else [("policy-nova-name", xpath)]) == found(text, "nova")


def test_novas_policy_holds_within_domains_and_is_about_volumes() -> None:
    """A disk that is no volume, an empty drive and a pool have any name."""
    wrong = disk("<source pool='p' volume='v'/>", "volume")

    assert [("policy-nova-name", "/domainsnapshot/domain/devices/disk/source")] == found(
        f"<domainsnapshot><domain><devices>{wrong}</devices></domain></domainsnapshot>", "nova"
    )
    for text in (disk(SOURCE), disk("", "volume"), pool(TARGET)):
        assert [] == found(text, "nova")


def test_novas_guests_pass(request: pytest.FixtureRequest) -> None:
    """What Nova 34 writes has nothing that either policy refuses."""
    files = sorted((request.config.rootpath / "fixtures/nova").rglob("*.xml"))
    wrong = [
        (path.name, finding)
        for path in files
        for name in POLICIES
        for finding in policy(Document.parse(path.read_bytes()), name)
    ]

    assert files
    assert [] == wrong


# By hypothesis: the assertions say what this says.

UNITS = {
    **{
        "": 1,
        "b": 1,
        "bytes": 1,
        "byte": 1,
        "KB": 1000,
        "MB": 1000**2,
        "GB": 1000**3,
        "TB": 1000**4,
    },
    **{"k": 1024, "K": 1024, "KiB": 1024, "M": 1024**2, "MiB": 1024**2, "GiB": 1024**3},
    **{"TiB": 1024**4, "PiB": 1024**5, "EiB": 1024**6},
}
SIZES = st.tuples(st.integers(0, 2000), st.sampled_from(sorted(UNITS)))


def size(name: str, value: tuple[int, str] | None) -> str:
    if value is None:
        return ""
    unit = f" unit='{value[1]}'" if value[1] else ""
    return f"<{name}{unit}> {value[0]}\n</{name}>"


@settings(deadline=None)
@given(capacity=SIZES, allocation=SIZES)
def test_sizes_are_compared_in_bytes(
    capacity: tuple[int, str], allocation: tuple[int, str]
) -> None:
    """With each unit that libvirt knows, whatever its case says."""
    sizes = size("capacity", capacity) + size("allocation", allocation)
    above = (
        Decimal(allocation[0]) * UNITS[allocation[1]] > Decimal(capacity[0]) * UNITS[capacity[1]]
    )

    assert ([("policy-allocation", "/volume/allocation")] if above else []) == found(
        volume(sizes=sizes)
    )


FORMATS = st.sampled_from([None, "", "raw", "qcow2", "unknown", "auto"])
PATHS = st.one_of(
    st.none(), st.from_regex(r"/?([a.]{1,3}/){0,2}[a.]{1,3}", fullmatch=True), st.just("/images/v")
)


@settings(deadline=None)
@given(
    name=st.from_regex(r"[av./ _-]{0,4}", fullmatch=True),
    capacity=st.one_of(st.none(), SIZES),
    format_=FORMATS,
    compat=st.booleans(),
    path=PATHS,
    backing=st.one_of(st.none(), st.tuples(PATHS, FORMATS)),
)
def test_a_volume_is_refused_for_what_it_lacks(
    name: str,
    capacity: tuple[int, str] | None,
    format_: str | None,
    compat: bool,
    path: str | None,
    backing: tuple[str | None, str | None] | None,
) -> None:
    """The whole rule once more, in another language."""

    def bad(path: str) -> bool:
        return not path.startswith("/") or ".." in path.split("/")

    def formatted(name: str | None) -> str:
        return "" if name is None else f"<format type='{name}'/>"

    def placed(path: str | None) -> str:
        return "" if path is None else f"<path>{path}</path>"

    expected = set()
    if name in ("", ".", "..") or "/" in name:
        expected.add("policy-name")
    if path is not None and path.rpartition("/")[2] != name:
        expected.add("policy-name-path")
    if capacity is None and backing is None:
        expected.add("policy-capacity")
    if format_ == "qcow2" and not compat:
        expected.add("policy-compat")
    if path is not None and bad(path):
        expected.add("policy-path")
    inside = ""
    if backing is not None:
        inside = f"<backingStore>{placed(backing[0])}{formatted(backing[1])}</backingStore>"
        if backing[0] is not None and backing[1] not in ("raw", "qcow2"):
            expected.add("policy-backing-format")
        if backing[0] is not None and bad(backing[0]):
            expected.add("policy-path")
    target = placed(path) + formatted(format_) + "<compat>1.1</compat>" * compat

    text = volume(name, size("capacity", capacity), target, inside)
    assert expected == {id_ for id_, _ in found(text)}


# Over libvirt's own documents.


def test_any_document_of_libvirts_can_be_judged(libvirt_source: Path) -> None:
    """Its place is in the document; what is found in valid ones is what they really lack."""
    ids: dict[str, set[str]] = {}
    count = 0
    for sample in corpus.samples(libvirt_source):
        document = Document.parse(sample.path.read_bytes())
        for finding in policy(document, "storage"):
            found = document.root.getroottree().xpath(finding.xpath)
            assert isinstance(found, list)
            (element,) = found
            assert isinstance(element, etree._Element)
            assert (finding.line, finding.column) == document.place_of(element)
            ids.setdefault(finding.id, set()).add(sample.path.name)
        count += 1

    assert 2800 < count
    assert {"policy-secret", "policy-path", "policy-compat", "policy-capacity"} <= ids.keys()
    # of all pools and volumes there, one has no capacity, two are snapshots in a volume group
    assert {"vol-qcow2-nocapacity.xml"} == ids["policy-capacity"]
    assert {"vol-logical-backing.xml"} == ids["policy-backing-format"]
    assert all("http" in name for name in ids["policy-secret"])
    assert all("qcow2" in name for name in ids["policy-compat"])


@pytest.mark.parametrize("depth", [200, 890])
def test_a_deep_document_is_judged_to_its_end(depth: int) -> None:
    """A chain of backing stores may be as deep as a document."""
    text = "<disk>" + "<backingStore><format type='raw'/><source file='/x'/>" * depth
    wrong = text + "<backingStore><source file='x'/></backingStore>"
    end = "</backingStore>" * depth + "</disk>"
    deep = Limits(depth=depth + 8)

    assert () == policy(Document.parse(text + end, deep), "storage")
    assert ["policy-backing-format", "policy-path"] == [
        each.id for each in policy(Document.parse(wrong + end, deep), "storage")
    ]


def test_what_a_document_names_is_not_read(tmp_path: Path) -> None:
    """A schema that it brings along does not count."""
    lax = tmp_path / "lax.xsd"
    lax.write_text(
        "<schema xmlns='http://www.w3.org/2001/XMLSchema'><element name='volume'/></schema>"
    )
    text = f"<volume xmlns:xsi='{XSI}' xsi:noNamespaceSchemaLocation='{lax}'/>"

    assert [("policy-instance", "/volume")] == found(text)
    lax.unlink()
    assert [("policy-capacity", "/volume")] == found("<volume/>")


# The files.


@pytest.mark.parametrize("path", SCHEMA_FILES, ids=lambda path: path.name)
def test_each_assertion_has_a_rule_and_a_message(path: Path) -> None:
    """Its id is a rule's, its documentation one line without a full stop, that tells no value."""
    assertions = list(etree.parse(path).iter("{http://www.w3.org/2001/XMLSchema}assert"))

    assert assertions
    for assertion in assertions:
        assert assertion.attrib["id"].partition(".")[0] in RULES
        message = assertion.findtext("{*}annotation/{*}documentation") or ""
        assert re.fullmatch(r"\S[^\n]*[^\s.]", message)


def test_the_policies_are_the_files() -> None:
    """No more, no fewer."""
    assert sorted(POLICIES) == [path.stem for path in SCHEMA_FILES]


def test_each_assertion_can_refuse() -> None:
    """No rule of the policy is without an example above."""
    told = {id_ for _, id_, _ in REFUSED} | {"policy-lvm-name", "policy-nova-name"}

    assert told == {id_ for id_ in RULES if id_.startswith("policy-")}


def test_what_is_refused_may_be_valid() -> None:
    """The policy is not the schema: it asks for more, and says nothing of the rest."""
    document = Document.parse(volume(target=QCOW2))

    assert () == validate(document)
    assert policy(document, "storage")
    assert () == policy(Document.parse(volume().replace("<target>", "<target a='b'>")), "storage")
