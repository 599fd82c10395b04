"""Preflight: what stands in the way of a planned transition, before anything is touched.

Laws
- Pure: it judges what a Plan, a Guest and a Survey say, and looks at nothing itself.
- All concerns are told, not only the first; each is an id of `xmlkit explain` with its evidence.
- A disk that does not change raises no concern, nor does a domain without a change.
- What the operator accepts is still told, as a warning; what may not be accepted stays a refusal.
- What could not be seen is a refusal to move, never an assumption.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Iterator
from functools import cached_property
from typing import Any, NamedTuple

from xmlkit.disks import Disk, read_domain
from xmlkit.document import Document
from xmlkit.host import POOL_DISK_TYPES, Pool, aa_helper_reads, sanitized, version_text
from xmlkit.plan import Plan, Transition
from xmlkit.rules import RULES, Severity
from xmlkit.survey import Directory, File, Guest, Survey

__all__ = ["APPARMOR_HELPER", "Concern", "apparmor_lines", "host_concerns", "judge", "refusals"]

MIB = 1 << 20

# What a copy leaves free, so that the pool's other guests can still write.
_SPARE = 64 * MIB

APPARMOR_HELPER = "/etc/apparmor.d/local/usr.lib.libvirt.virt-aa-helper"
_APPARMOR_GUEST = "/etc/apparmor.d/local/abstractions/libvirt-qemu"


class Concern(NamedTuple):
    """One thing that preflight found.

    id: of `xmlkit explain`. message: the evidence, what is so here. target: the disk that it is
    about, "" for the domain or the host. severity: "refuse", "warn" or "note"; a refusal that was
    accepted is a warning.
    """

    id: str
    message: str
    target: str = ""
    severity: Severity = "refuse"
    accepted: bool = False

    @property
    def remedy(self) -> str:
        """What the operator can do."""
        return RULES[self.id].remedy

    def as_data(self) -> dict[str, Any]:
        """As it stands in JSON."""
        return {**self._asdict(), "remedy": self.remedy}


def judge(
    plan: Plan,
    guest: Guest,
    survey: Survey,
    *,
    accept: Collection[str] = (),
    copy: bool = False,
    rewrite_metadata: bool = False,
    restart: bool = False,
    migrating: bool = False,
    also: Iterable[Concern] = (),
) -> tuple[Concern, ...]:
    """What stands in the way of carrying `plan` out on `guest`: refusals first, then warnings.

    accept: ids of rules that the operator accepts. copy: images may be copied to another file
    system. rewrite_metadata: snapshots, checkpoints and the managed save get the new addresses as
    well. restart: a domain that runs is shut down for it and started again. migrating: the domain
    migrates, so it has to run, and is judged even if no disk changes. also: what the caller has
    found besides.
    """
    case = _Case(plan, guest, survey, copy, rewrite_metadata, restart, migrating)
    found = [*also, *_rescue(case)]
    if plan.changes or migrating:
        for rule in _GUEST_RULES:
            found += rule(case)
        for transition in case.transitions:
            for disk_rule in _DISK_RULES:
                found += disk_rule(case, transition)
    return _sorted(found, accept)


def host_concerns(survey: Survey) -> tuple[Concern, ...]:
    """What of the host itself stands in the way, whatever its domains: version, driver, pools."""
    host = survey.host
    found = []
    if not host.can("volume-disks"):
        found.append(_concern("libvirt-version", f"this is libvirt {_version(survey)}", "refuse"))
    if host.driver and not host.can("volume-disk-drivers", host.driver):
        message = f"the {host.driver} driver has no volume disks"
        found.append(_concern("hypervisor", message, "refuse"))
    if "apparmor" in host.security_models:
        message = "a volume disk gets no rule at the start of a guest"
        found.append(_concern("apparmor", message, "warn"))
    if not host.pools:
        found.append(_concern("no-pools", "libvirt lists none"))
    for pool in host.pools:
        if not pool.active:
            found.append(_concern("pool-inactive", f"pool {pool.name} is not active", "warn"))
        found += (each._replace(severity="warn") for each in _coming_back(pool, survey))
        directory = survey.directories.get(pool.path)
        if directory is not None and directory.closed:
            message = f"pool {pool.name}: {_list(directory.closed)}"
            found.append(_concern("directory-closed", message, "warn"))
    return _sorted(found, ())


def refusals(concerns: Collection[Concern]) -> tuple[Concern, ...]:
    """Those that stop a transition."""
    return tuple(each for each in concerns if each.severity == "refuse")


def apparmor_lines(plan: Plan, survey: Survey) -> tuple[str, ...]:
    """Lines of local AppArmor profiles that would let the plan's guest start, as `FILE: LINE`.

    The first file lets virt-aa-helper read the headers of moved images; the second one lets every
    guest open each image of the pool, where libvirt makes no rule for a volume disk: guests are
    then no longer kept apart from each other.
    """
    lines = []
    for transition in plan.transitions:
        path = transition.after.path
        if not transition.changes or path is None:
            continue
        below = _chain(path if transition.action == "adopt" else transition.before.path, survey)
        if below and not aa_helper_reads(path):
            lines.append(f"{APPARMOR_HELPER}: {os.path.dirname(path)}/* r,")
        if transition.after.type == "volume":
            lines.append(f"{_APPARMOR_GUEST}: {os.path.dirname(path)}/* rwk,")
            lines += (f"{_APPARMOR_GUEST}: {os.path.dirname(each)}/* rk," for each in below)
    return tuple(dict.fromkeys(lines))


class _Case:
    """What the rules judge."""

    def __init__(
        self,
        plan: Plan,
        guest: Guest,
        survey: Survey,
        copy: bool,
        rewrite_metadata: bool,
        restart: bool,
        migrating: bool,
    ) -> None:
        self.plan = plan
        self.guest = guest
        self.survey = survey
        self.copy = copy
        self.rewrite_metadata = rewrite_metadata
        self.restart = restart
        self.migrating = migrating
        self.transitions = tuple(each for each in plan.transitions if each.changes)
        self.moves = tuple(each for each in self.transitions if each.action == "move")
        self.to_volumes = any(each.after.type == "volume" for each in self.transitions)

    @cached_property
    def disks(self) -> dict[str, Disk]:
        return {disk.target: disk for disk in read_domain(self.guest.document).disks}

    @property
    def nova(self) -> bool:
        """Whether Nova made the domain, and does not know of pools."""
        return read_domain(self.guest.document).nova and not self.survey.nova_aware

    @property
    def old(self) -> bool:
        version = self.survey.host.libversion
        return version is not None and version < 9_000_000

    def pool(self, transition: Transition) -> Pool | None:
        """The pool that the disk is to depend on."""
        if transition.after.type != "volume":
            return None
        return self.survey.host.by_name.get(transition.after.pool or "")

    def file(self, transition: Transition) -> File | None:
        return self.survey.files.get(sanitized(transition.before.path or ""))

    def directory(self, transition: Transition) -> Directory | None:
        return self.survey.directories.get(os.path.dirname(sanitized(transition.after.path or "")))


def _concern(id: str, message: str, severity: Severity = "", target: str = "") -> Concern:
    return Concern(id, message, target, severity or RULES[id].severity)


def _sorted(found: list[Concern], accept: Collection[str]) -> tuple[Concern, ...]:
    order = ("refuse", "warn", "note")
    judged = (
        each._replace(severity="warn", accepted=True)
        if each.severity == "refuse" and each.id in accept and RULES[each.id].acceptable
        else each
        for each in dict.fromkeys(found)
    )
    return tuple(sorted(judged, key=lambda each: order.index(each.severity)))


# Rules of a domain.


def _rescue(case: _Case) -> Iterator[Concern]:
    if any(skip.reason.id == "rescue" for skip in case.plan.skips):
        yield _concern("rescue", "Nova keeps the XML from before and will define it again")


def _running(case: _Case) -> Iterator[Concern]:
    guest = case.guest
    if case.migrating:
        if guest.state not in ("running", "blocked"):
            yield _concern("not-running", f"it is {guest.state}")
    elif guest.active and not case.restart:
        yield _concern("running", f"it is {guest.state}")
    elif guest.active and guest.state != "running":
        message = f"it is {guest.state}, and would not hear that it is to shut down"
        yield _concern("running", message)


def _migrated(case: _Case) -> Iterator[Concern]:
    if case.guest.migrated and not case.migrating:
        yield _concern("migrated-away", "it is off here because it went to another host")


def _on_poweroff(case: _Case) -> Iterator[Concern]:
    if case.restart and case.guest.live is not None:
        # what it was started with is what counts
        action = case.guest.live.root.findtext("on_poweroff") or "destroy"
        if action != "destroy":
            yield _concern("on-poweroff", f"on_poweroff is {action!r}")


def _transient_domain(case: _Case) -> Iterator[Concern]:
    if not case.guest.persistent:
        yield _concern("transient-domain", "libvirt keeps no XML of it")


def _managed_save(case: _Case) -> Iterator[Concern]:
    guest = case.guest
    if not guest.managed_save:
        return
    if not case.rewrite_metadata:
        yield _concern("managed-save", "there is a managed save image")
    elif guest.saved is None:
        yield _concern("managed-save", "libvirt cannot read the XML in the managed save image")


def _snapshots(case: _Case) -> Iterator[Concern]:
    names: list[str] = []
    external: list[str] = []
    for snapshot in case.guest.snapshots:
        (external if _is_external(snapshot) else names).append(snapshot.name or "?")
    if external:
        yield _concern("external-snapshots", f"external snapshots: {_list(external)}")
    if names and not case.rewrite_metadata:
        yield _concern("snapshots", f"internal snapshots: {_list(names)}")
    if case.old and case.to_volumes:
        version = f"this is libvirt {_version(case.survey)}"
        if case.guest.snapshots:
            yield _concern("old-snapshots", f"{version}, and the domain has snapshots")
        yield _concern("live-snapshots", version)


def _is_external(snapshot: Document) -> bool:
    return any(
        each.get("snapshot") == "external"
        for each in snapshot.root.iterfind("disks/disk")
        # a snapshot that was made of the memory alone has a file as well
    ) or any(each.get("snapshot") == "external" for each in snapshot.root.iterfind("memory"))


def _checkpoints(case: _Case) -> Iterator[Concern]:
    if case.guest.checkpoints and not case.rewrite_metadata:
        names = [each.name or "?" for each in case.guest.checkpoints]
        yield _concern("checkpoints", f"checkpoints: {_list(names)}")


def _block_jobs(case: _Case) -> Iterator[Concern]:
    for target in case.guest.block_jobs:
        yield _concern("block-job", "a block job is running on it", target=target)


def _nova_unaware(case: _Case) -> Iterator[Concern]:
    if case.nova and case.moves:
        yield _concern("nova-unaware", "Nova made this domain and would look for the old paths")
    elif case.nova and case.to_volumes:
        message = "Nova made this domain: a hard reboot brings its own paths back"
        yield _concern("nova-unaware", message, "note")


def _space(case: _Case) -> Iterator[Concern]:
    if not case.copy:
        return
    needed: dict[str, int] = {}
    for move in case.moves:
        file, directory = case.file(move), case.directory(move)
        if file is not None and directory is not None and file.device != directory.device:
            needed[directory.path] = needed.get(directory.path, 0) + file.allocated
    for path, size in needed.items():
        free = case.survey.directories[path].free
        if size + _SPARE > free:
            yield _concern(
                "space",
                f"a copy takes {size / MIB:.0f} MiB and leaves {_SPARE // MIB} MiB to others, "
                f"and {path} has {free / MIB:.0f} MiB",
            )


def _volume_limits(case: _Case) -> Iterator[Concern]:
    if case.to_volumes:
        message = "external snapshots, block copies and migration have conditions then"
        yield _concern("volume-limits", message)


_GUEST_RULES: tuple[Callable[[_Case], Iterator[Concern]], ...] = (
    _running,
    _migrated,
    _on_poweroff,
    _transient_domain,
    _managed_save,
    _snapshots,
    _checkpoints,
    _block_jobs,
    _nova_unaware,
    _space,
    _volume_limits,
)


# Rules of a disk.


def _apparmor(case: _Case, transition: Transition) -> Iterator[Concern]:
    if "apparmor" not in case.survey.host.security_models:
        return
    lines = apparmor_lines(case.plan._replace(disks=(transition,)), case.survey)
    if lines:
        message = f"its profile lacks rules; these lines would give them: {'; '.join(lines)}"
        yield _concern("apparmor", message, target=transition.target)


def _pool(case: _Case, transition: Transition) -> Iterator[Concern]:
    pool = case.pool(transition)
    if pool is None:
        return
    if not pool.active:
        yield _concern("pool-inactive", f"pool {pool.name} is not active", "", transition.target)
    for each in _coming_back(pool, case.survey):
        yield each._replace(target=transition.target)


def _coming_back(pool: Pool, survey: Survey) -> Iterator[Concern]:
    """Whether the pool is there again when libvirt's daemon, or the host, has restarted."""
    if POOL_DISK_TYPES.get(pool.type) is None:
        return
    if pool.name in survey.transient_pools:
        yield _concern("pool-lost", f"pool {pool.name} is transient")
    elif not pool.autostart and pool.type != "dir":
        message = f"pool {pool.name} of type {pool.type} is not started by itself"
        yield _concern("pool-lost", message)
    elif not pool.autostart:
        yield _concern("pool-autostart", f"pool {pool.name} is not started by itself")


