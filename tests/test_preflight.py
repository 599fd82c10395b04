"""What stands in the way of a transition: each rule fires on what it is about, and not otherwise.

Rules
- A scene that nothing is wrong with is the ground; each case changes one thing in it.
- Documents and facts are written down here; whether libvirt is so is asked in test_probes.py.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from xmlkit.document import Document
from xmlkit.host import Host, Pool
from xmlkit.plan import Plan, plan
from xmlkit.preflight import Concern, apparmor_lines, host_concerns, judge, refusals
from xmlkit.rules import ACCEPTABLE, RULES
from xmlkit.survey import Backing, Directory, File, Guest, Survey, Use

UUID = "3f2c1c8e-0d4b-4a7e-9b1a-6d5f0e9c7a11"
OTHER = "11111111-0d4b-4a7e-9b1a-6d5f0e9c7a11"
INSTANCES = "/srv/nova/instances"
DISK = f"{INSTANCES}/{UUID}/disk"
BASE = f"{INSTANCES}/_base/0123"
DISKS = f"{INSTANCES}/disks"
NOVA = (
    "<metadata><nova:instance xmlns:nova='http://openstack.org/xmlns/libvirt/nova/1.1'/></metadata>"
)
SNAPSHOT = "<domainsnapshot><name>s</name>{}</domainsnapshot>"
EXTERNAL = "<disks><disk name='vda' snapshot='external'><source file='/s'/></disk></disks>"
MEMORY = "<memory snapshot='external' file='/m'/>"
POOL = Pool("disks", "dir", DISKS, volumes=())
DIRECTORY = Directory(DISKS, device=1, free=1 << 30)
INTERNAL = "<disks><disk name='vda' snapshot='internal'/></disks>"


def domain(path: str = DISK, *, metadata: str = "", source: str = "") -> Document:
    """A domain with one qcow2 disk."""
    return Document.parse(
        f"<domain type='kvm'><name>guest</name><uuid>{UUID}</uuid>{metadata}<devices>"
        f"<disk type='file' device='disk'><driver name='qemu' type='qcow2'/>"
        f"<source file='{path}'{source}/><target dev='vda'/></disk></devices></domain>"
    )


@dataclass(frozen=True)
class Scene:
    """All that is judged."""

    guest: Guest = field(default_factory=lambda: Guest(UUID, "guest", domain()))
    pool: Pool = POOL
    files: tuple[File, ...] = (
        File(DISK, device=1, inode=10, allocated=1 << 20, header=Backing(BASE, "raw")),
        File(BASE, device=1, inode=11),
    )
    directory: Directory = DIRECTORY
    survey: Survey = field(default_factory=lambda: Survey(Host(9_000_000, "qemu")))
    options: dict[str, Any] = field(default_factory=dict)
    planned: Plan | None = None

    @property
    def surveyed(self) -> Survey:
        """The survey with the pool, the files and the directory in it."""
        return replace(
            self.survey,
            host=replace(self.survey.host, pools=(self.pool,)),
            files={file.path: file for file in self.files} if self.survey.local else {},
            directories={self.directory.path: self.directory} if self.survey.local else {},
            uses={DISK: (Use(UUID, "guest", "vda"),), **self.survey.uses},
        )

    @property
    def plan(self) -> Plan:
        if self.planned is not None:
            return self.planned
        host = replace(self.surveyed.host, security_models=())
        active = replace(self.pool, active=True)
        return plan(self.guest.document, replace(host, pools=(active,)), relocate={None: "disks"})

    def judged(self) -> tuple[Concern, ...]:
        return judge(self.plan, self.guest, self.surveyed, **self.options)

    def guest_with(self, **changes: Any) -> Scene:
        return replace(self, guest=replace(self.guest, **changes))

    def file_with(self, **changes: Any) -> Scene:
        return replace(self, files=(replace(self.files[0], **changes), *self.files[1:]))

    def pool_with(self, **changes: Any) -> Scene:
        return replace(self, pool=replace(self.pool, **changes))

    def directory_with(self, **changes: Any) -> Scene:
        return replace(self, directory=replace(self.directory, **changes))

    def survey_with(self, **changes: Any) -> Scene:
        return replace(self, survey=replace(self.survey, **changes))

    def host_with(self, **changes: Any) -> Scene:
        return self.survey_with(host=replace(self.survey.host, **changes))

    def but(self, **options: Any) -> Scene:
        return replace(self, options=options)

    def adopting(self) -> Scene:
        """The image lies in the pool's directory already."""
        path = f"{DISKS}/x"
        document = Document.parse(self.guest.document.text.replace(DISK, path))
        file = replace(self.files[0], path=path)
        adopted = self.guest_with(document=document).pool_with(volumes=None)
        return replace(adopted, files=(file, *self.files[1:])).survey_with(
            uses={path: (Use(UUID, "guest", "vda"),)}
        )


