"""Snapshots: the content of one disk, as it is at one moment, in a new image that stands alone.

Laws
- The domain is as before: its XML, its chain of images. Nothing is ever committed or pivoted, and
  no overlay is put above the disk.
- The disk's format is the domain's word; what libvirt thinks of the bytes in a pool does not count.
- The image grows in a directory of its own beside its place, `.xmlkit-ID`, and gets its name,
  overwriting nothing, when it is complete and on the disk.
- Of an image that no guest may write to meanwhile (locked), or by QEMU itself while its guest runs.
- What was begun stands in the journal, and `recover` ends it: xmlkit's own job, told by the path
  that it writes to, and xmlkit's own directory.
- A guest that was asked to freeze is thawed, or off, before anything is called done or undone.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

import libvirt
from lxml import etree

from xmlkit import chain, images, leisure, state, volumes
from xmlkit.compare import compare
from xmlkit.disks import PATH_ATTRIBUTES, Address, Disk, read_domain, shared_targets
from xmlkit.document import Document, Limits
from xmlkit.errors import XmlkitError
from xmlkit.host import is_plain_path, parse_host, sanitized
from xmlkit.images import Identity, ImageError
from xmlkit.journal import Journal, JournalError, Outcome, Task, Writer
from xmlkit.observe import domain_xml, is_local, observe, said, without_password
from xmlkit.plan import Plan
from xmlkit.steps import Backup, Convert, Freeze, Publish, Refresh, Step

__all__ = ["Shot", "SnapshotError", "Taken", "prepare", "recover", "take"]

ImageFormat = Literal["qcow2", "raw", "vmdk", "vdi"]
Compression = Literal["zlib", "zstd"]

# Called with what is done ("backup", "convert") and how much of it, 0 to 1.
Listener = Callable[[str, float], None]

POLL = 0.1  # seconds between two looks at a job
CLOSING = 60.0  # seconds to wait until a QEMU has ended a job, and until it has closed the file
THAWING = 60.0  # seconds in which a guest is asked to thaw, again and again
BUSY = 120.0  # for a pool: a copy of hours shall not be pending for one that is busy for a minute

_LIMITS = Limits(markup=1 << 30)

# What libvirt answers where its QEMU cannot make a backup (seen on 7.0 with QEMU 5.2: 84).
_NO_BACKUP = (
    libvirt.VIR_ERR_OPERATION_UNSUPPORTED,
    libvirt.VIR_ERR_CONFIG_UNSUPPORTED,
    libvirt.VIR_ERR_NO_SUPPORT,
)

# What libvirt answers where it does not know what the agent did, or does still: it waited for less
# time than that took (virDomainAgentSetResponseTimeout), or the agent went away. The second is
# VIR_ERR_AGENT_COMMAND_TIMEOUT, by which libvirt 11.2 and newer tell the two apart.
_NO_ANSWER = (libvirt.VIR_ERR_AGENT_UNRESPONSIVE, 112)


class SnapshotError(XmlkitError):
    """A snapshot that cannot be made; `id` is one of xmlkit.rules."""

    def __init__(self, id: str, message: str) -> None:
        self.id = id
        super().__init__(message)


class Shot(NamedTuple):
    """One snapshot that can be made.

    name, uuid: of the domain. disk: its target. running: whether QEMU has it open. source: the
    path of its image ("" while it runs and only QEMU knows it). format: the domain's word for it.
    capacity: bytes. target: where the result goes, its path always known. image_format, compress:
    of the result.
    """

    name: str
    uuid: str
    disk: str
    running: bool
    source: str
    format: str
    capacity: int
    target: Address
    image_format: ImageFormat
    compress: Compression | None = None


class Taken(NamedTuple):
    """How it ended: the id in the journal, the outcome, what the snapshot is worth, its bytes.

    consistency: "off" (the guest was off), "frozen" (its file systems were, by the guest agent),
    "crash" (as if the power had failed). size: what the image takes on its file system. unfrozen:
    why the file systems of a running guest were not frozen, "" if they were.
    """

    id: str
    outcome: Outcome
    consistency: Literal["off", "frozen", "crash"]
    size: int = 0
    unfrozen: str = ""


def prepare(
    connection: Any,
    domain: str,
    disk: str,
    target: Address,
    *,
    image_format: ImageFormat = "qcow2",
    compress: Compression | None = None,
    live: bool = False,
) -> Shot:
    """What snapshot would be made; nothing is changed.

    domain: name or UUID. disk: its target. target: a file (type "file", an absolute path) or a
    volume (type "volume"). live: the domain may run.
    Raises SnapshotError (`snapshot-running`, `snapshot-source`, `block-job`, ...), VolumeError for
    a volume that cannot be, ImageError for paths, LibvirtError, libvirt's errors.
    """
    if not is_local(connection.getURI()):
        raise SnapshotError(
            "unseen", "the images are on another machine: run xmlkit snapshot there"
        )
    if compress and image_format != "qcow2":
        raise SnapshotError(
            "volume-option", f"a {image_format} image cannot be compressed: only qcow2 can"
        )
    found = _domain(connection, domain)
    running = bool(found.isActive())
    if running and not live:
        raise SnapshotError(
            "snapshot-running",
            f"{found.name()} is running, and what it writes meanwhile would not fit together: say "
            "--live to have its QEMU copy the disk as it is at one moment, or shut it down",
        )
    document = _document(found, inactive=not running)
    this = _disk(document, disk)
    if running:
        if found.blockJobInfo(disk, 0) or "mirror" in this.children:
            raise SnapshotError(
                "block-job", f"{disk} has a block job: wait for it (virsh blockjob DOMAIN {disk})"
            )
        source, capacity = "", int(found.blockInfo(disk, 0)[0])
    else:
        source = _path_of(connection, this)
        with contextlib.ExitStack() as stack:
            stack.enter_context(images.locked(source, write=False))
            layers = _chain(stack, source, this)
            capacity = chain.capacity_of(layers[0])
    placed = _target(connection, target, image_format, capacity)
    return Shot(
        name=found.name(),
        uuid=found.UUIDString(),
        disk=disk,
        running=running,
        source=source,
        format=this.image_format,
        capacity=capacity,
        target=placed,
        image_format=image_format,
        compress=compress,
    )


def take(
    connection: Any,
    shot: Shot,
    directory: Path,
    *,
    uri: str,
    listener: Listener = lambda *_: None,
) -> Taken:
    """Make the snapshot. To be called within service.writing().

    directory: the state directory. uri: for the journal, so that recover knows where.
    However it ends, the result is complete or not there, unless the outcome is "pending": then
    recover() has to be called; it is that too if the journal cannot be written on. A
    KeyboardInterrupt is not raised again: the outcome is "undone". Raises JournalError if the
    journal cannot even be begun.
    """
    id = state.new_id(directory)
    task = _task(shot, id)
    bare = without_password(uri)
    writer = Writer.create(str(directory), id, (task,), uri=bare, kind="snapshot")
    try:
        maker = _Maker(connection, writer, task, shot, listener)
        try:
            outcome = maker.run()
            writer.end((task.uuid, outcome))
        except JournalError as error:
            outcome = Outcome("pending", "journal", str(error))
        return Taken(id, outcome, maker.consistency, maker.size, maker.unfrozen)
    finally:
        writer.close()


def recover(connection: Any, journal: Journal) -> dict[str, Outcome]:
    """Bring a snapshot that was interrupted to an end: done if it is complete, else undone.

    Ends the job in QEMU if it is the one that the journal tells of. Returns the outcome by UUID.
    Raises JournalError.
    """
    writer = Writer(journal.path, new=False)
    try:
        outcomes = {}
        for task in journal.pending:
            known = [
                Identity(*at) for facts in journal.facts.get(task.uuid, ()) for at in facts.values()
            ]
            begun = journal.begun.get(task.uuid, set()) - journal.done.get(task.uuid, set())
            outcomes[task.uuid] = _settle(connection, task, begun, known)
        writer.end(*outcomes.items())
        return outcomes
    finally:
        writer.close()


# What is asked for.


def _domain(connection: Any, name: str) -> Any:
    # it says which names are near
    uuid = read_domain(Document.parse(domain_xml(connection, name), _LIMITS)).uuid
    return connection.lookupByUUIDString(uuid)


def _document(domain: Any, *, inactive: bool) -> Document:
    flags = libvirt.VIR_DOMAIN_XML_INACTIVE if inactive else 0
    return Document.parse(domain.XMLDesc(flags), _LIMITS)


def _disk(document: Document, target: str) -> Disk:
    disks = read_domain(document).disks
    if target in shared_targets(disks):
        raise SnapshotError("no-target", f"several disks have the target {target!r}")
    this = next((each for each in disks if each.target == target), None)
    if this is None:
        known = ", ".join(each.target for each in disks) or "none"
        raise SnapshotError("no-target", f"no disk {target!r}: the domain has {known}")
    if this.device not in ("disk", "lun"):
        raise SnapshotError("snapshot-source", f"{target} is a {this.device}, not a disk")
    if this.address.type not in ("file", "block", "volume") or this.in_source("slices"):
        what = "a part of an image" if this.in_source("slices") else this.address.type
        raise SnapshotError(
            "snapshot-source",
            f"{target} is {what}: snapshots are made of disks that are files, block devices or "
            "volumes, as a whole",
        )
    if "encryption" in this.children or this.in_source("encryption"):
        raise _encrypted(target)
    if this.image_format not in ("raw", "qcow2"):
        raise SnapshotError(
            "snapshot-source", f"{target} is {this.image_format}: xmlkit reads raw and qcow2"
        )
    return this


def _encrypted(what: str) -> SnapshotError:
    return SnapshotError(
        "snapshot-source",
        f"{what} is encrypted: its snapshot would be in clear, and qemu-img would need the "
        "passphrase. Copy the image as it is, with the domain off (cp --sparse=always)",
    )


def _path_of(connection: Any, disk: Disk) -> str:
    """Where the image of a disk is, by the domain's XML and, for a volume, by its pool."""
    address = disk.address
    path = address.path
    if address.type == "volume":
        path = _volume(connection, str(address.pool), str(address.volume)).path()
    if not path:
        raise SnapshotError("empty", f"{disk.target} has no image")
    if str(path).startswith("/dev/"):
        # a logical volume's path is a link that udev made
        return os.path.realpath(path)
    return sanitized(path)


