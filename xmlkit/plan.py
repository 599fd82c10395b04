"""Plan: for every disk of a domain, what will become of it, or why nothing will.

Laws
- The plan holds every decision; transformers and executors hold none.
- A disk is a Transition, or a Skip with a reason that an operator can act on.
- The format comes from the domain. A pool's probe may confirm it; if it disagrees, refuse.
- What the host cannot have as a volume disk keeps a path: of the same volume, in the disk's own
  format. That is data in the transition (disk_type), not another pipeline.
- A plan can be written as JSON and read back, and has an inverse.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from functools import cached_property, lru_cache
from typing import Any, Literal, NamedTuple, TypeGuard

from xmlkit import names
from xmlkit.disks import FORMATS, Address, Disk, Domain, read_domain, shared_targets
from xmlkit.document import Document
from xmlkit.errors import XmlkitError
from xmlkit.host import (
    CAPABILITIES,
    NAMED_BY_PATH,
    POOL_DISK_TYPES,
    Host,
    Pool,
    Volume,
    aa_helper_reads,
    version_text,
)
from xmlkit.redaction import redact

__all__ = [
    "KINDS",
    "STAYS",
    "Plan",
    "PlanError",
    "Reason",
    "Skip",
    "Transition",
    "no_volume_disks",
    "plan",
    "plans_from_json",
    "plans_to_json",
]

SCHEMA = "xmlkit.plan/1"

Form = Literal["volume", "path"]

# The kinds of disk that --relocate tells apart (the spec's footnote 6).
KINDS = ("root", "ephemeral", "swap")

# Reasons for which a disk is as it should be, or somebody else's: no refusal.
STAYS = frozenset(
    ("already", "cinder", "config-drive", "empty", "source-type", "fdgroup", "outside-pools")
)


class PlanError(XmlkitError, ValueError):
    """A plan cannot be made or read, or does not fit the document; the message says why."""


class Reason(NamedTuple):
    """Why: an id of `xmlkit explain` and a message about this disk."""

    id: str
    message: str


class Transition(NamedTuple):
    """One disk that gets another address.

    target: the disk's `<target dev>`. action: "adopt" (the image stays where it is) or "move" (to
    after.path, before the XML is used). disk_type: the form it gets, `volume` or `path`; reason
    says why it is not the form that was asked for. format: of the image, always written out.
    verified: whether the volume was seen on the host. live: the document is a migration's
    destination XML. span: the disk's own XML as it was written, for the way back. undo: this
    transition leads back to span.
    """

    target: str
    action: Literal["adopt", "move"]
    disk_type: Form
    format: str
    before: Address
    after: Address
    verified: bool
    reason: Reason | None = None
    live: bool = False
    span: str = ""
    undo: bool = False

    @property
    def changes(self) -> bool:
        """Whether the XML changes at all; a disk kept on its path by the fallback does not."""
        return not self.before.same(self.after)

    def inverse(self) -> Transition:
        """The transition that undoes this one."""
        form: Form = "volume" if self.before.type == "volume" else "path"
        return self._replace(
            disk_type=form, before=self.after, after=self.before, undo=not self.undo
        )


class Skip(NamedTuple):
    """One disk that stays as it is, and why."""

    target: str
    address: Address
    format: str
    reason: Reason


class Plan(NamedTuple):
    """What is decided for each disk of one domain, in the domain's order.

    binding: what ties the plan to its inputs on the host that made it; None without.
    """

    to: Form
    name: str
    uuid: str
    disks: tuple[Transition | Skip, ...]
    binding: str | None = None

    @property
    def transitions(self) -> tuple[Transition, ...]:
        return tuple(disk for disk in self.disks if isinstance(disk, Transition))

    @property
    def skips(self) -> tuple[Skip, ...]:
        return tuple(disk for disk in self.disks if isinstance(disk, Skip))

    @property
    def changes(self) -> bool:
        """Whether any disk would change."""
        return any(transition.changes for transition in self.transitions)

    def inverse(self) -> Plan:
        """The plan that undoes this one; its own inverse is this plan again."""
        disks = (d.inverse() if isinstance(d, Transition) else d for d in self.disks)
        to: Form = "path" if self.to == "volume" else "volume"
        return self._replace(to=to, disks=tuple(disks), binding=None)

    def as_data(self) -> dict[str, Any]:
        """The plan as it stands in a file of schema xmlkit.plan/1.

        A span in which a secret stands is left out; the way back then changes the address only.
        """
        return {
            "to": self.to,
            "domain": {"name": self.name, "uuid": self.uuid},
            "disks": [_disk_as_data(disk) for disk in self.disks],
            "binding": self.binding,
        }

    @classmethod
    def from_data(cls, data: Any, where: str = "the plan") -> Plan:
        """The plan that `as_data` gave. Raises PlanError for anything else."""
        data = _fields(data, _PLAN, where)
        binding = data["binding"]
        if binding is not None and not re.fullmatch("[0-9a-f]{64}", binding):
            raise PlanError(f"{where}: binding cannot be {binding!r}; make one with xmlkit plan")
        domain = _fields(data["domain"], {"name": _TEXT, "uuid": _TEXT}, "domain")
        disks = tuple(_disk_from_data(disk, i) for i, disk in enumerate(data["disks"]))
        return cls(data["to"], domain["name"], domain["uuid"], disks, binding)

    def to_json(self) -> str:
        """A file of schema xmlkit.plan/1 with this plan alone."""
        return plans_to_json((self,))

    @classmethod
    def from_json(cls, text: str | bytes) -> Plan:
        """The plan of a file that holds one. Raises PlanError for anything else."""
        plans = plans_from_json(text)
        if len(plans) != 1:
            raise PlanError(f"a file of {len(plans)} plans; one domain needs one")
        return plans[0]


def plans_to_json(plans: Iterable[Plan]) -> str:
    """A file of schema xmlkit.plan/1."""
    import json

    return json.dumps({"schema": SCHEMA, "plans": [plan.as_data() for plan in plans]}, indent=2)


def plans_from_json(text: str | bytes) -> tuple[Plan, ...]:
    """The plans of a file that `plans_to_json` wrote. Raises PlanError for anything else."""
    import json

    try:
        data = json.loads(text)
    except (ValueError, RecursionError):
        raise PlanError("not a plan: it is no JSON; make one with xmlkit plan") from None
    data = _fields(data, _FILE, "the file")
    if data["schema"] != SCHEMA:
        raise PlanError(f"a plan of schema {data['schema']!r}; this xmlkit reads {SCHEMA}")
    return tuple(Plan.from_data(each, f"plan {i + 1}") for i, each in enumerate(data["plans"]))


def plan(
    domain: Document,
    host: Host,
    to: Form = "volume",
    *,
    relocate: Mapping[str | None, str] | None = None,
    live: bool = False,
    arrived: bool = False,
    accept: Collection[str] = (),
) -> Plan:
    """Decide for each disk of `domain` what becomes of it on `host`.

    to: `volume` or `path`. relocate: pool names by kind of disk (KINDS; None for the rest), for
    disks that lie in Nova's instance directory and in no pool. live: the document is the
    destination XML of a migration. arrived: images of Nova's instance directory are at their
    volumes `{uuid}_{name}` already, in the one pool that lists them; what no pool or more than one
    lists stays, and is not relocated. accept: ids of reasons that the operator accepts (apparmor),
    or that do not matter to who only reads (mirror).
    Raises PlanError if the document is no domain or a pool to relocate to is not the host's.
    """
    if to not in ("volume", "path"):
        raise PlanError(f"to is volume or path, not {to!r}")
    if domain.kind != "domain":
        raise PlanError(f"not a domain but a <{domain.kind}>")
    check_pools(relocate.values() if relocate else (), host.by_name)
    said = read_domain(domain)
    if not said.disks:
        return Plan(to, said.name, said.uuid, ())
    planner = _Planner(domain, said, host, relocate or {}, live, arrived, accept)
    decide = planner.to_volume if to == "volume" else planner.to_path
    decisions = [planner.decision(disk, decide) for disk in planner.disks]
    if relocate:
        decisions = list(_without_clashes(decisions))
    return Plan(to, said.name, said.uuid, tuple(decisions))


def check_pools(wanted: Iterable[str], known: Collection[str]) -> None:
    """Raise PlanError for a pool to relocate to that is none of the known ones."""
    for pool in wanted:
        if pool not in known:
            names = ", ".join(sorted(known)) or "none"
            raise PlanError(f"no pool {pool!r} to relocate to; the host's pools: {names}")


def _without_clashes(decisions: list[Transition | Skip]) -> Iterator[Transition | Skip]:
    """Two disks that would move to one volume both stay."""
    wanted = Counter(d.after.path for d in decisions if _moves(d))
    for decision in decisions:
        if not _moves(decision) or wanted[decision.after.path] == 1:
            yield decision
            continue
        message = f"another disk would move to {decision.after} as well"
        reason = Reason("volume-taken", message)
        yield Skip(decision.target, decision.before, decision.format, reason)


def _moves(decision: Transition | Skip) -> TypeGuard[Transition]:
    return isinstance(decision, Transition) and decision.action == "move"


class _Refusal(Exception):
    """A reason on its way from where it was found to the disk's Skip."""

    def __init__(self, id: str, message: str) -> None:
        super().__init__(message)
        self.reason = Reason(id, message)
        # the texts of all rules are imported only where there is a reason
        from xmlkit.rules import RULES

        assert id in RULES, id