READY = Scene()
ADOPT = READY.adopting()
# as a migration with links leaves it: with the name in the pool that it moves to
THERE = READY.file_with(links=2).directory_with(entries={f"{UUID}_disk": 10})
LIVE = Document.parse("<domain type='kvm' id='1'/>")
REBORN = Document.parse("<domain type='kvm' id='1'><on_poweroff>restart</on_poweroff></domain>")
SAVED = {"managed_save": True, "saved": LIVE}


def reborn(document: Document) -> Document:
    """A domain that would be started again when it shuts down."""
    action = "<on_poweroff>restart</on_poweroff><devices>"
    return Document.parse(document.text.replace("<devices>", action))


def snapshot(inside: str) -> tuple[Document, ...]:
    return (Document.parse(SNAPSHOT.format(inside)),)


def test_a_scene_without_fault_raises_no_concern() -> None:
    """But for the note on what volume disks cannot do; moved and adopted alike."""
    for scene in (READY, ADOPT):
        assert scene.plan.changes
        assert ["volume-limits"] == [each.id for each in scene.judged()]
    assert ("move", "adopt") == tuple(scene.plan.transitions[0].action for scene in (READY, ADOPT))


# (id, severity, target, the scene in which it fires, one beside it in which it does not)
CASES: tuple[tuple[str, str, str, Scene, Scene], ...] = (
    (
        "running",
        "refuse",
        "",
        READY.guest_with(state="running", live=LIVE),
        READY.guest_with(state="running", live=LIVE).but(restart=True),
    ),
    (
        "running",
        "refuse",
        "",
        READY.guest_with(state="paused", live=LIVE).but(restart=True),
        READY.guest_with(state="running", live=LIVE).but(restart=True),
    ),
    (
        "migrated-away",
        "refuse",
        "",
        READY.guest_with(migrated=True),
        READY.guest_with(migrated=True).but(migrating=True),
    ),
    (
        "on-poweroff",
        "refuse",
        "",
        READY.guest_with(state="running", live=REBORN).but(restart=True),
        READY.guest_with(state="running", live=LIVE).but(restart=True),
    ),
    (
        "on-poweroff",
        "refuse",
        "",
        READY.guest_with(state="running", live=REBORN).but(restart=True),
        READY.guest_with(document=reborn(READY.guest.document)).but(restart=True),
    ),
    (
        "running",
        "refuse",
        "",
        READY.guest_with(state="paused", live=LIVE),
        READY.guest_with(state="crashed"),
    ),
    ("transient-domain", "refuse", "", READY.guest_with(persistent=False), READY),
    (
        "managed-save",
        "refuse",
        "",
        READY.guest_with(**SAVED),
        READY.guest_with(**SAVED).but(rewrite_metadata=True),
    ),
    (
        "managed-save",
        "refuse",
        "",
        READY.guest_with(managed_save=True).but(rewrite_metadata=True),
        READY,
    ),
    (
        "snapshots",
        "refuse",
        "",
        READY.guest_with(snapshots=snapshot(INTERNAL)),
        READY.guest_with(snapshots=snapshot(INTERNAL)).but(rewrite_metadata=True),
    ),
    (
        "external-snapshots",
        "refuse",
        "",
        READY.guest_with(snapshots=snapshot(EXTERNAL)).but(rewrite_metadata=True),
        READY.guest_with(snapshots=snapshot(INTERNAL)).but(rewrite_metadata=True),
    ),
    ("external-snapshots", "refuse", "", READY.guest_with(snapshots=snapshot(MEMORY)), READY),
    (
        "old-snapshots",
        "refuse",
        "",
        READY.guest_with(snapshots=snapshot(INTERNAL)).host_with(libversion=7_000_000),
        READY.guest_with(snapshots=snapshot(INTERNAL)),
    ),
    (
        "live-snapshots",
        "warn",
        "",
        READY.host_with(libversion=8_010_000),
        READY.host_with(libversion=None),
    ),
    (
        "checkpoints",
        "refuse",
        "",
        READY.guest_with(checkpoints=(LIVE,)),
        READY.guest_with(checkpoints=(LIVE,)).but(rewrite_metadata=True),
    ),
    ("block-job", "refuse", "vdb", READY.guest_with(block_jobs=("vdb",)), READY),
    (
        "nova-unaware",
        "refuse",
        "",
        READY.guest_with(document=domain(metadata=NOVA)),
        READY.guest_with(document=domain(metadata=NOVA)).survey_with(nova_aware=True),
    ),
    (
        "nova-unaware",
        "note",
        "",
        READY.guest_with(document=domain(metadata=NOVA)).adopting(),
        ADOPT,
    ),
    (
        "image-cache",
        "refuse",
        "vda",
        READY.guest_with(document=domain(metadata=NOVA)),
        READY.guest_with(document=domain(metadata=NOVA)).file_with(
            header=Backing("/srv/base/0123", "raw")
        ),
    ),
    (
        "image-cache",
        "refuse",
        "vda",
        READY.guest_with(document=domain(metadata=NOVA)),
        READY.guest_with(document=domain(metadata=NOVA)).survey_with(nova_aware=True),
    ),
    ("volume-limits", "note", "", READY, replace(READY, planned=Plan("volume", "g", UUID, ()))),
    ("pool-inactive", "refuse", "vda", READY.pool_with(active=False), READY),
    (
        "pool-autostart",
        "warn",
        "vda",
        READY.pool_with(autostart=False),
        READY.pool_with(type="netfs", autostart=False),
    ),
    (
        "pool-lost",
        "refuse",
        "vda",
        READY.pool_with(type="netfs", autostart=False),
        READY.pool_with(type="netfs"),
    ),
    (
        "pool-lost",
        "refuse",
        "vda",
        ADOPT.survey_with(transient_pools=frozenset(("disks",))),
        ADOPT.survey_with(transient_pools=frozenset(("another",))),
    ),
    (
        "startup-policy",
        "warn",
        "vda",
        READY.guest_with(document=domain(source=" startupPolicy='optional'")),
        READY.guest_with(document=domain(source=" startupPolicy='mandatory'")),
    ),
    ("unseen", "refuse", "vda", READY.survey_with(local=False), ADOPT.survey_with(local=False)),
    (
        "unseen",
        "refuse",
        "vda",
        READY.file_with(kind="unseen", error="Permission denied"),
        READY,
    ),
    (
        "unseen",
        "warn",
        "vda",
        ADOPT.file_with(kind="unseen", error="Permission denied"),
        ADOPT,
    ),
    ("unseen", "refuse", "vda", replace(READY, files=()), READY),
    (
        "unseen",
        "refuse",
        "vda",
        READY.directory_with(error="it is a symbolic link"),
        ADOPT.directory_with(error="it is a symbolic link"),
    ),
    ("unseen", "refuse", "vda", READY.directory_with(path="/elsewhere"), READY),
    ("no-image", "refuse", "vda", READY.file_with(kind="missing", header=None), READY),
    ("no-image", "refuse", "vda", READY.file_with(kind="block"), ADOPT.file_with(kind="block")),
    ("no-image", "refuse", "vda", ADOPT.file_with(kind="other"), ADOPT),
    (
        "no-image",
        "refuse",
        "vda",
        replace(READY, files=(READY.files[0], File(BASE, "missing"))),
        READY.file_with(header=Backing("nbd://host/base", "raw")),
    ),
    ("symlink", "refuse", "vda", READY.file_with(link=True), READY),
    ("symlink", "refuse", "vda", ADOPT.file_with(link=True), ADOPT),
    ("hard-link", "refuse", "vda", READY.file_with(links=2), ADOPT.file_with(links=2)),
    ("hard-link", "refuse", "vda", THERE.file_with(links=3), THERE),
    ("format-disagrees", "refuse", "vda", READY.file_with(header=None), READY),
    (
        "remembered-owner",
        "warn",
        "vda",
        READY.file_with(remembered=("trusted.libvirt.security.ref_dac",)),
        READY.file_with(remembered=("trusted.libvirt.security.ref_dac",)).guest_with(live=LIVE),
    ),
    (
        "path-shared",
        "refuse",
        "vda",
        READY.survey_with(uses={DISK: (Use(UUID, "guest", "vda"), Use(OTHER, "other", "vda"))}),
        READY.survey_with(uses={DISK: (Use(UUID, "guest", "vda"), Use(UUID, "guest", "vdb"))}),
    ),
    (
        "path-shared",
        "refuse",
        "vda",
        replace(READY, files=(*READY.files, File("/link/disk", device=1, inode=10))).survey_with(
            uses={"/link/disk": (Use(OTHER, "other", "vda"),)}
        ),
        replace(READY, files=(*READY.files, File("/link/disk", device=2, inode=10))).survey_with(
            uses={"/link/disk": (Use(OTHER, "other", "vda"),)}
        ),
    ),
    (
        "path-shared",
        "note",
        "vda",
        ADOPT.survey_with(uses={f"{DISKS}/x": (Use(OTHER, "other", "hda"),)}),
        ADOPT,
    ),
    (
        "overlay-base",
        "refuse",
        "vda",
        READY.survey_with(overlays={DISK: ("/elsewhere/overlay",)}),
        ADOPT.survey_with(overlays={f"{DISKS}/x": ("/elsewhere/overlay",)}),
    ),
    (
        "overlay-base",
        "refuse",
        "vda",
        READY.survey_with(overlays={DISK: ("/elsewhere/overlay",)}),
        READY.survey_with(overlays={BASE: (DISK,)}),
    ),
    (
        "relative-backing",
        "refuse",
        "vda",
        READY.file_with(header=Backing("../_base/0123", "raw")),
        ADOPT.file_with(header=Backing("../_base/0123", "raw")),
    ),
    (
        "relative-backing",
        "refuse",
        "vda",
        READY.file_with(header=Backing("file:../_base/0123", "raw")),
        READY.file_with(header=Backing(f"file:{BASE}", "raw")),
    ),
    (
        "volume-taken",
        "refuse",
        "vda",
        READY.directory_with(entries={f"{UUID}_disk": 12}),
        READY.directory_with(entries={f"{UUID}_disk": 10, "another": 12}),
    ),
    (
        "volume-taken",
        "refuse",
        "vda",
        READY.directory_with(entries={f"{UUID}_disk": 10}, device=2),
        READY.directory_with(device=2),
    ),
    ("read-only", "refuse", "vda", READY.directory_with(read_only=True), READY),
    ("directory-closed", "refuse", "vda", READY.directory_with(closed=(INSTANCES,)), READY),
    (
        "other-file-system",
        "refuse",
        "vda",
        READY.directory_with(device=2),
        READY.directory_with(device=2).but(copy=True),
    ),
    (
        "space",
        "refuse",
        "",
        READY.directory_with(device=2, free=64 << 20).but(copy=True),
        READY.directory_with(device=2, free=66 << 20).but(copy=True),
    ),
    (
        "space",
        "refuse",
        "",
        READY.directory_with(device=2, free=0).but(copy=True),
        READY.directory_with(free=0).but(copy=True),
    ),
    (
        "apparmor",
        "refuse",
        "vda",
        READY.host_with(security_models=("apparmor", "dac")),
        READY.host_with(security_models=("selinux", "dac")),
    ),
)


