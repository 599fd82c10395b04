"""Steps: what is done to a host to carry out a plan, as data and in order.

Laws
- At every instant the defined XML boots: a second name is made (or a verified copy), libvirt's list
  is refreshed, the domain is defined and read back, and only then the old name goes.
- Each step prints as the command that an operator would type, and can be done twice.
- All can be undone but the last, the unlinking, and that one leaves what the domain names.
- A guest that is restarted is down only between `Stop` and `Start`, and its old names stay until it
  runs from the new ones. That it was asked to shut down cannot be undone, but it is started again.
"""

from __future__ import annotations

import shlex
from collections.abc import Collection, Mapping
from dataclasses import MISSING, asdict, dataclass, fields
from typing import Any, get_args

from xmlkit.errors import XmlkitError
from xmlkit.plan import Plan, Transition

__all__ = [
    "SHUTDOWN_SECONDS",
    "Backup",
    "Convert",
    "Copy",
    "Create",
    "Define",
    "Freeze",
    "Link",
    "Migrate",
    "Publish",
    "Redefine",
    "Refresh",
    "Resume",
    "Start",
    "Step",
    "Stop",
    "Unlink",
    "from_data",
    "steps_of",
]


SHUTDOWN_SECONDS = 60.0  # how long a guest may take to shut down


@dataclass(frozen=True)
class Link:
    """A second name for an image: on one file system, nothing is copied."""

    source: str
    target: str

    def __str__(self) -> str:
        return shlex.join(("ln", "-T", "--", self.source, self.target))


@dataclass(frozen=True)
class Copy:
    """A verified copy of an image, where a second name is impossible."""

    source: str
    target: str

    def __str__(self) -> str:
        options = ("--reflink=auto", "--sparse=always", "--preserve=all", "-n", "-T", "--")
        return shlex.join(("cp", *options, self.source, self.target))


@dataclass(frozen=True)
class Refresh:
    """libvirt reads the pool's directory again. uri: of the libvirt, "" for the one here."""

    pool: str
    uri: str = ""

    def __str__(self) -> str:
        return shlex.join((*_virsh(self.uri), "pool-refresh", "--", self.pool))


@dataclass(frozen=True)
class Create:
    """A volume for the disk `target`, at the destination of a migration, that QEMU fills.

    capacity: bytes. backing, backing_format: what it is laid over, "" for an empty volume.
    """

    target: str
    pool: str
    volume: str
    format: str
    capacity: int
    backing: str
    backing_format: str
    uri: str

    def __str__(self) -> str:
        words = [*_virsh(self.uri), "vol-create-as", "--format", self.format, "--allocation", "0"]
        if self.backing:
            words += ["--backing-vol", self.backing, "--backing-vol-format", self.backing_format]
        return shlex.join((*words, "--", self.pool, self.volume, str(self.capacity)))


@dataclass(frozen=True)
class Migrate:
    """The running domain goes to the libvirt at `to`. storage: "shared", "full", "incremental"."""

    domain: str
    to: str
    storage: str

    def __str__(self) -> str:
        words = ["virsh", "migrate", "--live", "--persistent", "--undefinesource"]
        copied = {"full": "--copy-storage-all", "incremental": "--copy-storage-inc"}
        words += [copied[self.storage]] if self.storage in copied else []
        files = ("--xml", f"{self.domain}-live.xml", "--persistent-xml", f"{self.domain}.xml")
        return shlex.join((*words, *files, "--", self.domain, self.to))


@dataclass(frozen=True)
class Resume:
    """The domain runs at the libvirt at `uri`, where it has been paused since it came."""

    domain: str
    uri: str

    def __str__(self) -> str:
        return shlex.join((*_virsh(self.uri), "resume", "--", self.domain))


@dataclass(frozen=True)
class Redefine:
    """A snapshot, a checkpoint or a managed save gets the new addresses too.

    kind: "snapshot", "checkpoint" or "managed-save". name: of it; "" for a managed save.
    """

    domain: str
    kind: str
    name: str

    def __str__(self) -> str:
        file = f"{self.name or self.domain}.xml"
        if self.kind == "managed-save":
            return shlex.join(("virsh", "managedsave-define", "--", self.domain, file))
        return shlex.join(("virsh", f"{self.kind}-create", "--redefine", "--", self.domain, file))


@dataclass(frozen=True)
class Define:
    """The domain's persistent XML gets the new addresses."""

    domain: str

    def __str__(self) -> str:
        return shlex.join(("virsh", "define", "--", f"{self.domain}.xml"))


@dataclass(frozen=True)
class Stop:
    """A running guest is asked to shut down, and waited for; its plug is never pulled."""

    domain: str

    def __str__(self) -> str:
        return shlex.join(("virsh", "shutdown", "--", self.domain))