class _Planner:
    def __init__(
        self,
        document: Document,
        domain: Domain,
        host: Host,
        relocate: Mapping[str | None, str],
        live: bool,
        arrived: bool,
        accept: Collection[str],
    ) -> None:
        self.document = document
        self.domain = domain
        self.host = host
        self.relocate = relocate
        self.live = live
        self.arrived = arrived
        self.accept = accept
        self.disks = self.domain.disks
        self.shared_targets = shared_targets(self.disks)
        self.rescue = self._rescue_disk() if self.domain.nova else None
        self.no_volume_disks = no_volume_disks(document, host)
        self.refuse_live = not live and document.root.get("id") is not None

    def decision(self, disk: Disk, decide: Callable[[Disk], Transition]) -> Transition | Skip:
        try:
            if self.refuse_live:
                raise _Refusal("live", "this is the XML of a running domain")
            if not disk.target or disk.target in self.shared_targets:
                raise _Refusal("no-target", "no <target dev> of its own names this disk")
            if self.rescue is not None:
                raise _Refusal("rescue", f"disk {self.rescue.target} is Nova's rescue disk")
            return decide(disk)
        except _Refusal as refusal:
            return Skip(disk.target, disk.address, disk.image_format, refusal.reason)

    # To volume.

    def to_volume(self, disk: Disk) -> Transition:
        fallback = self.fallback(disk)
        if disk.address.type == "volume":
            if fallback is None:
                raise _Refusal("already", "it is a volume disk")
            return self.to_path(disk, fallback)
        path = self._path_of(disk)
        self._refuse_foreign(disk)
        self._refuse_state(disk)
        found = self.host.lookup(path)
        if found is None:
            return self._relocated(disk, path, fallback)
        pool, name, volume = found
        disk_type = self._check_pool(disk, pool)
        if volume is None and pool.type not in NAMED_BY_PATH and disk_type is not None:
            raise _Refusal(
                "no-volume", f"the volumes of a pool of type {pool.type} must be observed"
            )
        if disk_type is None and not self.host.can("volume-disk-pools", pool.type):
            fallback = fallback or Reason("pool-type", _no_disks_on(pool))
        elif disk.address.type != disk_type:
            raise _Refusal(
                "pool-type",
                f"a {disk.address.type} disk, but pool {pool.name} of type {pool.type} holds "
                f"{disk_type or 'network'} volumes",
            )
        _check_volume(disk, pool, name, volume)
        return self._transition("adopt", disk, pool, name, path, fallback, volume is not None)

    def _relocated(self, disk: Disk, path: str, fallback: Reason | None) -> Transition:
        own = names.split_instance_path(path)
        if self.arrived and own is not None and own[0].lower() == self.domain.uuid:
            return self._arrived(disk, names.volume_name(self.domain.uuid, own[1]), fallback)
        kind = names.kind_of(own[1]) if own else None
        target = self.relocate.get(kind, self.relocate.get(None))
        if own is None or own[0].lower() != self.domain.uuid or disk.address.type != "file":
            target = None
        if own is None or target is None:
            raise _Refusal("outside-pools", f"{path} lies directly in none of the host's pools")
        pool = self.host.by_name[target]
        if self._check_pool(disk, pool) != "file":
            raise _Refusal(
                "pool-type", f"a file cannot move into pool {target} of type {pool.type}"
            )
        name = names.volume_name(self.domain.uuid, own[1])
        to = pool.path_of(name)
        if len(name.encode()) > 255:
            raise _Refusal("bad-name", f"{name!r} is longer than the 255 bytes of a file's name")
        if fault := names.fault_of_volume_name(name):
            raise _Refusal("bad-name", f"{name!r} cannot name a volume: {fault}")
        if to is None or name in pool.by_name:
            raise _Refusal("volume-taken", f"pool {target} already has a volume {name}")
        return self._move(disk, pool, name, to, fallback, pool.volumes is not None)

    def _move(
        self, disk: Disk, pool: Pool, name: str, to: str, fallback: Reason | None, seen: bool
    ) -> Transition:
        path = disk.address.path or ""
        if self._places[path] > 1:
            raise _Refusal("volume-taken", f"another disk uses {path} as well")
        if self._places[to] or self._places[f"{pool.name}/{name}"]:
            raise _Refusal("volume-taken", f"another disk is on volume {pool.name}/{name}")
        confined = "apparmor" in self.host.security_models and "apparmor" not in self.accept
        if confined and aa_helper_reads(path) and not aa_helper_reads(to):
            raise _Refusal("apparmor", f"virt-aa-helper may read {path} but not {to}")
        return self._transition("move", disk, pool, name, to, fallback, seen)

    def _arrived(self, disk: Disk, name: str, fallback: Reason | None) -> Transition:
        pools = [pool for pool in self.host.pools if pool.active and name in pool.by_name]
        if not pools:
            raise _Refusal("no-volume", f"none of the host's active pools lists {name!r}")
        if len(pools) > 1:
            listing = ", ".join(sorted(pool.name for pool in pools))
            raise _Refusal("no-volume", f"more than one pool lists {name!r}: {listing}")
        (pool,) = pools
        if disk.address.type != "file" or self._check_pool(disk, pool) != "file":
            raise _Refusal(
                "pool-type",
                f"a {disk.address.type} disk, but pool {pool.name} is of type {pool.type}",
            )
        volume = pool.by_name[name]
        _check_volume(disk, pool, name, volume)
        return self._move(disk, pool, name, volume.path, fallback, True)

    def _transition(
        self,
        action: Literal["adopt", "move"],
        disk: Disk,
        pool: Pool,
        name: str,
        path: str,
        fallback: Reason | None,
        verified: bool,
    ) -> Transition:
        if fallback is None:
            after = Address("volume", path, pool.name, name)
        else:
            type_ = POOL_DISK_TYPES[pool.type] or disk.address.type
            after = Address(type_, path, pool.name, name)
        return Transition(
            disk.target,
            action,
            "volume" if fallback is None else "path",
            disk.image_format,
            disk.address,
            after,
            verified,
            fallback,
            self.live,
            self.document.text_of(disk.element),
        )

    # To path.

    def to_path(self, disk: Disk, reason: Reason | None = None) -> Transition:
        address = disk.address
        if address.type in ("file", "block"):
            raise _Refusal("already", f"it is a {address.type} disk")
        if address.type != "volume":
            raise _Refusal("source-type", f"a {address.type} disk has no volume")
        if not address.pool or not address.volume:
            raise _Refusal("empty", "the drive has no medium")
        if "mirror" in disk.children and "mirror" not in self.accept:
            raise _Refusal("mirror", "a block job is running on it")
        _check_format(disk)
        pool = self.host.by_name.get(address.pool)
        if pool is None:
            raise _Refusal("no-pool", f"the host has no pool {address.pool!r}")
        type_ = self._check_pool(disk, pool)
        if type_ is None:
            raise _Refusal("pool-type", f"volumes of a pool of type {pool.type} have no path")
        if disk.children["source"].get("mode") == "direct":
            raise _Refusal("pool-type", "mode='direct' is a network disk, which has no path")
        volume = pool.by_name.get(address.volume)
        _check_volume(disk, pool, address.volume, volume)
        if disk.device == "lun" and type_ != "block":
            raise _Refusal("lun-type", f"a LUN in a pool of type {pool.type}")
        path = pool.path_of(address.volume)
        if path is None:
            raise _Refusal("no-volume", f"only libvirt knows the paths in pool {pool.name}")
        if volume is not None and volume.type in ("file", "block"):
            type_ = volume.type
        return Transition(
            target=disk.target,
            action="adopt",
            disk_type="path",
            format=disk.image_format,
            before=Address("volume", path, pool.name, address.volume),
            after=Address(type_, path, pool.name, address.volume),
            verified=volume is not None,
            reason=reason,
            live=self.live,
            span=self.document.text_of(disk.element),
        )

    # What stands in the way.

    def fallback(self, disk: Disk) -> Reason | None:
        """Why this host cannot have the disk as a volume disk; None if it can."""
        reason = self.no_volume_disks
        if reason is None and disk.in_source("slices") and not self.host.can("volume-slices"):
            reason = _too_old(self.host, "volume-slices")
        return reason

    def _path_of(self, disk: Disk) -> str:
        address = disk.address
        if address.type not in ("file", "block"):
            raise _Refusal("source-type", f"a {address.type} disk has no volume")
        source = disk.children.get("source")
        if source is not None and source.get("fdgroup") is not None:
            raise _Refusal("fdgroup", "it is opened from passed file descriptors")
        if not address.path:
            raise _Refusal("empty", "the drive has no medium")
        return address.path

    @cached_property
    def _places(self) -> Counter[str]:
        """How many disks are at each path, or POOL/VOLUME."""
        return Counter(str(disk.address) for disk in self.disks)

    def _rescue_disk(self) -> Disk | None:
        for disk in self.disks:
            name = names.nova_name(disk.address.path or disk.address.volume or "")
            if name is not None and name.endswith(".rescue"):
                return disk
        return None

    def _refuse_foreign(self, disk: Disk) -> None:
        """What is Nova's to keep: Cinder volumes, config drives."""
        if not self.domain.nova:
            path = disk.address.path or ""
            own = names.split_instance_path(path) if "/disk.config" in path else None
            if own and own[0].lower() == self.domain.uuid and names.kind_of(own[1]) == "config":
                raise _Refusal("config-drive", "Nova keeps it in the instance's directory")
            return
        if disk.owner == "cinder":
            raise _Refusal("cinder", "it is attached by Cinder")
        if disk.owner == "config-drive":
            raise _Refusal("config-drive", "Nova keeps it in the instance's directory")

    def _refuse_state(self, disk: Disk) -> None:
        if "transient" in disk.children:
            raise _Refusal("transient", "a <transient/> disk can only be a file")
        if "mirror" in disk.children:
            raise _Refusal("mirror", "a block job is running on it")
        if disk.device == "lun" and disk.address.type != "block":
            raise _Refusal("lun-type", f"a LUN on a {disk.address.type} disk")
        if disk.in_source("reservations"):
            raise _Refusal("lun-reservations", "a volume's source cannot have <reservations>")
        _check_format(disk)

    def _check_pool(self, disk: Disk, pool: Pool) -> str | None:
        """The disk type of the pool's volumes, None if libvirt has no such disks."""
        if fault := names.fault_of_pool_name(pool.name):
            raise _Refusal("bad-name", f"{pool.name!r} cannot name a pool: {fault}")
        if not pool.active:
            raise _Refusal("pool-inactive", f"pool {pool.name} is not active")
        return POOL_DISK_TYPES.get(pool.type)


