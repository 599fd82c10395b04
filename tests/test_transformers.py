"""transform: what becomes of a disk is what the plan says, and nothing else becomes of anything.

Rules
- The laws are tried on all domains that libvirt, virt-manager and Nova give, and on any that
  hypothesis thinks of; which disks must be rewritten is said by corpus.eligible.
- A snapshot is a whole document, so that a reader sees what an operator would get.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from corpus import domains, eligible, host_of
from hypothesis import given
from lxml import etree
from strategies import LAWS, Case, cases
from syrupy.assertion import SnapshotAssertion
from syrupy.extensions.single_file import SingleFileSnapshotExtension

from xmlkit.document import Document
from xmlkit.host import Host, Pool
from xmlkit.plan import Form, Plan, PlanError, Transition, plan
from xmlkit.transformers import transform
from xmlkit.validation.verdict import validate

NOVA = Path(__file__).parents[1] / "fixtures" / "nova"


def disks(document: Document) -> dict[str, etree._Element]:
    """The disks of a domain by their targets; of those that share one, the last."""
    found = {}
    for disk in document.root.iterfind("devices/disk"):
        target = disk.find("target")
        found["" if target is None else target.get("dev", "")] = disk
    return found


def outside(document: Document, targets: list[str]) -> list[str]:
    """The text of a document but for the disks with these targets."""
    pieces = []
    at = 0
    by_target = disks(document)
    for start, end in sorted(document.span_of(by_target[target]) for target in targets):
        pieces.append(document.text[at:start])
        at = end
    return [*pieces, document.text[at:]]


def unaddressed(disk: etree._Element, *, live: bool, implied: bool) -> str:
    """What a disk says but for where its content is.

    live: also but for what libvirt fills in at start; implied: and for its format.
    """
    disk = copy.deepcopy(disk)
    source = disk.find("source")
    assert source is not None
    del disk.attrib["type"]
    goes = ["file", "dev", "pool", "volume", "mode"] + ["index"] * live
    for name in goes:
        source.attrib.pop(name, None)
    if live and (backing := disk.find("backingStore")) is not None:
        disk.remove(backing)
    driver = disk.find("driver")
    if implied and driver is not None:
        del driver.attrib["type"]
        if not driver.attrib:
            disk.remove(driver)
    disk.tail = None
    for node in disk.iter():
        # a line that goes takes its white space along
        node.tail = (node.tail or "").strip()
        if isinstance(node.tag, str):
            node.text = (node.text or "").strip()
    return etree.tostring(disk, method="c14n").decode()


def assert_rewritten(
    before: etree._Element, after: etree._Element, transition: Transition, host: Host
) -> None:
    """A disk has the address that is planned, the format it had, and else what it had."""
    source, driver = after.find("source"), after.find("driver")
    assert source is not None
    assert driver is not None
    pool = host.by_name[transition.after.pool or transition.before.pool or ""]
    path = {"file": "file", "block": "dev"}
    assert transition.after.type == after.get("type")
    if after.get("type") == "volume":
        assert pool.name == source.get("pool")
        at = f"{pool.path.rstrip('/')}/{source.get('volume')}"
        attributes = {"pool", "volume"}
    else:
        at = source.get(path[after.get("type", "")]) or ""
        assert f"{pool.path.rstrip('/')}/{transition.before.volume}" == at
        attributes = {path[after.get("type", "")]}
    assert transition.after.path == at
    old = before.find("source")
    assert old is not None
    if transition.action == "adopt" and before.get("type") != "volume":
        assert old.get(path[before.get("type", "file")]) == at
    kept = set(old.attrib) - {"file", "dev", "pool", "volume", "mode"}
    assert kept - ({"index"} if transition.live else set()) | attributes == set(source.attrib)
    said = before.find("driver")
    format_ = None if said is None else said.get("type")
    assert (format_ or "raw") == driver.get("type")
    implied, live = format_ is None, transition.live
    typed = copy.deepcopy(before)
    typed.set("type", typed.get("type", "file"))
    if implied and said is None:
        first = typed[0]
        first.addprevious(etree.Element("driver", {"type": "raw"}))
    elif implied:
        driver_before = typed.find("driver")
        assert driver_before is not None
        driver_before.set("type", "raw")
    assert unaddressed(typed, live=live, implied=implied) == unaddressed(
        after, live=live, implied=implied
    )


def assert_laws(document: Document, host: Host, made: Plan) -> list[str]:
    """What holds of any plan for any domain; the targets of the disks that it rewrote."""
    assert made == Plan.from_json(made.to_json())
    assert made == made.inverse().inverse()
    assert made.inverse() == Plan.from_json(made.inverse().to_json())
    after = transform(document, made)
    changed = [transition for transition in made.transitions if transition.changes]
    targets = [transition.target for transition in changed]
    assert bool(targets) == (after.source != document.source) == made.changes
    if not targets:
        return []
    again = Document.parse(after.source)
    assert after.source == transform(after, made).source
    assert after.source == transform(again, made).source
    back = transform(again, made.inverse())
    assert document.source == back.source
    assert document.source == transform(back, made.inverse()).source
    assert after.source == transform(back, made).source
    assert outside(document, targets) == outside(again, targets)
    olds, news = disks(document), disks(again)
    for transition in changed:
        old, new = olds[transition.target], news[transition.target]
        assert_rewritten(old, new, transition, host)
    if not validate(document):
        assert () == validate(again)
    return targets


# All domains that there are.


@pytest.mark.parametrize("live", [False, True], ids=["inactive", "live"])
@pytest.mark.parametrize("to", ["volume", "path"])
def test_all_domains(
    to: Form,
    live: bool,
    libvirt_source: Path,
    virt_manager_source: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The laws hold for each domain, and just those disks are rewritten that must be."""
    paths = domains(libvirt_source, virt_manager_source, NOVA)
    rewritten = 0
    valid = 0
    for path in paths:
        document = Document.parse(path.read_bytes())
        host = host_of(document)
        made = plan(document, host, to, live=live)
        targets = assert_laws(document, host, made)
        assert eligible(document, host, to, live=live) == targets, path
        rewritten += len(targets)
        valid += not validate(document)
    with capsys.disabled():
        print(
            f"\n  to {to}, live={live}: {len(paths)} domains, {valid} of them valid, "
            f"{rewritten} disks rewritten",
            end="",
        )
    assert len(paths) > 2400
    assert rewritten > (1700 if to == "volume" else 10)