def _volume(connection: Any, pool: str, volume: str) -> Any:
    try:
        return connection.storagePoolLookupByName(pool).storageVolLookupByName(volume)
    except libvirt.libvirtError as error:
        raise SnapshotError("no-volume", f"{pool}/{volume}: {said(error)}") from None


def _target(connection: Any, target: Address, image_format: ImageFormat, capacity: int) -> Address:
    """The target with its path. Raises for what cannot be or is there already."""
    path = target.path
    if target.type == "volume":
        if image_format not in ("raw", "qcow2"):
            raise SnapshotError(
                "volume-format",
                f"a volume is made raw or qcow2, not {image_format}: say --to-file for that",
            )
        host = parse_host(observe(connection), _LIMITS)
        pool = host.by_name.get(str(target.pool))
        if pool is None:
            known = ", ".join(host.by_name) or "none"
            raise SnapshotError("no-pool", f"no pool {target.pool!r} on this host: it has {known}")
        if not pool.active:
            raise SnapshotError(
                "pool-inactive", f"pool {pool.name} is not active: virsh pool-start {pool.name}"
            )
        if not host.can("image-volumes", pool.type):
            raise SnapshotError(
                "volume-pool",
                f"{pool.name} is a {pool.type} pool: snapshots go into directories (dir, fs and "
                "netfs pools), or to a file",
            )
        name = str(target.volume)
        volumes.blank(host, pool, name, volumes.Target(image_format), -(-capacity // 1024) * 1024)
        path = pool.path_of(name)
    if path is None or not is_plain_path(path):
        raise SnapshotError(
            "bad-path", f"not a plain absolute path: {path!r}; write it from '/' on"
        )
    with images.parent_of(path) as (parent, name), images.reported(path):
        if _exists(parent, name):
            raise SnapshotError(
                "target-exists",
                f"{path} exists, and nothing is overwritten: look at it, move it away",
            )
    return target._replace(path=path)


def _exists(directory: int, name: str) -> bool:
    try:
        os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def _task(shot: Shot, id: str) -> Task:
    """The steps, as they stand in the journal; the plan has no disks, since none changes."""
    path = str(shot.target.path)
    parent, _, name = path.rpartition("/")
    work = f"{parent}/.xmlkit-{id}"
    grown = f"{work}/{name}"
    # two names in one directory
    copied = f"{work}/{'disk' if name != 'disk' else 'guest'}.qcow2"
    options = " ".join(_options(shot.image_format, shot.compress))
    steps: list[Step] = []
    source, format_ = shot.source, shot.format
    if shot.running:
        steps += [Freeze(shot.uuid), Backup(shot.uuid, shot.disk, copied)]
        source, format_ = copied, "qcow2"
    steps += [
        Convert(source, format_, grown, shot.image_format, options),
        Publish(grown, path),
    ]
    if shot.target.type == "volume":
        steps.append(Refresh(str(shot.target.pool)))
    return Task(Plan("volume", shot.name, shot.uuid, ()), tuple(steps))


def _options(image_format: ImageFormat, compress: Compression | None) -> tuple[str, ...]:
    if image_format != "qcow2":
        return ()
    kind = f",compression_type={compress}" if compress else ""
    return (*(("-c",) if compress else ()), "-o", f"compat=1.1{kind}")


def _chain(stack: contextlib.ExitStack, path: str, disk: Disk) -> tuple[chain.Layer, ...]:
    """The images of a disk, opened.

    Refused is a `<backingStore>` that says other than the images' headers: libvirt believes it.
    """
    layers = chain.chain_of(stack, path, disk.image_format)
    store = disk.children.get("backingStore")
    for below in (*layers[1:], None):
        if store is None:
            break
        source, format_ = store.find("source"), store.find("format")
        said = None
        if source is not None:
            place = source.get(PATH_ATTRIBUTES.get(store.get("type", "file"), "")) or ""
            said = sanitized(place), "raw" if format_ is None else format_.get("type", "raw")
        found = None if below is None else (below.path, below.format)
        if said != found:
            raise SnapshotError(
                "volume-chain",
                f"{disk.target}: <backingStore> says {_spelled(said)}, the image above says "
                f"{_spelled(found)}: remove it from the domain's XML, or repair it",
            )
        store = store.find("backingStore")
    return layers


def _spelled(layer: tuple[str, str] | None) -> str:
    return "no image" if layer is None else f"{layer[0]} ({layer[1]})"


# What is made.


class _Maker:
    """Takes the steps of one snapshot."""

    def __init__(
        self, connection: Any, writer: Writer, task: Task, shot: Shot, listener: Listener
    ) -> None:
        self.connection = connection
        self.writer = writer
        self.task = task
        self.shot = shot
        self.listener = listener
        self.consistency: Literal["off", "frozen", "crash"] = "crash" if shot.running else "off"
        self.size = 0
        self.unfrozen = ""
        self.begun: set[int] = set()  # and not done
        self.known: list[Identity] = []

    def run(self) -> Outcome:
        """Take all steps; what fails is taken back."""
        try:
            self._steps()
            return Outcome("done")
        except KeyboardInterrupt:
            return self._undone("interrupted", "interrupted")
        except (SnapshotError, ImageError) as error:
            return self._undone(error.id, str(error))
        except libvirt.libvirtError as error:
            return self._undone("libvirt", said(error))
        except OSError as error:
            return self._undone("failed", str(error))

    def _undone(self, id: str, message: str) -> Outcome:
        outcome = _settle(self.connection, self.task, self.begun, self.known)
        if outcome.state == "done":
            # it was complete, and only the pool's list was out of date
            return outcome
        if outcome.state == "undone":
            return Outcome("undone", id, message)
        return Outcome(outcome.state, outcome.id or id, f"{message}; {outcome.message}")

    def _steps(self) -> None:
        with contextlib.ExitStack() as stack:
            work = _work(stack, self.task, make=True)
            assert work is not None
            for number, step in enumerate(self.task.steps):
                if isinstance(step, Freeze):
                    # within the backup, and only if there is an agent
                    continue
                self._begin(number)
                match step:
                    case Backup():
                        self._backup(step, work)
                    case Convert():
                        self._convert(step, work)
                        self._made(step, work)
                    case Publish():
                        _publish(step, work)
                        _clear(work)
                    case Refresh(pool):
                        _list(self.connection, self.task, pool, self.known[-1])
                self._end(number)

    def _begin(self, number: int) -> None:
        self.writer.begin((self.task.uuid, number))
        self.begun.add(number)

    def _end(self, number: int) -> None:
        self.writer.done((self.task.uuid, number))
        self.begun.discard(number)

    def _made(self, step: Convert, work: _Work) -> None:
        """The image is on the disk, and the journal knows it by its inode before it has a name."""
        name = step.target.rpartition("/")[2]
        handle = os.open(name, os.O_RDWR | os.O_NOFOLLOW, dir_fd=work.handle)
        try:
            os.fsync(handle)
            facts = os.fstat(handle)
        finally:
            os.close(handle)
        identity = Identity(facts.st_ino, facts.st_size, facts.st_mtime_ns)
        self.size = facts.st_blocks * 512
        self.known.append(identity)
        self.writer.remember(self.task.uuid, {step.target: identity})

    # By qemu-img.

    def _convert(self, step: Convert, work: _Work) -> None:
        with contextlib.ExitStack() as stack:
            stack.enter_context(images.locked(step.source, write=False))
            if self.shot.running:
                # what QEMU wrote stands alone, whatever its header says by now
                layers = chain.first_of(stack, step.source, step.source_format)
            else:
                layers = self._locked_chain(stack, step)
            self._check_layers(work, layers)
            name = step.target.rpartition("/")[2]
            chain.convert(
                *(layers, work.handle, name, step.target_format, tuple(step.options.split())),
                progress=lambda part: self.listener("convert", part),
            )
        if self.shot.running:
            os.unlink(step.source.rpartition("/")[2], dir_fd=work.handle)

    def _locked_chain(self, stack: contextlib.ExitStack, step: Convert) -> tuple[chain.Layer, ...]:
        """The chain of the disk, now that nobody can start a guest on it."""
        domain = self.connection.lookupByUUIDString(self.task.uuid)
        if domain.isActive():
            raise SnapshotError("snapshot-running", "somebody has started it since")
        document = _document(domain, inactive=True)
        disk = _disk(document, self.shot.disk)
        if (_path_of(self.connection, disk), disk.image_format) != (
            step.source,
            step.source_format,
        ):
            raise SnapshotError("disk-changed", "somebody has changed the disk since")
        if domain.hasManagedSaveImage(0):
            # what the guest had not yet written is in there
            self.consistency = "crash"
        return _chain(stack, step.source, disk)

    def _check_layers(self, work: _Work, layers: tuple[chain.Layer, ...]) -> None:
        if self.shot.compress:
            # how small it gets is not known
            return
        needed = sum(os.fstat(layer.handle).st_blocks * 512 for layer in layers)
        _check_room(work, min(needed, self.shot.capacity), str(self.shot.target.path))

    # By the QEMU of the guest.

    def _backup(self, step: Backup, work: _Work) -> None:
        domain = self.connection.lookupByUUIDString(step.domain)
        before = _states(domain)
        capacity, allocated, _ = domain.blockInfo(step.disk, 0)
        if capacity != self.shot.capacity:
            raise SnapshotError("disk-changed", f"{step.disk} has another size by now")
        _check_room(work, min(capacity, allocated), step.path)
        name = step.path.rpartition("/")[2]
        chain.create(work.handle, name, capacity)
        if not self._push(domain, step):
            self._mirror(domain, step)
        _wait_until_unused(step.path, CLOSING)
        if changed := _changed(before, _states(domain), step.disk):
            raise SnapshotError("disk-changed", f"somebody has changed the disk since: {changed}")

    def _push(self, domain: Any, step: Backup) -> bool:
        """A backup: what the guest overwrites is copied first. False where there is none."""
        with self._frozen(domain):
            try:
                flags = getattr(libvirt, "VIR_DOMAIN_BACKUP_BEGIN_REUSE_EXTERNAL", 1)
                domain.backupBegin(_backup_xml(step), None, flags)
            except libvirt.libvirtError as error:
                if error.get_error_code() in _NO_BACKUP:
                    return False
                raise
        while _is_pushing(domain, step.path):
            about = domain.jobStats(0)
            self.listener("backup", _part(about.get("disk_processed"), about.get("disk_total")))
            time.sleep(POLL)
        if not domain.isActive():
            raise SnapshotError("snapshot-failed", "the guest ended meanwhile")
        about = domain.jobStats(libvirt.VIR_DOMAIN_JOB_STATS_COMPLETED)
        backup = getattr(libvirt, "VIR_DOMAIN_JOB_OPERATION_BACKUP", 9)
        if about.get("operation") != backup or not about.get("success"):
            why = about.get("errmsg") or "libvirt does not know how it ended"
            raise SnapshotError("snapshot-failed", f"QEMU did not complete the backup: {why}")
        return True

    def _mirror(self, domain: Any, step: Backup) -> None:
        """A block copy that is cancelled when it is in step with the disk: it stays as it is then.

        For libvirt before 7.2 and QEMU before 6.0, which make no backup.
        """
        flags = (
            libvirt.VIR_DOMAIN_BLOCK_COPY_TRANSIENT_JOB | libvirt.VIR_DOMAIN_BLOCK_COPY_REUSE_EXT
        )
        domain.blockCopy(step.disk, _copy_xml(step), None, flags)
        while True:
            mirror = _mirror_of(domain, step)
            if mirror is None:
                raise SnapshotError(
                    "snapshot-failed", "QEMU did not complete the copy: look at the guest's log"
                )
            if mirror.get("ready") == "yes":
                break
            about = domain.blockJobInfo(step.disk, 0) or {}
            self.listener("backup", _part(about.get("cur"), about.get("end")))
            time.sleep(POLL)
        with self._frozen(domain):
            domain.blockJobAbort(step.disk, 0)

    @contextlib.contextmanager
    def _frozen(self, domain: Any) -> Iterator[None]:
        """The guest's file systems are frozen, if its agent answers and nobody has frozen them."""
        step = Freeze(domain.UUIDString())
        number = self.task.steps.index(step)
        self.unfrozen = _silence(domain) or self._freeze(domain, step, number)
        try:
            yield
        finally:
            if not self.unfrozen:
                _thaw(self.connection, step)
                self._end(number)
        self.consistency = "crash" if self.unfrozen else "frozen"

    def _freeze(self, domain: Any, step: Freeze, number: int) -> str:
        """Freeze the guest's file systems; why they are not frozen, "" if they are."""
        self._begin(number)
        try:
            domain.fsFreeze()
        except libvirt.libvirtError as error:
            if not self.connection.isAlive():
                # they may be: whoever settles it thaws them
                raise
            if error.get_error_code() in _NO_ANSWER:
                _thaw(self.connection, step)
            # else paused, an agent that cannot, or somebody else has frozen them: it refuses a
            # second time, and what was not frozen here is not thawed here
            self._end(number)
            return said(error)
        return ""


def _check_room(work: _Work, needed: int, path: str) -> None:
    room = os.fstatvfs(work.handle)
    free = room.f_bavail * room.f_frsize
    if room.f_blocks and needed > free:
        raise SnapshotError(
            "no-space",
            f"{path} needs up to {needed} bytes and {free} are free there: make room, or choose "
            "another place",
        )


def _backup_xml(step: Backup) -> str:
    root = etree.Element("domainbackup", mode="push")
    disk = etree.SubElement(etree.SubElement(root, "disks"), "disk")
    disk.attrib.update({"name": step.disk, "backup": "yes", "type": "file"})
    etree.SubElement(disk, "target", file=step.path)
    etree.SubElement(disk, "driver", type="qcow2")
    return etree.tostring(root, encoding="unicode")


def _copy_xml(step: Backup) -> str:
    root = etree.Element("disk", type="file")
    etree.SubElement(root, "driver", type="qcow2")
    etree.SubElement(root, "source", file=step.path)
    return etree.tostring(root, encoding="unicode")


def _part(done: Any, whole: Any) -> float:
    return min(float(done or 0) / float(whole), 1.0) if whole else 0.0


def _is_pushing(domain: Any, path: str) -> bool:
    """Whether the backup that writes to `path` goes on."""
    try:
        root = etree.fromstring(domain.backupGetXMLDesc(0).encode())
    except libvirt.libvirtError as error:
        gone = (
            getattr(libvirt, "VIR_ERR_NO_DOMAIN_BACKUP", 104),
            libvirt.VIR_ERR_OPERATION_INVALID,
            libvirt.VIR_ERR_NO_SUPPORT,
        )
        if error.get_error_code() in gone:
            return False
        raise
    return any(target.get("file") == path for target in root.iterfind("disks/disk/target"))


def _mirror_of(domain: Any, step: Backup) -> etree._Element | None:
    """The `<mirror>` of a block copy to the step's path; None if there is none."""
    for disk in _document(domain, inactive=False).root.iterfind("devices/disk"):
        mirror = disk.find("mirror")
        if mirror is not None:
            source = mirror.find("source")
            if step.path in (mirror.get("file"), None if source is None else source.get("file")):
                return mirror
    return None


def _agent(domain: Any) -> bool:
    """Whether the guest agent is connected."""
    return any(
        target.get("name") == "org.qemu.guest_agent.0" and target.get("state") == "connected"
        for target in _document(domain, inactive=False).root.iterfind("devices/channel/target")
    )


def _silence(domain: Any) -> str:
    """Why the guest agent does not answer, "" if it does.

    An agent that is asked to freeze while it is away does so when it comes back, and nobody is
    there to thaw; so it is asked for something else before.
    """
    if not _agent(domain):
        return "no guest agent is connected"
    try:
        domain.getTime()
    except libvirt.libvirtError as error:
        if error.get_error_code() in _NO_ANSWER:
            return f"the guest agent does not answer: {said(error)}"
        # what it cannot tell, or must not while it is frozen, is an answer too
    return ""


def _states(domain: Any) -> tuple[Document, ...]:
    """The domain's live XML and the one that counts from its next start."""
    persistent = domain.isPersistent()
    return tuple(_document(domain, inactive=each) for each in (False, True)[: 1 + persistent])


def _changed(before: tuple[Document, ...], after: tuple[Document, ...], disk: str) -> str:
    """What differs in a disk, "" if nothing does."""
    for old, new in zip(before, after, strict=False):
        for each in compare(old, new):
            if each.where.startswith(f"/domain/devices/disk[{disk}]"):
                return f"{each.where} was {each.old}, is {each.new}"
    return ""


def _refresh_pool(connection: Any, name: str) -> None:
    leisure.refresh(connection.storagePoolLookupByName(name), seconds=BUSY)


def _list(connection: Any, task: Task, pool: str, known: Identity) -> None:
    """The pool's list has the volume, for what it is; otherwise it is removed again."""
    _refresh_pool(connection, pool)
    target = _of(task, Publish).target
    volume = _volume(connection, pool, target.rpartition("/")[2])
    root = etree.fromstring(volume.XMLDesc(0).encode())
    wanted = next(step.target_format for step in task.steps if isinstance(step, Convert))
    seen = root.find("target/format")
    seen_as = wanted if seen is None else str(seen.get("type"))
    # an ISO image is a raw one
    fitting = {wanted} | ({"iso"} if wanted == "raw" else set())
    if seen_as not in fitting or root.find("backingStore/path") is not None:
        images.unlink(target, expected=known, other=None)
        _refresh_pool(connection, pool)
        raise SnapshotError(
            "format-disagrees",
            f"the guest's bytes look like a {seen_as} image, and libvirt would read the raw volume "
            "as one: make a qcow2 snapshot, or one to a file",
        )


# The directory that it grows in.


class _Work(NamedTuple):
    """Handles of the directory that the result goes to, and of the one that it grows in."""

    parent: int
    name: str
    handle: int


def _work(stack: contextlib.ExitStack, task: Task, *, make: bool) -> _Work | None:
    """The directory of a snapshot; None if it is not there and shall not be made."""
    path = _of(task, Publish).source.rpartition("/")[0]
    parent, name = stack.enter_context(images.parent_of(path))
    with images.reported(path):
        if make:
            os.mkdir(name, 0o700, dir_fd=parent)
        elif not _exists(parent, name):
            return None
    handle = stack.enter_context(images.directory_of(path))
    if make:
        # QEMU's own user has to pass; what is in it is its owner's alone
        os.fchmod(handle, 0o711)
    return _Work(parent, name, handle)


def _of(task: Task, kind: type[Publish]) -> Publish:
    return next(step for step in task.steps if isinstance(step, kind))


def _publish(step: Publish, work: _Work) -> None:
    with images.reported(step.target):
        name = step.target.rpartition("/")[2]
        images.rename(work.handle, step.source.rpartition("/")[2], work.parent, name)
        os.fsync(work.parent)


def _clear(work: _Work) -> None:
    """Remove the directory and what xmlkit made in it."""
    for name in os.listdir(work.handle):
        os.unlink(name, dir_fd=work.handle)
    os.rmdir(work.name, dir_fd=work.parent)
    os.fsync(work.parent)


# To an end.


def _settle(connection: Any, task: Task, begun: set[int], known: list[Identity]) -> Outcome:
    """Finish a snapshot that has its name, take back any other.

    begun: the steps that were begun and not done. known: what the image is, once it is complete.
    """
    try:
        backups = [step for number in begun if isinstance(step := task.steps[number], Backup)]
        try:
            for backup in backups:
                _abort(connection, backup)
        finally:
            # a guest does not hang for a job that does not end
            for number in begun:
                if isinstance(step := task.steps[number], Freeze):
                    _thaw(connection, step)
        rename = _of(task, Publish)
        complete = bool(known) and _identity(rename.target) == known[-1]
        with contextlib.ExitStack() as stack:
            work = _work(stack, task, make=False)
            if work is not None:
                for name in os.listdir(work.handle):
                    _wait_until_unused(f"{rename.source.rpartition('/')[0]}/{name}", CLOSING)
                _clear(work)
        for step in task.steps:
            if isinstance(step, Refresh) and complete:
                _list(connection, task, step.pool, known[-1])
            elif isinstance(step, Refresh):
                _refresh_pool(connection, step.pool)
        for backup in backups:
            _resume(connection, backup)
        return Outcome("done" if complete else "undone")
    except libvirt.libvirtError as error:
        return Outcome("pending", "libvirt", f"{said(error)}; then run xmlkit recover")
    except (SnapshotError, ImageError) as error:
        if error.id == "format-disagrees":
            # it was removed
            return Outcome("undone", error.id, str(error))
        return Outcome("pending", error.id, f"{error}; then run xmlkit recover")
    except (XmlkitError, OSError) as error:
        return Outcome("pending", "failed", f"{error}; then run xmlkit recover")


def _identity(path: str) -> Identity | None:
    return images.identity(path) if images.is_image(path) else None


def _wait_until_unused(path: str, seconds: float) -> None:
    """libvirt says that a job has ended before its QEMU has closed the file."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            with images.locked(path, write=True):
                return
        except ImageError as error:
            if error.id != "image-in-use" or time.monotonic() > deadline:
                raise
        time.sleep(POLL)


def _guest(connection: Any, step: Backup | Freeze) -> Any | None:
    """The running domain of the step; None if it is off or there is none any more."""
    try:
        domain = connection.lookupByUUIDString(step.domain)
    except libvirt.libvirtError as error:
        if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN:
            return None
        raise
    return domain if domain.isActive() else None


def _resume(connection: Any, step: Backup) -> None:
    """Let a guest go on that QEMU has paused since it could not copy what the guest overwrites.

    What the guest wrote was not lost: QEMU writes it now. If its own disk is full, it pauses again.
    """
    domain = _guest(connection, step)
    if domain is not None and domain.state() == [
        libvirt.VIR_DOMAIN_PAUSED,
        libvirt.VIR_DOMAIN_PAUSED_IOERROR,
    ]:
        domain.resume()


def _abort(connection: Any, step: Backup) -> None:
    """End the job that writes to the step's path, if there is one."""
    domain = _guest(connection, step)
    if domain is None:
        return
    deadline = time.monotonic() + CLOSING
    if _is_pushing(domain, step.path):
        with _unless_over():
            domain.abortJob()
        while _is_pushing(domain, step.path):
            if time.monotonic() > deadline:
                raise SnapshotError("block-job", "QEMU does not end the backup: virsh domjobabort")
            time.sleep(POLL)
    if _mirror_of(domain, step) is not None:
        with _unless_over():
            domain.blockJobAbort(step.disk, 0)


@contextlib.contextmanager
def _unless_over() -> Iterator[None]:
    """A job that has ended before it was ended is no error (VIR_ERR_OPERATION_INVALID)."""
    try:
        yield
    except libvirt.libvirtError as error:
        if error.get_error_code() != libvirt.VIR_ERR_OPERATION_INVALID:
            raise


def _thaw(connection: Any, step: Freeze) -> None:
    """Thaw a guest that we froze, or may have: nobody else would, and it would hang.

    Returns when it is thawed or off. It is asked again for a while: one that freezes still thaws
    after that, and libvirtd, just started, may not have found its agent yet. Raises SnapshotError.
    """
    deadline = time.monotonic() + THAWING
    while True:
        domain = _guest(connection, step)
        if domain is None:
            return
        why = "its agent is not connected"
        try:
            if _agent(domain):
                domain.fsThaw()
                return
        except libvirt.libvirtError as error:
            why = said(error)
        if time.monotonic() > deadline or not connection.isAlive():
            raise SnapshotError(
                "libvirt", f"the guest's file systems may still be frozen (virsh domfsthaw): {why}"
            )
        time.sleep(POLL)