def no_volume_disks(domain: Document, host: Host) -> Reason | None:
    """Why `host` cannot have any volume disk in `domain`; None if it can."""
    driver = host.driver or domain.root.get("type", "")
    return _no_volume_disks(host.libversion, driver, tuple(host.security_models))


@lru_cache(maxsize=64)
def _no_volume_disks(
    libversion: int | None, driver: str, security_models: tuple[str, ...]
) -> Reason | None:
    """Why a host cannot have volume disks at all."""
    host = Host(libversion, driver, security_models)
    if not host.can("volume-disks"):
        return _too_old(host, "volume-disks")
    if not host.can("volume-disk-drivers", driver):
        return Reason("hypervisor", f"the {driver} driver has no volume disks")
    if not host.can("volume-disk-security"):
        return Reason("apparmor", "under AppArmor a volume disk gets no rule at start")
    return None


def _too_old(host: Host, capability: str) -> Reason:
    each = CAPABILITIES[capability]
    have, need = version_text(host.libversion or 0), version_text(each.since)
    message = f"libvirt {have} has no {each.what}, which came with {need}"
    return Reason("libvirt-version", message)


def _no_disks_on(pool: Pool) -> str:
    return f"libvirt has no volume disks on pools of type {pool.type}"


def _check_format(disk: Disk) -> None:
    if disk.format is not None and disk.format not in FORMATS:
        raise _Refusal("format-unknown", f"<driver type={disk.format!r}> is not an image format")