@pytest.mark.parametrize(
    ("id", "severity", "target", "fires", "silent"),
    CASES,
    ids=[f"{case[0]}-{number}" for number, case in enumerate(CASES)],
)
def test_a_rule_fires_on_what_it_is_about_alone(
    id: str, severity: str, target: str, fires: Scene, silent: Scene
) -> None:
    """With its severity, about its disk, with evidence and a remedy."""
    (found,) = [each for each in fires.judged() if each.id == id and each.severity == severity]

    assert (target, False) == (found.target, found.accepted)
    assert found.message
    assert RULES[id].remedy == found.remedy
    assert [] == [each for each in silent.judged() if each.id == id and each.severity == severity]


# Of a migration: what is found on two hosts is in test_migrate.py.
MIGRATION = {
    *("not-running", "same-host", "domain-exists", "older-libvirt", "unsafe-cache"),
    *("no-shared-storage", "base-unverified"),
}


def test_every_rule_of_a_transition_has_a_case() -> None:
    """The rest are about the host alone, or come from the plan."""
    rules = {rule.id for rule in RULES.values() if rule.severity} - MIGRATION
    assert rules - {"no-schemas", "no-pools", "rescue"} == {case[0] for case in CASES}


def test_what_the_caller_has_found_is_judged_with_the_rest() -> None:
    """It stops a transition, or warns if it is accepted and may be."""
    also = (Concern("base-unverified", "another"), Concern("same-host", "one"))
    given = (READY.plan, READY.guest, READY.surveyed)
    ids = {"base-unverified", "same-host"}
    assert ids <= {each.id for each in refusals(judge(*given, also=also))}
    found = refusals(judge(*given, also=also, accept=tuple(ids)))
    assert {"same-host"} == ids & {each.id for each in found}


