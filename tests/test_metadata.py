"""Snapshots, checkpoints and managed saves get the new addresses, and still do what they are for.

Rules
- Real ones, of guests that ran: they are reverted to, and restored, after the disk has moved.
- The inverse plan gives back what was there.
"""

from __future__ import annotations

from typing import Any

import libvirt
import pytest
from scene import POOL, SECURE, Scene, disk_xml, until

from xmlkit import metadata
from xmlkit.document import Document
from xmlkit.executor import apply, recover
from xmlkit.host import parse_host
from xmlkit.journal import Outcome, Task, Writer, read
from xmlkit.metadata import names_of, redefine, rewritten
from xmlkit.observe import observe
from xmlkit.plan import Plan, PlanError, plan
from xmlkit.steps import Define, Link, Redefine, Refresh, Unlink, steps_of

SNAPSHOT = "<domainsnapshot><name>{}</name></domainsnapshot>"
CHECKPOINT = "<domaincheckpoint><name>{}</name></domaincheckpoint>"


def planned(scene: Scene, domain: Any) -> Plan:
    """A move of all disks into the pool."""
    host = parse_host(observe(scene.connection))
    return plan(scene.document(domain), host, relocate={None: POOL})


def moved(scene: Scene, made: Plan, names: tuple[tuple[str, str], ...]) -> Outcome:
    """The plan carried out, with these snapshots, checkpoints and saves."""
    task = Task(made, steps_of(made, metadata=names))
    number = len(list(scene.libvirtd.directory.glob("*.jsonl")))
    id_ = f"20261122-161402-{number:04x}"
    writer = Writer.create(str(scene.libvirtd.directory), id_, [task], uri="")
    try:
        outcome = apply(scene.connection, writer, [task])[made.uuid]
    finally:
        writer.close()
    if outcome.state == "pending":
        return recover(scene.connection, read(writer.path))[made.uuid]
    return outcome


def texts(domain: Any) -> dict[tuple[str, str], str]:
    """The XML of everything that names_of() finds."""
    found = {}
    for kind, name in names_of(domain):
        if kind == "snapshot":
            flags = libvirt.VIR_DOMAIN_SNAPSHOT_XML_SECURE
            found[kind, name] = domain.snapshotLookupByName(name).getXMLDesc(flags)
        elif kind == "checkpoint":
            flags = libvirt.VIR_DOMAIN_CHECKPOINT_XML_SECURE
            found[kind, name] = domain.checkpointLookupByName(name).getXMLDesc(flags)
        else:
            flags = libvirt.VIR_DOMAIN_SAVE_IMAGE_XML_SECURE
            found[kind, name] = domain.managedSaveGetXMLDesc(flags)
    return found


def source(domain: Any) -> str:
    return f"pool='{POOL}' volume='{domain.UUIDString()}_disk'"


# Names.


def test_a_domain_without_any(scene: Scene) -> None:
    """Nothing is named, and nothing is saved."""
    domain = scene.nova_guest("a")

    assert ((), False) == (names_of(domain), metadata.is_saved(domain))


def test_names_of_all_three(scene: Scene) -> None:
    """Snapshots first, then checkpoints, then the managed save."""
    domain = scene.nova_guest("a")
    domain.snapshotCreateXML(SNAPSHOT.format("one"))
    scene.start(domain)
    domain.checkpointCreateXML(CHECKPOINT.format("two"))
    domain.snapshotCreateXML(SNAPSHOT.format("three"))
    domain.managedSave()

    found = names_of(domain)
    assert {("snapshot", "one"), ("snapshot", "three")} == set(found[:2])
    assert (("checkpoint", "two"), ("managed-save", "")) == found[2:]


def test_a_driver_without_them_has_none() -> None:
    """The test driver has no checkpoints; that is no error."""
    connection = libvirt.open("test:///default")
    try:
        domain = connection.lookupByName("test")
        domain.snapshotCreateXML(SNAPSHOT.format("one"))
        assert (("snapshot", "one"),) == names_of(domain)
    finally:
        connection.close()


# Snapshots.


@pytest.mark.parametrize("running", [False, True])
def test_a_snapshot_is_reverted_to_after_the_move(scene: Scene, running: bool) -> None:
    """And deleted; of a running guest it has two definitions, with its memory."""
    domain = scene.nova_guest("a")
    if running:
        scene.start(domain)
    domain.snapshotCreateXML(SNAPSHOT.format("s"))
    scene.stop(domain)

    assert Outcome("done") == moved(scene, planned(scene, domain), names_of(domain))

    (text,) = texts(domain).values()
    assert "/disk'" not in text
    assert text.count(source(domain)) == 1 + running
    snapshot = domain.snapshotLookupByName("s")
    domain.revertToSnapshot(snapshot)
    assert running == domain.isActive()
    assert source(domain) in domain.XMLDesc(SECURE)
    scene.stop(domain)
    scene.boots(domain)
    snapshot.delete()