def _check_volume(disk: Disk, pool: Pool, name: str, volume: Volume | None) -> None:
    if fault := names.fault_of_volume_name(name):
        raise _Refusal("bad-name", f"{name!r} cannot name a volume: {fault}")
    if volume is None:
        if pool.volumes is not None:
            raise _Refusal("no-volume", f"pool {pool.name} does not list {name!r}: refresh it")
        return
    if volume.link:
        raise _Refusal("symlink", f"{volume.path} is a symbolic link")
    if volume.type not in ("file", "block"):
        raise _Refusal("source-type", f"volume {name!r} is of type {volume.type}")
    if volume.format is not None and not _agree(disk, volume):
        raise _Refusal(
            "format-disagrees",
            f"the domain says {disk.image_format}, pool {pool.name} says {volume.format}",
        )


def _agree(disk: Disk, volume: Volume) -> bool:
    """Whether the probe confirms the domain's format.

    A CD image is probed as iso and used as raw; a LUKS volume is either to libvirt.
    """
    probed, said = volume.format, disk.image_format
    if said == "raw":
        return probed in ("raw", "iso") or (probed == "luks" and _is_encrypted(disk))
    return probed == said


def _is_encrypted(disk: Disk) -> bool:
    return "encryption" in disk.children or disk.in_source("encryption")


