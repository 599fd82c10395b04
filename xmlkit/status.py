"""Status: whether a host is ready for a transition, and where each of its domains stands.

Laws
- Pure: it tells what a Survey says, with the planner's and preflight's own words; it decides
  nothing by itself.
- A disk is on a volume, or legacy (a local image that is none), or neither: what belongs to Cinder
  or to Nova's config drive, network disks and removable drives count for nothing.
- Blocked is a domain with legacy disks if the planner would change none of them, or if preflight
  refuses; that it runs does not block it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from xmlkit.disks import read_domain
from xmlkit.host import version_text
from xmlkit.plan import Skip, plan
from xmlkit.preflight import Concern, host_concerns, judge, refusals
from xmlkit.rules import RULES
from xmlkit.survey import Guest, Survey

__all__ = ["SCHEMA", "DomainStatus", "Journals", "PoolStatus", "Status", "status"]

SCHEMA = "xmlkit.status/1"

Form = Literal["volumes", "partial", "legacy", "nothing"]

# Reasons for which a disk is not legacy: it is somebody else's, or no local image.
_NOT_OURS = frozenset(("cinder", "config-drive", "source-type", "empty", "fdgroup"))


@dataclass(frozen=True)
class PoolStatus:
    """A pool. free: bytes; it and file_system are None where they could not be seen."""

    name: str
    type: str
    path: str
    active: bool
    autostart: bool
    persistent: bool
    file_system: str | None
    free: int | None


@dataclass(frozen=True)
class DomainStatus:
    """Where a domain stands.

    form: "volumes" (all of its own disks are), "legacy" (none is), "partial" (some are), or
    "nothing" (it has no disk that could be one). volumes, legacy: the targets of such disks.
    blocked: whether it has legacy disks and none of them could go. concerns: what is in the way or
    should be known, with the planner's reasons for disks that keep or get a path.
    """

    uuid: str
    name: str
    state: str
    form: Form
    blocked: bool
    volumes: tuple[str, ...]
    legacy: tuple[str, ...]
    concerns: tuple[Concern, ...]


@dataclass(frozen=True)
class Journals:
    """What was seen in the state directory and in `live` below it; others are not looked in.

    pending: ids of the transitions that have not come to an end; live: of those in `live`, where
    xmlkit in Nova has its live migrations. error: what kept them from being
    read, None if nothing did.
    """

    directory: str
    pending: tuple[str, ...] = ()
    error: str | None = None
    live: tuple[str, ...] = ()


@dataclass(frozen=True)
class Status:
    """A host and its domains. schemas: where libvirt's are, None if they are not installed."""

    libvirt: str | None
    driver: str
    security_models: tuple[str, ...]
    schemas: str | None
    local: bool
    pools: tuple[PoolStatus, ...]
    concerns: tuple[Concern, ...]
    domains: tuple[DomainStatus, ...]
    journals: Journals = Journals("")

    @property
    def ready(self) -> bool:
        """Whether nothing of the host itself is in the way of a transition to volumes."""
        return not self.concerns

    @property
    def legacy(self) -> tuple[DomainStatus, ...]:
        """The domains that have disks on no volume."""
        return tuple(each for each in self.domains if each.legacy)

    @property
    def blocked(self) -> tuple[DomainStatus, ...]:
        """Those of them that cannot go now."""
        return tuple(each for each in self.domains if each.blocked)

    def as_data(self) -> dict[str, Any]:
        """As it stands in JSON of schema xmlkit.status/1."""
        return {
            "schema": SCHEMA,
            "host": {
                "libvirt": self.libvirt,
                "driver": self.driver,
                "security_models": list(self.security_models),
                "schemas": self.schemas,
                "local": self.local,
                "ready": self.ready,
                "pools": [asdict(pool) for pool in self.pools],
                "concerns": [each.as_data() for each in self.concerns],
            },
            "state": asdict(self.journals)
            | {"pending": list(self.journals.pending), "live": list(self.journals.live)},
            "domains": [
                {
                    "uuid": each.uuid,
                    "name": each.name,
                    "state": each.state,
                    "form": each.form,
                    "blocked": each.blocked,
                    "volumes": list(each.volumes),
                    "legacy": list(each.legacy),
                    "concerns": [concern.as_data() for concern in each.concerns],
                }
                for each in self.domains
            ],
        }