def test_all_domains_there_and_back(libvirt_source: Path, virt_manager_source: Path) -> None:
    """A plan to paths leads volume disks to the paths they came from, a plan back to the volumes.

    That is another way than an inverse: nothing is known but the host.
    """
    returned = 0
    for path in domains(libvirt_source, virt_manager_source, NOVA):
        document = Document.parse(path.read_bytes())
        host = host_of(document)
        there = plan(document, host)
        made = [t for t in there.transitions if t.changes and t.after.type == "volume"]
        if not made:
            continue
        after = transform(document, there)
        came = [(t.target, t.before.type, t.before.path) for t in made]
        back = plan(after, host, "path")
        assert_laws(after, host, back)
        went = [(t.target, t.after.type, t.after.path) for t in back.transitions if t.changes]
        assert set(came) <= set(went), path
        moved = transform(after, back)
        again = transform(moved, plan(moved, host))
        if len(went) == len(came):  # else there were volume disks before
            assert after.source == again.source, path
        returned += len(came)
    assert returned > 1700


# Any domain.


@LAWS
@given(cases())
def test_any_domain(case: Case) -> None:
    """The laws hold, and just those disks are rewritten that must be."""
    targets = assert_laws(case.document, case.host, case.plan)
    assert eligible(case.document, case.host, case.to, live=case.live) == targets