# What a plan's JSON must hold: types, or the values that are allowed.
_TEXT = (str,)
_TEXT_OR_NONE = (str, type(None))
_FORMS = ("volume", "path")
_FILE = {"schema": _TEXT, "plans": (list,)}
_PLAN = {"to": _FORMS, "domain": (dict,), "disks": (list,), "binding": _TEXT_OR_NONE}
_REASON = {"id": _TEXT, "message": _TEXT}
_ADDRESS = {
    "type": _TEXT,
    "path": _TEXT_OR_NONE,
    "pool": _TEXT_OR_NONE,
    "volume": _TEXT_OR_NONE,
}
_SKIP = {"action": ("skip",), "target": _TEXT, "address": (dict,), "format": _TEXT}
_TRANSITION = {
    "action": ("adopt", "move"),
    "target": _TEXT,
    "disk_type": _FORMS,
    "format": tuple(FORMATS - {"aio"}),
    "before": (dict,),
    "after": (dict,),
    "verified": (bool,),
    "reason": (dict, type(None)),
    "live": (bool,),
    "span": _TEXT,
    "undo": (bool,),
}


def _fields(data: Any, shape: Mapping[str, tuple[Any, ...]], where: str) -> dict[str, Any]:
    """`data`, if it is an object with just the fields of `shape`. Raises PlanError."""
    if not isinstance(data, dict):
        raise PlanError(f"{where} is not an object; make a plan with xmlkit plan")
    for name in shape.keys() ^ data.keys():
        what = "lacks" if name in shape else "has an unknown"
        raise PlanError(f"{where} {what} {name!r}; make a plan with xmlkit plan")
    for name, allowed in shape.items():
        value = data[name]
        types = tuple(each for each in allowed if isinstance(each, type))
        if not (type(value) in types if types else value in allowed):
            raise PlanError(f"{where}: {name} cannot be {value!r}; make a plan with xmlkit plan")
    return data