def status(
    survey: Survey,
    *,
    schemas: str | None,
    relocate: Mapping[str | None, str] | None = None,
    accept: Collection[str] = (),
    journals: Journals = Journals(""),
) -> Status:
    """How the surveyed host and each of its guests stand.

    schemas: where libvirt's schemas are, None if they are not installed. relocate: as plan() has
    it; without it an image in Nova's instance directory is legacy, and in the way is that no pool
    was named. accept: ids of rules that are accepted. journals: what the state directory says.
    Raises PlanError if a pool to relocate to is not the host's.
    """
    host = survey.host
    concerns = host_concerns(survey)
    if schemas is None:
        concerns += (_concern_of("no-schemas", "no directory has them"),)
    return Status(
        libvirt=None if host.libversion is None else version_text(host.libversion),
        driver=host.driver,
        security_models=host.security_models,
        schemas=schemas,
        local=survey.local,
        pools=tuple(
            PoolStatus(
                name=pool.name,
                type=pool.type,
                path=pool.path,
                active=pool.active,
                autostart=pool.autostart,
                persistent=pool.name not in survey.transient_pools,
                file_system=None if directory is None else directory.file_system or None,
                free=None if directory is None or directory.error else directory.free,
            )
            for pool in host.pools
            for directory in (survey.directories.get(pool.path),)
        ),
        concerns=concerns,
        domains=tuple(_of(guest, survey, relocate, accept) for guest in survey.guests),
        journals=journals,
    )


def _of(
    guest: Guest,
    survey: Survey,
    relocate: Mapping[str | None, str] | None,
    accept: Collection[str],
) -> DomainStatus:
    made = plan(guest.document, survey.host, relocate=relocate, accept=accept)
    drives = {
        disk.target
        for disk in read_domain(guest.document).disks
        if disk.device in ("cdrom", "floppy")
    }
    volumes: list[str] = []
    legacy: list[str] = []
    going: list[str] = []
    concerns: list[Concern] = []
    for disk in made.disks:
        if disk.target in drives:
            continue
        is_volume = (disk.address if isinstance(disk, Skip) else disk.before).type == "volume"
        if isinstance(disk, Skip) and (is_volume or disk.reason.id in _NOT_OURS):
            volumes += [disk.target] if is_volume else []
            continue
        (volumes if is_volume else legacy).append(disk.target)
        if disk.reason is not None:
            concerns.append(_concern_of(disk.reason.id, disk.reason.message, disk.target))
        if not isinstance(disk, Skip) and disk.changes and not is_volume:
            going.append(disk.target)
    blocked = bool(legacy) and not going
    if legacy:
        judged = judge(made, guest, survey, accept=accept)
        # it is said as its state, and passes by itself
        judged = tuple(each for each in judged if each.id != "running")
        blocked = blocked or bool(refusals(judged))
        # what holds for every volume disk says nothing about this domain
        concerns += (each for each in judged if each.severity != "note")
    form: Form = "nothing"
    if volumes or legacy:
        form = "volumes" if not legacy else "partial" if volumes else "legacy"
    return DomainStatus(
        uuid=guest.uuid,
        name=guest.name,
        state=guest.state,
        form=form,
        blocked=blocked,
        volumes=tuple(volumes),
        legacy=tuple(legacy),
        concerns=tuple(concerns),
    )


def _concern_of(id: str, message: str, target: str = "") -> Concern:
    return Concern(id, message, target, RULES[id].severity or "refuse")