def test_only_a_guest_that_runs_migrates() -> None:
    """What stands in the way of a transition is what a migration needs."""
    given = (READY.plan, READY.guest, READY.surveyed)
    assert "not-running" in {each.id for each in judge(*given, migrating=True)}
    live = replace(READY.guest, live=READY.guest.document, state="running")
    ids = {each.id for each in judge(READY.plan, live, READY.surveyed, migrating=True)}
    assert not ids & {"running", "not-running"}


@pytest.mark.parametrize("id", sorted(set(ACCEPTABLE) - MIGRATION))
def test_what_is_accepted_becomes_a_warning(id: str) -> None:
    """It is still told, and stops nothing."""
    scene = next(case[3] for case in CASES if case[0] == id and case[1] == "refuse")
    (found,) = [each for each in scene.but(accept=(id,)).judged() if each.id == id]

    assert ("warn", True) == (found.severity, found.accepted)
    assert found._replace(severity="refuse", accepted=False) in scene.judged()


@pytest.mark.parametrize(
    "id", sorted({case[0] for case in CASES if case[1] == "refuse"} - set(ACCEPTABLE))
)
def test_what_may_not_be_accepted_stays_a_refusal(id: str) -> None:
    """Whatever the operator says."""
    scene = next(case[3] for case in CASES if case[0] == id and case[1] == "refuse")
    accepting = scene.but(**scene.options, accept=tuple(RULES))

    assert id in {each.id for each in refusals(accepting.judged())}