def _address_from_data(data: Any, where: str) -> Address:
    return Address(**_fields(data, _ADDRESS, where))


def _disk_as_data(disk: Transition | Skip) -> dict[str, Any]:
    data = disk._asdict()
    data["reason"] = disk.reason and disk.reason._asdict()
    if isinstance(disk, Skip):
        return {"action": "skip"} | data | {"address": disk.address._asdict()}
    return data | {
        "before": disk.before._asdict(),
        "after": disk.after._asdict(),
        "span": disk.span if redact(disk.span) == disk.span else "",
    }


def _disk_from_data(data: Any, number: int) -> Transition | Skip:
    where = f"disk {number + 1}"
    if isinstance(data, dict) and data.get("action") == "skip":
        data = _fields(data, _SKIP | {"reason": (dict,)}, where)
        reason = Reason(**_fields(data["reason"], _REASON, f"{where}, reason"))
        address = _address_from_data(data["address"], f"{where}, address")
        return Skip(data["target"], address, data["format"], reason)
    data = dict(_fields(data, _TRANSITION, where))
    if not data["target"]:
        raise PlanError(f"{where} has no target")
    if data["reason"] is not None:
        data["reason"] = Reason(**_fields(data["reason"], _REASON, f"{where}, reason"))
    for name in ("before", "after"):
        data[name] = address = _address_from_data(data[name], f"{where}, {name}")
        volume = address.pool and address.volume
        known = {"file": address.path, "block": address.path, "volume": volume}
        if not known.get(address.type):
            raise PlanError(f"{where}, {name}: not the address of a file, block or volume disk")
    return Transition(**data)