def test_the_current_snapshot_stays_the_current_one(scene: Scene) -> None:
    """Parents and children too, in whichever order they are redefined."""
    domain = scene.nova_guest("a")
    for name in ("one", "two", "three"):
        domain.snapshotCreateXML(SNAPSHOT.format(name))
    domain.revertToSnapshot(domain.snapshotLookupByName("two"))

    assert Outcome("done") == moved(scene, planned(scene, domain), names_of(domain))

    assert "two" == domain.snapshotCurrent().getName()
    assert "one" == domain.snapshotLookupByName("two").getParent().getName()
    assert "two" == domain.snapshotLookupByName("three").getParent().getName()


def test_the_way_back_gives_what_was_there(scene: Scene) -> None:
    """Byte for byte, also of what libvirt fills in for a running guest's snapshot."""
    domain = scene.nova_guest("a", kinds=("disk", "disk.eph0"))
    domain.snapshotCreateXML(SNAPSHOT.format("off"))
    scene.start(domain)
    domain.snapshotCreateXML(SNAPSHOT.format("on"))
    scene.stop(domain)
    before, xml = texts(domain), scene.document(domain).text
    made = planned(scene, domain)

    assert Outcome("done") == moved(scene, made, names_of(domain))
    assert before != texts(domain)
    assert Outcome("done") == moved(scene, made.inverse(), names_of(domain))
    assert before == texts(domain)
    assert xml == scene.document(domain).text
    domain.revertToSnapshot(domain.snapshotLookupByName("off"))
    scene.boots(domain)


def test_twice_is_once(scene: Scene) -> None:
    """A second time nothing is changed, as after a crash."""
    domain = scene.nova_guest("a")
    domain.snapshotCreateXML(SNAPSHOT.format("s"))
    made = planned(scene, domain)
    redefine(domain, "snapshot", "s", made)
    once = texts(domain)
    redefine(domain, "snapshot", "s", made)

    assert once == texts(domain)
    assert source(domain) in once["snapshot", "s"]


@pytest.mark.parametrize("kind", ["snapshot", "checkpoint", "managed-save"])
def test_what_somebody_has_deleted_needs_nothing(scene: Scene, kind: str) -> None:
    """Between the plan and its step: no error, and the move goes on."""
    domain = scene.nova_guest("a")
    made = planned(scene, domain)

    redefine(domain, kind, "gone", made)
    assert Outcome("done") == moved(scene, made, ((kind, "gone"),))
    scene.boots(domain)


def test_a_disk_that_was_elsewhere_then_stays_there(scene: Scene) -> None:
    """A snapshot of a time before the disk was where the plan found it."""
    domain = scene.nova_guest("a")
    domain.snapshotCreateXML(SNAPSHOT.format("s"))
    image = scene.instances / domain.UUIDString() / "disk"
    new = image.with_name("disk.local")
    image.rename(new)
    scene.define("a", [disk_xml(new)], domain.UUIDString())
    before = texts(domain)

    assert Outcome("done") == moved(scene, planned(scene, domain), names_of(domain))
    assert before == texts(domain)


# Checkpoints.


def test_a_checkpoint_is_redefined_and_given_back(scene: Scene) -> None:
    """It is still there, of the disk by its new address, and there again."""
    domain = scene.nova_guest("a")
    scene.start(domain)
    domain.checkpointCreateXML(CHECKPOINT.format("c"))
    scene.stop(domain)
    before = texts(domain)
    made = planned(scene, domain)

    assert Outcome("done") == moved(scene, made, names_of(domain))
    assert source(domain) in texts(domain)["checkpoint", "c"]
    scene.start(domain)
    assert "c" == domain.checkpointLookupByName("c").getName()
    domain.checkpointCreateXML(CHECKPOINT.format("later"))
    domain.checkpointLookupByName("later").delete()
    scene.stop(domain)

    assert Outcome("done") == moved(scene, made.inverse(), names_of(domain))
    assert before == texts(domain)
    scene.boots(domain)


def test_a_snapshot_beside_a_checkpoint_is_refused_and_all_is_taken_back(scene: Scene) -> None:
    """libvirt redefines no snapshot while there is a checkpoint (error 84)."""
    domain = scene.nova_guest("a")
    domain.snapshotCreateXML(SNAPSHOT.format("s"))
    scene.start(domain)
    domain.checkpointCreateXML(CHECKPOINT.format("c"))
    scene.stop(domain)
    before, xml = texts(domain), scene.document(domain).text

    outcome = moved(scene, planned(scene, domain), names_of(domain))

    assert ("undone", "libvirt") == outcome[:2]
    assert "(libvirt error 84)" in outcome.message
    assert (before, xml) == (texts(domain), scene.document(domain).text)
    scene.boots(domain)