def test_all_concerns_are_told_refusals_first() -> None:
    """One does not hide another."""
    scene = READY.guest_with(
        state="running", live=LIVE, snapshots=snapshot(INTERNAL), block_jobs=("vda",)
    ).pool_with(autostart=False)
    found = scene.judged()

    assert ["running", "snapshots", "block-job", "pool-autostart", "volume-limits"] == [
        each.id for each in found
    ]
    assert found[:3] == refusals(found)


def test_what_is_no_image_is_told_once() -> None:
    """A pipe is not accused of a missing header as well."""
    scene = ADOPT.file_with(kind="other", header=None)

    assert ["no-image"] == [each.id for each in refusals(scene.judged())]


def test_what_is_no_path_is_not_relative() -> None:
    """A backing file behind a protocol is where it was, wherever the overlay lies."""
    scene = READY.file_with(header=Backing("nbd://host/base", "raw"))

    assert () == refusals(scene.judged())


def test_nova_is_no_matter_where_disks_get_their_paths_back() -> None:
    """They are those that it knows."""
    adopted = READY.guest_with(document=domain(metadata=NOVA)).adopting()
    back = replace(adopted, planned=adopted.plan.inverse())

    assert ["nova-unaware", "volume-limits"] == [each.id for each in adopted.judged()]
    assert () == back.judged()