@dataclass(frozen=True)
class Start:
    """The guest that was shut down runs again."""

    domain: str

    def __str__(self) -> str:
        return shlex.join(("virsh", "start", "--", self.domain))


@dataclass(frozen=True)
class Unlink:
    """The old name of an image goes: the point of no return, and last.

    kept: the name that the domain has now.
    """

    path: str
    kept: str

    def __str__(self) -> str:
        return shlex.join(("rm", "--", self.path))


@dataclass(frozen=True)
class Freeze:
    """The file systems of a running guest are frozen for a moment; done when they are thawed."""

    domain: str

    def __str__(self) -> str:
        return shlex.join(("virsh", "domfsfreeze", "--", self.domain))


@dataclass(frozen=True)
class Backup:
    """The disk of a running guest, as it is at one moment, is copied by its QEMU to a new file."""

    domain: str
    disk: str
    path: str

    def __str__(self) -> str:
        return shlex.join(
            ("virsh", "backup-begin", "--reuse-external", "--", self.domain, "backup.xml")
        )


@dataclass(frozen=True)
class Convert:
    """An image is copied, flat, to a new one. options: of qemu-img, as one word each."""

    source: str
    source_format: str
    target: str
    target_format: str
    options: str

    def __str__(self) -> str:
        formats = ("-f", self.source_format, "-O", self.target_format)
        words = ("qemu-img", "convert", *formats, *self.options.split())
        return shlex.join((*words, "--", self.source, self.target))


@dataclass(frozen=True)
class Publish:
    """An image that is complete gets its name."""

    source: str
    target: str

    def __str__(self) -> str:
        return shlex.join(("mv", "-n", "-T", "--", self.source, self.target))


Step = (
    Stop
    | Link
    | Copy
    | Create
    | Refresh
    | Redefine
    | Define
    | Start
    | Migrate
    | Resume
    | Unlink
    | Freeze
    | Backup
    | Convert
    | Publish
)

_KINDS: dict[str, type[Step]] = {kind.__name__.lower(): kind for kind in get_args(Step)}


def steps_of(
    plan: Plan,
    *,
    copied: Collection[str] = (),
    metadata: Collection[tuple[str, str]] = (),
    restart: bool = False,
) -> tuple[Step, ...]:
    """The steps that carry a plan out; none if it changes nothing.

    copied: targets of the disks whose image cannot have a second name and is copied. metadata:
    (kind, name) of what is redefined with the domain. restart: the domain runs, and is shut down
    for it and started again.
    """
    changing = [each for each in plan.transitions if each.changes]
    if not changing:
        return ()
    moving = [each for each in changing if each.action == "move"]
    images = tuple((Copy if each.target in copied else Link)(*_paths(each)) for each in moving)
    unlinks = tuple(Unlink(*_paths(each)) for each in moving)
    return (
        *((Stop(plan.uuid),) if restart else ()),
        *images,
        *_refreshes(changing, "after"),
        *(Redefine(plan.uuid, kind, name) for kind, name in metadata),
        Define(plan.uuid),
        *((Start(plan.uuid),) if restart else ()),
        *unlinks,
        *_refreshes(moving, "before"),
    )


def _paths(transition: Transition) -> tuple[str, str]:
    before, after = transition.before.path, transition.after.path
    if not before or not after:
        raise XmlkitError(f"disk {transition.target}: an image without a path cannot move")
    return before, after


def _refreshes(transitions: list[Transition], side: str) -> tuple[Refresh, ...]:
    """The pools whose list must know about it: where an image comes, or where one goes."""
    found = dict.fromkeys(
        getattr(each, side).pool
        for each in transitions
        if getattr(each, side).pool and (each.action == "move" or not each.verified)
    )
    return tuple(map(Refresh, found))


def _virsh(uri: str) -> tuple[str, ...]:
    return ("virsh", "--connect", uri) if uri else ("virsh",)


def as_data(step: Step) -> dict[str, Any]:
    """The step as it stands in a journal; a field that says nothing but its default is left out."""
    defaults = {field.name: field.default for field in fields(step)}
    kept = {name: value for name, value in asdict(step).items() if value != defaults[name]}
    return {"step": type(step).__name__.lower(), **kept}


def from_data(data: Mapping[str, Any]) -> Step:
    """The step that `as_data` gave. Raises XmlkitError for anything else."""
    values = dict(data)
    kind = _KINDS.get(str(values.pop("step", "")))
    known = {} if kind is None else {field.name: field for field in fields(kind)}
    needed = {name for name, field in known.items() if field.default is MISSING}
    whole = needed <= set(values) <= set(known)
    typed = all(type(v) is (int if name == "capacity" else str) for name, v in values.items())
    if kind is None or not whole or not typed:
        raise XmlkitError(f"not a step: {data!r}")
    return kind(**values)