def _startup_policy(case: _Case, transition: Transition) -> Iterator[Concern]:
    disk = case.disks.get(transition.target)
    source = None if disk is None else disk.children.get("source")
    policy = None if source is None else source.get("startupPolicy")
    if transition.after.type == "volume" and policy in ("optional", "requisite"):
        yield _concern("startup-policy", f"startupPolicy={policy!r}", "", transition.target)


def _image(case: _Case, transition: Transition) -> Iterator[Concern]:
    """What is at the disk's path."""
    target, path, file = transition.target, transition.before.path, case.file(transition)
    move = transition.action == "move"
    if file is None or file.kind == "unseen":
        if move or (file is not None and file.error):
            why = "its files are another machine's" if not case.survey.local else "not looked at"
            message = f"{path}: {file.error if file and file.error else why}"
            yield _concern("unseen", message, "refuse" if move else "warn", target)
        return
    if file.kind == "missing":
        yield _concern("no-image", f"{path}: {file.error}", "", target)
        return
    image_type = {"file": "file", "block": "block"}.get(file.kind)
    if file.kind == "other" or (move and file.kind != "file"):
        yield _concern("no-image", f"{path} is no {'file' if move else 'image'}", "", target)
    if file.link and image_type == "file":
        yield _concern("symlink", f"{path} is a symbolic link", "", target)
        return
    real = os.path.dirname(path or "")
    if move and case.survey.real.get(real, real) != real:
        message = f"{path}: its directory is {case.survey.real[real]} by symbolic links"
        yield _concern("symlink", message, "", target)
    # the name that it moves to may be there already
    if file.links > 1 + _is_there(case, transition) and move:
        yield _concern("hard-link", f"{path} has {file.links} names", "", target)
    if transition.format == "qcow2" and file.kind != "other" and file.header is None:
        message = f"the domain says qcow2, but {path} has no header of such an image"
        yield _concern("format-disagrees", message, "", target)
    if file.remembered and not case.guest.active:
        yield _concern("remembered-owner", f"{path}: {_list(file.remembered)}", "", target)
    for below in _chain(path, case.survey):
        found = case.survey.files.get(below)
        if found is not None and found.kind == "missing":
            yield _concern("no-image", f"{path} is backed by {below}, which is missing", "", target)