@pytest.mark.parametrize(
    ("scene", "evidence"),
    [
        (READY.survey_with(local=False), f"{DISK}: its files are another machine's"),
        (replace(READY, files=()), f"{DISK}: not looked at"),
        (READY.file_with(kind="unseen", error="Permission denied"), f"{DISK}: Permission denied"),
        (READY.file_with(kind="block"), f"{DISK} is no file"),
        (ADOPT.file_with(kind="other"), f"{DISKS}/x is no image"),
        (READY.guest_with(snapshots=snapshot(INTERNAL)), "internal snapshots: s"),
    ],
)
def test_the_evidence_says_what_is_so(scene: Scene, evidence: str) -> None:
    """What was found, and where."""
    assert [evidence] == [each.message for each in refusals(scene.judged())]


def test_without_a_change_there_is_no_concern() -> None:
    """A plan that changes nothing can be carried out anywhere."""
    scene = READY.guest_with(state="running", live=LIVE, persistent=False)
    untouched = plan(scene.guest.document, Host(9_000_000, "qemu"))

    assert not untouched.changes
    assert () == judge(untouched, scene.guest, scene.surveyed)


def test_rescue_is_told_though_nothing_would_change() -> None:
    """Nova would define the XML from before again."""
    document = Document.parse(domain(metadata=NOVA).text.replace("/disk'", "/disk.rescue'"))
    scene = READY.guest_with(document=document)

    assert not scene.plan.changes
    assert ["rescue"] == [each.id for each in scene.judged()]


def test_the_way_back_is_judged_by_the_same_rules() -> None:
    """A move out of the pool needs a look at the directory that it goes to."""
    back = READY.plan.inverse()
    volume = f"{DISKS}/{UUID}_disk"
    scene = replace(
        READY,
        planned=back,
        files=(replace(READY.files[0], path=volume), READY.files[1]),
        directory=Directory(f"{INSTANCES}/{UUID}", device=1),
    )
    assert () == scene.judged()
    assert ["unseen"] == [each.id for each in scene.directory_with(path=DISKS).judged()]
    taken = scene.directory_with(entries={"disk": 99})
    assert ["volume-taken"] == [each.id for each in taken.judged()]


def test_apparmor_says_the_lines_that_would_help() -> None:
    """For the helper to read a moved image's header, for the guest to open what has no rule."""
    scene = READY.host_with(security_models=("apparmor",))
    lines = (
        f"/etc/apparmor.d/local/abstractions/libvirt-qemu: {DISKS}/* rwk,",
        f"/etc/apparmor.d/local/abstractions/libvirt-qemu: {INSTANCES}/_base/* rk,",
    )
    (found,) = [each for each in scene.judged() if each.id == "apparmor"]

    # the profile as shipped lets the helper read below /srv
    assert lines == apparmor_lines(scene.plan, scene.surveyed)
    assert all(line in found.message for line in lines)