# Managed saves.


def test_a_saved_guest_goes_on_from_its_new_disk(scene: Scene) -> None:
    """Saved, its disk moved, redefined, started: the memory is the same, and it writes on."""
    domain = scene.nova_guest("a")
    scene.start(domain)
    domain.managedSave()
    log = scene.log("a")
    size = len(log.read_bytes())

    assert Outcome("done") == moved(scene, planned(scene, domain), names_of(domain))
    assert metadata.is_saved(domain)
    assert source(domain) in texts(domain)["managed-save", ""]
    domain.create()

    assert not metadata.is_saved(domain)
    # it did not boot anew: it goes on writing without its greeting
    until(lambda: b"WW" in log.read_bytes()[-20:] or b"W" in log.read_bytes()[size:])
    assert b"UP" not in log.read_bytes()[size:]
    live = domain.XMLDesc()
    assert source(domain) in live
    scene.stop(domain)
    assert source(domain) in domain.XMLDesc(SECURE)
    scene.boots(domain)


def test_a_saved_guest_goes_on_after_the_way_back(scene: Scene) -> None:
    """What is saved has the old address again."""
    domain = scene.nova_guest("a")
    scene.start(domain)
    domain.managedSave()
    made = planned(scene, domain)
    before = texts(domain)

    assert Outcome("done") == moved(scene, made, names_of(domain))
    assert Outcome("done") == moved(scene, made.inverse(), names_of(domain))
    assert before == texts(domain)
    domain.create()
    assert "/disk'" in domain.XMLDesc()
    scene.stop(domain)


# The documents alone.


DOMAIN = """\
<domain type='qemu'{id}>
  <name>a</name>
  <uuid>3f2c1c8e-0d4b-4a7e-9b1a-6d5f0e9c7a11</uuid>
  <devices>
    <disk type='file' device='disk'>
      <driver name='qemu' type='qcow2'/>
      <source file='{path}'{index}/>
      <target dev='vda' bus='virtio'/>
    </disk>
  </devices>
</domain>"""
PATH = "/i/3f2c1c8e-0d4b-4a7e-9b1a-6d5f0e9c7a11/disk"


def document_plan(path: str = PATH) -> tuple[str, Plan]:
    """A domain's text and the plan that adopts its disk into a pool."""
    from xmlkit.host import Host, Pool

    text = DOMAIN.format(id="", path=path, index="")
    host = Host(9_000_000, "qemu", pools=(Pool("p", "dir", path.rpartition("/")[0], volumes=None),))
    made = plan(Document.parse(text), host)
    assert made.changes
    return text, made


def test_only_the_addresses_change_within_a_snapshot() -> None:
    """All else is byte for byte what it was, also what stands between the two domains."""
    text, made = document_plan()
    live = DOMAIN.format(id=" id='3'", path=PATH, index=" index='1'")
    inactive = text.replace("<domain ", "<inactiveDomain ").replace(
        "</domain>", "</inactiveDomain>"
    )
    whole = f"<domainsnapshot>\n <!-- é --><name>s</name>{live}\n{inactive}\n</domainsnapshot>"
    found = rewritten(Document.parse(whole), made)

    volume = "<source pool='p' volume='disk'/>"
    wanted = whole.replace("<disk type='file'", "<disk type='volume'")
    wanted = wanted.replace(f"<source file='{PATH}' index='1'/>", volume)
    wanted = wanted.replace(f"<source file='{PATH}'/>", volume)
    assert wanted == found.text
    again = rewritten(found, made)
    assert again is found
    assert rewritten(found, made.inverse()).text == whole.replace(" index='1'", "")


def test_a_snapshot_without_a_domain_is_left_as_it_is() -> None:
    """As the old ones of other drivers, or where nothing in it is planned for."""
    _, made = document_plan()
    for text in (
        "<domainsnapshot><name>s</name></domainsnapshot>",
        f"<domainsnapshot>{DOMAIN.format(id='', path='/elsewhere', index='')}</domainsnapshot>",
    ):
        document = Document.parse(text)
        assert document is rewritten(document, made)


def test_the_snapshot_of_another_domain_is_refused() -> None:
    """The document within says whose it is."""
    text, made = document_plan()
    other = text.replace("<uuid>3f", "<uuid>4f")

    with pytest.raises(PlanError, match="the plan is for domain a"):
        rewritten(Document.parse(f"<domainsnapshot>{other}</domainsnapshot>"), made)


def test_steps_with_metadata_are_in_their_order(scene: Scene) -> None:
    """After the refresh, before the definition: a revert finds its volume at any time."""
    domain = scene.nova_guest("a")
    domain.snapshotCreateXML(SNAPSHOT.format("s"))
    found = steps_of(planned(scene, domain), metadata=names_of(domain))

    assert [Link, Refresh, Redefine, Define, Unlink] == [type(step) for step in found]