def _is_there(case: _Case, transition: Transition) -> bool:
    """Whether the image has the name already that it is to get."""
    file, directory = case.file(transition), case.directory(transition)
    if file is None or file.kind != "file" or directory is None:
        return False
    inode = directory.entries.get(os.path.basename(transition.after.path or ""))
    return (file.device, file.inode) == (directory.device, inode)


def _others(case: _Case, transition: Transition) -> Iterator[Concern]:
    """Who else uses the image."""
    move = transition.action == "move"
    paths = case.survey.same(sanitized(transition.before.path or ""))
    users = {use for path in paths for use in case.survey.uses.get(path, ())}
    others = sorted({use.name for use in users if use.uuid != case.guest.uuid})
    if others:
        message = f"{transition.before.path} is a disk of {_list(others)} too"
        yield _concern("path-shared", message, "" if move else "note", transition.target)
    overlays = sorted({above for path in paths for above in case.survey.overlays.get(path, ())})
    if overlays and move:
        message = f"{transition.before.path} backs {_list(overlays)}"
        yield _concern("overlay-base", message, "", transition.target)


def _backing(case: _Case, transition: Transition) -> Iterator[Concern]:
    """What the image is backed by."""
    file = case.file(transition)
    if transition.action != "move" or file is None or file.header is None:
        return
    name = file.header.file
    if name is None:
        return
    if file.backing is not None and not name.removeprefix("file:").startswith("/"):
        yield _concern("relative-backing", f"it is backed by {name!r}", "", transition.target)
    if case.nova and os.path.basename(os.path.dirname(file.backing or "")) == "_base":
        message = f"it is backed by {file.backing}"
        yield _concern("image-cache", message, "", transition.target)