@LAWS
@given(cases(relocate=True))
def test_any_domain_with_moves(case: Case) -> None:
    """The laws hold of moves too, and those that need none are done as without."""
    targets = assert_laws(case.document, case.host, case.plan)
    adopted = [t.target for t in case.plan.transitions if t.action == "adopt" and t.changes]
    assert eligible(case.document, case.host, case.to, live=case.live) == adopted
    moved = [t for t in case.plan.transitions if t.action == "move"]
    assert len(targets) == len(adopted) + len(moved)
    for transition in moved:
        name = (transition.before.path or "").rpartition("/")[2]
        assert f"{case.plan.uuid}_{name}" == transition.after.volume
        assert transition.after.path not in {disk.address.path for disk in case.plan.skips}
    assert len({t.after.path for t in moved}) == len(moved)


# What is refused.

DISK = (
    "<domain type='kvm'><uuid>3f2c1c8e-0d4b-4a7e-9b1a-6d5f0e9c7a11</uuid><devices>\n"
    "<disk type='file'><source file='/p/a'/><target dev='vda'/></disk>\n"
    "<disk type='file'><source file='/p/b'/><target dev='vdb'/></disk>\n"
    "</devices></domain>"
)
P = Host(pools=(Pool("p", "dir", "/p"),))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("'vda'", "'sda'", "has no disk vda any more"),
        ("/p/a", "/p/other", "vda is at /p/other, not at /p/a"),
        ("'file'><source file='/p/a'", "'block'><source dev='/p/a'", "vda is at /p/a"),
        ("3f2c", "4f2c", "the plan is for domain"),
        ("'file'><source file='/p/a'", "'volume'><source pool='q' volume='a'", "vda is at q/a"),
    ],
)
def test_a_domain_that_has_changed_is_refused(old: str, new: str, message: str) -> None:
    """A disk that is neither as the plan found it nor as it leaves it stops the whole."""
    made = plan(Document.parse(DISK), P)
    assert 2 == len(made.transitions)
    with pytest.raises(PlanError, match=message):
        transform(Document.parse(DISK.replace(old, new)), made)


def test_a_disk_that_is_done_already_is_left_alone() -> None:
    """A plan of which a part is done does the rest."""
    document = Document.parse(DISK)
    made = plan(document, P)
    whole = transform(document, made)
    half = Document.parse(
        DISK.replace(document.text_of(disks(document)["vda"]), whole.text_of(disks(whole)["vda"]))
    )
    assert half.source != whole.source
    assert whole.source == transform(half, made).source


def test_the_way_back_keeps_what_others_changed() -> None:
    """A disk that somebody else has edited since gets its address back and keeps the edit."""
    document = Document.parse(DISK)
    made = plan(document, P)
    text = transform(document, made).text
    edited = text.replace("<target dev='vda'/>", "<target dev='vda'/><readonly/>")
    back = transform(Document.parse(edited), made.inverse())
    assert DISK.splitlines()[2:] == back.text.splitlines()[2:]
    assert (
        "<disk type='file'><driver type='raw'/><source file='/p/a'/><target dev='vda'/><readonly/>"
        "</disk>"
    ) == back.text.splitlines()[1]


# Snapshots.


@dataclass(frozen=True)
class Example:
    """A domain, the pools it meets and how it is planned."""

    text: str | Path
    pools: dict[str, str]
    to: Form = "volume"
    relocate: dict[str | None, str] = field(default_factory=dict)
    live: bool = False


INSTANCE = "/var/lib/nova/instances/3f2c1c8e-0d4b-4a7e-9b1a-6d5f0e9c7a11"
INSTANCE_POOL = {"instance": f"dir:{INSTANCE}"}
DISKS_POOL = {"nova-disks-pool": "dir:/var/lib/nova/instances/disks"}
VG = {"nova-vg": "logical:/dev/nova-vg"}
IMAGES = {"images": "dir:/var/lib/libvirt/images"}
ALL: dict[str | None, str] = {None: "nova-disks-pool"}