def test_apparmor_of_a_move_that_keeps_a_path() -> None:
    """The guest gets its rule, but the helper may not read the moved overlay to find its base."""
    place = "/var/lib/nova/instances"
    document = domain(f"{place}/{UUID}/disk")
    pool = Pool("disks", "dir", f"{place}/disks", volumes=())
    host = Host(9_000_000, "qemu", ("apparmor",), (pool,))
    made = plan(document, host, relocate={None: "disks"}, accept=("apparmor",))
    file = File(f"{place}/{UUID}/disk", inode=1, header=Backing(f"{place}/_base/1", "raw"))
    survey = Survey(
        host,
        files={file.path: file, f"{place}/_base/1": File(f"{place}/_base/1", inode=2)},
        directories={pool.path: Directory(pool.path)},
    )
    guest = Guest(UUID, "guest", document)
    helper = "/etc/apparmor.d/local/usr.lib.libvirt.virt-aa-helper"

    assert ("path", "move") == (made.transitions[0].disk_type, made.transitions[0].action)
    assert (f"{helper}: {place}/disks/* r,",) == apparmor_lines(made, survey)
    assert ["apparmor"] == [each.id for each in judge(made, guest, survey)]
    flat = replace(survey, files={file.path: replace(file, header=Backing(None, None))})
    assert () == judge(made, guest, flat)


@pytest.mark.parametrize(
    ("change", "ids"),
    [
        (lambda scene: scene, []),
        (lambda scene: scene.host_with(libversion=1_000_004), ["libvirt-version"]),
        (lambda scene: scene.host_with(driver="xen"), ["hypervisor"]),
        (lambda scene: scene.host_with(security_models=("apparmor",)), ["apparmor"]),
        (
            lambda scene: scene.pool_with(active=False, autostart=False),
            ["pool-inactive", "pool-autostart"],
        ),
        (lambda scene: scene.directory_with(closed=(DISKS,)), ["directory-closed"]),
        (lambda scene: scene.pool_with(type="rbd", autostart=False), []),
    ],
)
def test_a_host_is_judged_by_itself(change: Callable[[Scene], Scene], ids: list[str]) -> None:
    """What would be in the way of each of its domains."""
    assert ids == [each.id for each in host_concerns(change(READY).surveyed)]


def test_a_host_without_pools_is_told() -> None:
    """There is nothing that a disk could become."""
    assert ["no-pools"] == [each.id for each in host_concerns(Survey(Host(9_000_000, "qemu")))]


def test_an_accepted_id_of_another_rule_changes_nothing() -> None:
    """Accepting is by id."""
    scene = READY.guest_with(document=domain(metadata=NOVA))
    accepted = scene.but(accept=("image-cache",)).judged()

    assert ["nova-unaware"] == [each.id for each in refusals(accepted)]


def test_a_concern_as_data_has_what_the_schema_wants() -> None:
    """All fields and the remedy."""
    assert {"id", "message", "target", "severity", "accepted", "remedy"} == set(
        READY.judged()[0].as_data()
    )


def test_long_lists_are_cut() -> None:
    """A base image may have a thousand overlays, and a message is a line."""
    overlays = tuple(f"/overlay{number:04}" for number in range(1000))
    (found,) = refusals(READY.survey_with(overlays={DISK: overlays}).judged())

    assert found.message.endswith("/overlay0003 and 996 more")


def test_chains_that_bite_their_tail_end() -> None:
    """Headers are anybody's."""
    scene = replace(
        READY,
        files=(
            File("/a", inode=1, header=Backing("/b", "qcow2")),
            File("/b", inode=2, header=Backing("/a", "qcow2")),
            replace(READY.files[0], header=Backing("/a", "qcow2")),
        ),
    )
    assert ["volume-limits"] == [each.id for each in scene.judged()]