def _place(case: _Case, transition: Transition) -> Iterator[Concern]:
    """Where the image goes."""
    if transition.action != "move":
        return
    target, to = transition.target, sanitized(transition.after.path or "")
    file, directory = case.file(transition), case.directory(transition)
    if directory is None or directory.error:
        if case.survey.local:
            why = "not looked at" if directory is None else directory.error
            yield _concern("unseen", f"{os.path.dirname(to)}: {why}", "", target)
        return
    seen = file is not None and file.kind == "file"
    if os.path.basename(to) in directory.entries and not _is_there(case, transition):
        yield _concern("volume-taken", f"{to} exists", "", target)
    if directory.read_only:
        yield _concern("read-only", f"{directory.path} is read-only", "", target)
    if directory.closed:
        yield _concern("directory-closed", _list(directory.closed), "", target)
    if file is not None and seen and file.device != directory.device and not case.copy:
        message = f"{file.path} and {directory.path} are on two file systems"
        yield _concern("other-file-system", message, "", target)


_DISK_RULES: tuple[Callable[[_Case, Transition], Iterator[Concern]], ...] = (
    _apparmor,
    _pool,
    _startup_policy,
    _image,
    _others,
    _backing,
    _place,
)


def _chain(path: str | None, survey: Survey) -> tuple[str, ...]:
    """The paths below an image, as far as they are known."""
    below: dict[str, None] = {}
    at = sanitized(path or "")
    while (file := survey.files.get(at)) is not None and file.backing is not None:
        if file.backing in below:
            break
        below[file.backing] = None
        at = file.backing
    return tuple(below)


def _version(survey: Survey) -> str:
    return version_text(survey.host.libversion or 0)


def _list(names: Collection[str]) -> str:
    """The first few of them."""
    shown = list(names)[:4]
    more = len(names) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more else "")