HEAD = """\
<domain type='kvm'>
  <name>guest</name>
  <memory unit='MiB'>512</memory>
  <os>
    <type arch='x86_64'>hvm</type>
  </os>
  <devices>
"""
TAIL = """\
  </devices>
</domain>
"""

WITHOUT_DRIVER = f"""{HEAD}\
    <disk>
      <!-- no type, no driver -->
      <source file='/var/lib/libvirt/images/a.img'/>
      <target dev='vda' bus='virtio'/>
    </disk>
    <disk type='file' device='cdrom'>
      <driver name='qemu' cache='none'/>
      <target dev='sda' bus='sata'/>
      <source file='/var/lib/libvirt/images/cd &amp; co.iso' startupPolicy='optional'/>
      <readonly/>
    </disk>
    <disk type='file' device='cdrom'>
      <target dev='sdb' bus='sata'/>
      <readonly/>
    </disk>
{TAIL}"""

ALL_OF_A_SOURCE = f"""{HEAD}\
    <disk type='file' device='disk' snapshot='external'>
      <driver name='qemu' type='raw' cache='none' io='native' discard='unmap'/>
      <source file='/var/lib/libvirt/images/luks.img' startupPolicy='requisite'>
        <seclabel model='dac' relabel='no'/>
        <encryption format='luks'>
          <secret type='passphrase' uuid='0a81f5b2-8403-7b23-c8d6-21ccc2f80d6f'/>
        </encryption>
        <slices>
          <slice type='storage' offset='512' size='1048576'/>
        </slices>
      </source>
      <target dev='vda' bus='virtio'/>
      <iotune>
        <total_iops_sec>500</total_iops_sec>
      </iotune>
      <shareable/>
      <boot order='1'/>
      <address type='pci' domain='0x0000' bus='0x00' slot='0x05' function='0x0'/>
    </disk>
{TAIL}"""

VOLUMES = f"""{HEAD}\
    <disk type='volume' device='disk'>
      <driver name='qemu' type='qcow2'/>
      <source pool='images' volume='a.qcow2' startupPolicy='optional'/>
      <target dev='vda' bus='virtio'/>
    </disk>
    <disk type='volume' device='disk'>
      <source volume='b' mode='host' pool='nova-vg'/>
      <target dev='vdb' bus='virtio'/>
    </disk>
    <disk type='volume' device='disk'>
      <driver name='qemu' type='raw'/>
      <source pool='elsewhere' volume='c'/>
      <target dev='vdc' bus='virtio'/>
    </disk>
{TAIL}"""

LIVE = f"""{HEAD.replace("'kvm'", "'kvm' id='3'")}\
    <disk type='file' device='disk'>
      <driver name='qemu' type='qcow2'/>
      <source file='/var/lib/libvirt/images/a.qcow2' index='2'/>
      <backingStore type='file' index='3'>
        <format type='raw'/>
        <source file='/var/lib/libvirt/images/base.img'/>
        <backingStore/>
      </backingStore>
      <target dev='vda' bus='virtio'/>
      <alias name='virtio-disk0'/>
    </disk>
{TAIL}"""

ODD = (
    "<?xml version='1.0' encoding='ISO-8859-1'?>\r\n<!-- a 'guest' <!DOCTYPE none> -->\r\n"
    '<domain type = "kvm">\r\n\t<name><![CDATA[g & \xfc]]></name><memory>65536</memory>\r\n'
    "\t<os><type>hvm</type></os>\r\n\t<devices>\r\n"
    "\t\t<disk\r\n\t\t\tdevice=\"disk\"\r\n\t\t\ttype='file'\r\n\t\t>\r\n"
    "\t\t\t<target bus='virtio' dev=\"vda\"></target>\r\n"
    "\t\t\t<source\tindex = '1'   file = \"/var/lib/libvirt/images/&quot;it&apos;s&#x22; \xfc\" "
    "/>\r\n"
    "\t\t</disk>\r\n\t</devices>\r\n</domain>\r\n<!-- end -->"
)

