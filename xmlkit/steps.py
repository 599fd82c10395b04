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
from dataclasses import asdict, dataclass, fields
from typing import Any

from xmlkit.errors import XmlkitError
from xmlkit.plan import Plan, Transition

__all__ = [
    "SHUTDOWN_SECONDS",
    "Backup",
    "Convert",
    "Copy",
    "Define",
    "Link",
    "Publish",
    "Redefine",
    "Refresh",
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
    """libvirt reads the pool's directory again."""

    pool: str

    def __str__(self) -> str:
        return shlex.join(("virsh", "pool-refresh", "--", self.pool))


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
    Stop | Link | Copy | Refresh | Redefine | Define | Start | Unlink | Backup | Convert | Publish
)

_KINDS: dict[str, type[Step]] = {
    kind.__name__.lower(): kind
    for kind in (
        *(Stop, Link, Copy, Refresh, Redefine, Define, Start, Unlink),
        *(Backup, Convert, Publish),
    )
}


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


def as_data(step: Step) -> dict[str, str]:
    """The step as it stands in a journal."""
    return {"step": type(step).__name__.lower(), **asdict(step)}


def from_data(data: Mapping[str, Any]) -> Step:
    """The step that `as_data` gave. Raises XmlkitError for anything else."""
    values = dict(data)
    texts = all(isinstance(value, str) for value in values.values())
    kind = _KINDS.get(values.pop("step", "")) if texts else None
    if kind is None or set(values) != {field.name for field in fields(kind)}:
        raise XmlkitError(f"not a step: {data!r}")
    return kind(**values)