ONE_LINE = (
    '<domain type="kvm"><name>guest</name><memory>65536</memory><os><type>hvm</type></os><devices>'
    '<disk type="block"><driver type="raw" io="native"/><source dev="/dev/nova-vg/a"/>'
    '<target dev="vda"/></disk><disk><source file="/var/lib/libvirt/images/b"/>'
    '<target dev="vdb"/></disk></devices></domain>'
)

EXAMPLES = {
    "nova-adopted": Example(NOVA / "qcow2-file.xml", INSTANCE_POOL),
    "nova-relocated": Example(NOVA / "qcow2-ephemeral-swap.xml", DISKS_POOL, relocate=ALL),
    "nova-swap-relocated": Example(
        NOVA / "qcow2-ephemeral-swap.xml", DISKS_POOL, relocate={"swap": "nova-disks-pool"}
    ),
    "nova-luks": Example(NOVA / "qcow2-luks-ephemeral-encryption.xml", DISKS_POOL, relocate=ALL),
    "nova-config-drive": Example(
        NOVA / "qcow2-configdrive-vfat.xml", INSTANCE_POOL | DISKS_POOL, relocate=ALL
    ),
    "nova-cinder": Example(NOVA / "qcow2-many-volumes.xml", INSTANCE_POOL),
    "nova-lvm": Example(NOVA / "lvm-ephemeral-swap.xml", VG),
    "nova-live": Example(
        NOVA / "live-migrated/qcow2-vol-iscsi.xml", DISKS_POOL, relocate=ALL, live=True
    ),
    "without-driver": Example(WITHOUT_DRIVER, IMAGES),
    "all-of-a-source": Example(ALL_OF_A_SOURCE, IMAGES),
    "to-path": Example(VOLUMES, IMAGES | VG, to="path"),
    "xen": Example(VOLUMES.replace("kvm", "xen"), IMAGES | VG),
    "live": Example(LIVE, IMAGES, live=True),
    "odd": Example(ODD, IMAGES),
    "one-line": Example(ONE_LINE, IMAGES | VG),
}


def host_with(pools: dict[str, str]) -> Host:
    """A host with these pools, said as TYPE:PATH by name."""
    parts = {name: where.split(":") for name, where in pools.items()}
    return Host(pools=tuple(Pool(name, type_, path) for name, (type_, path) in parts.items()))


class XmlFiles(SingleFileSnapshotExtension):
    """A snapshot is a file that holds just the bytes of a document."""

    file_extension = "xml"


@pytest.mark.parametrize("name", EXAMPLES)
def test_examples(name: str, snapshot: SnapshotAssertion) -> None:
    """What becomes of a whole domain, byte for byte."""
    example = EXAMPLES[name]
    text = example.text
    document = Document.parse(text.read_bytes() if isinstance(text, Path) else text)
    host = host_with(example.pools)
    made = plan(document, host, example.to, relocate=example.relocate, live=example.live)
    assert_laws(document, host, made)
    after = transform(document, made)
    assert document.source != after.source
    assert () == validate(document)
    assert after.source == snapshot(extension_class=XmlFiles)


@pytest.mark.parametrize("name", ["qcow2-rescue", "rbd-configdrive", "rbd-network", "bfv-iscsi"])
def test_guests_that_stay_as_they_are(name: str) -> None:
    """Rescued, on Ceph or booted from a Cinder volume: nothing of it is to be moved."""
    document = Document.parse((NOVA / f"{name}.xml").read_bytes())
    pools = INSTANCE_POOL | {"by-id": "logical:/dev/disk/by-id"}
    host = host_with(pools)
    assert transform(document, plan(document, host)) is document
