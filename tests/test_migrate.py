"""Migration between two real hosts: the guest goes on, its disk is a volume, nothing is lost.

Rules
- Two private libvirtd and real QEMUs; what the guest has written is counted on its disk.
- After each migration the guest is started anew, from what is defined at the destination.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jsonschema
import libvirt
import pytest
from chroots import Release
from click.testing import CliRunner, Result
from commands import Shell
from loops import mounted
from pair import SIZE, Pair, make_pair
from scene import POOL, SECURE, Scene, run, until

from xmlkit import migrate, service, state
from xmlkit.cli import cli
from xmlkit.document import Document
from xmlkit.journal import Outcome, Writer, read_all
from xmlkit.migrate import Migration, Options
from xmlkit.plan import PlanError, Transition, plan
from xmlkit.preflight import refusals
from xmlkit.steps import Link, Migrate
from xmlkit.testing import Libvirtd
from xmlkit.transformers import transform

SCHEMA = json.loads((Path(__file__).parents[1] / "schemas/journal-1.json").read_text())
RELOCATE: dict[str | None, str] = {None: POOL}
RUNNING = (libvirt.VIR_DOMAIN_RUNNING, libvirt.VIR_DOMAIN_BLOCKED)


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory that QEMU's user may enter."""
    with tempfile.TemporaryDirectory(prefix="xmlkit-pair-") as name:
        os.chmod(name, 0o755)  # noqa: S103
        yield Path(name)


@pytest.fixture
def pair(place: Path, start_libvirtd: Callable[..., Libvirtd]) -> Pair:
    """Two hosts with one storage."""
    return make_pair(start_libvirtd, place)


@pytest.fixture
def apart(place: Path, start_libvirtd: Callable[..., Libvirtd]) -> Pair:
    """Two hosts, each with its own storage at the same path."""
    return make_pair(start_libvirtd, place, separate=True)


def judged(pair: Pair, **options: Any) -> Migration:
    """The guest's migration from here to there."""
    options.setdefault("relocate", RELOCATE)
    options.setdefault("migrate_uri", pair.unix())
    if options.get("storage", "shared") != "shared":
        options.setdefault("disks_uri", pair.unix("nbd"))
    found = Options(**options)
    return migrate.judged(pair.source, pair.destination, "guest", pair.there.uri, found)


def moved(pair: Pair, place: Path, listener: Any = None, **options: Any) -> Outcome:
    """Migrate the guest; what became of it."""
    return carried_out(pair, place, judged(pair, **options), listener)


def carried_out(pair: Pair, place: Path, made: Migration, listener: Any = None) -> Outcome:
    """Do what was judged; what became of it."""
    assert ("ready", "") == (made.state, made.message), made.concerns
    result = service.migrate_one(
        pair.source,
        pair.destination,
        made,
        state.directory(str(place / "state")),
        uri=pair.here.uri,
        to=pair.there.uri,
        listener=listener or (lambda *_: None),
    )
    return result.outcomes[made.uuid]


def arrived(pair: Pair, uuid: str, *, live: str = "volume", side: int = 0) -> None:
    """It runs there and nowhere else, on its volume, without a gap, and boots from it."""
    domain = pair.destination.lookupByUUIDString(uuid)
    volume = pair.instances / "disks" / f"{uuid}_disk"
    as_volume = ("volume", POOL, volume.name)
    assert ("there",) == pair.running(uuid)
    assert [as_volume] == pair.addresses(domain)
    assert [as_volume if live == "volume" else ("file", str(volume))] == pair.addresses(domain, 0)
    with pytest.raises(libvirt.libvirtError, match="no domain"):
        pair.source.lookupByUUIDString(uuid)
    pair.goes_on(domain)
    domain.destroy()
    ticks = pair.ticks(volume, side=side)
    assert 5 < ticks
    # each was written once: a write may be cut off before it is said
    assert ticks - 1 <= pair.prints() <= ticks
    domain.create()
    pair.goes_on(domain)
    domain.destroy()
    assert ticks <= pair.ticks(volume, side=side)


def stays(pair: Pair, domain: Any, format: str = "qcow2") -> None:
    """It runs here and nowhere else, with its old disk and without a trace there."""
    uuid = domain.UUIDString()
    disk = pair.instances / uuid / "disk"
    assert ("here",) == pair.running(uuid)
    assert [("file", str(disk))] == pair.addresses(domain)
    assert [] == pair.links()
    assert 1 == pair.seen(disk).stat().st_nlink
    assert [] == pair.destination.listAllDomains()
    pair.goes_on(domain)
    domain.destroy()
    ticks = pair.ticks(disk, format)
    assert 5 < ticks
    assert ticks - 1 <= pair.prints() <= ticks


@pytest.mark.parametrize("transport", ["unix", "tcp"])
def test_shared_storage(pair: Pair, place: Path, transport: str) -> None:
    """The image gets its new name before, loses the old one after, and the guest sees nothing."""
    domain = pair.guest()
    uuid = domain.UUIDString()
    info = pair.instances / uuid / "disk.info"
    info.write_text(json.dumps({str(pair.instances / uuid / "disk"): "qcow2"}))
    seen: list[tuple[str, str]] = []
    uri = pair.unix() if transport == "unix" else pair.tcp

    def listener(*event: Any) -> None:
        seen.append((event[0], type(event[2]).__name__))

    outcome = moved(pair, place, listener, migrate_uri=uri)

    assert Outcome("done") == outcome
    assert ["Link", "Refresh", "Migrate", "Unlink"] == [b for a, b in seen if a == "begin"]
    assert [f"{uuid}_disk"] == pair.links()
    assert ["disk.info"] == os.listdir(pair.instances / uuid)
    # Nova's word of the format goes along
    assert {str(pair.instances / "disks" / f"{uuid}_disk"): "qcow2"} == json.loads(info.read_text())
    arrived(pair, uuid)
    (journal,) = read_all(str(place / "state"))[0]
    assert ("migrate", "done", pair.there.uri) == (journal.kind, journal.state, journal.to)
    assert "geheim" not in Path(journal.path).read_text()


def test_a_volume_and_a_file_in_the_pool_need_no_link(pair: Pair, place: Path) -> None:
    """A file that lies in the pool is adopted, a volume stays one; nothing is linked."""
    uuid = None
    for kind in ("file", "volume"):
        if kind == "file":
            path = pair.instances / "disks" / "own.qcow2"
            domain = pair.guest(path=path)
            uuid = domain.UUIDString()
            pair.source.storagePoolLookupByName(POOL).refresh()
            pair.destination.storagePoolLookupByName(POOL).refresh()
        assert Outcome("done") == moved(pair, place)
        domain = pair.destination.lookupByUUIDString(uuid)
        assert [("volume", POOL, "own.qcow2")] == pair.addresses(domain)
        assert [("volume", POOL, "own.qcow2")] == pair.addresses(domain, 0)
        # the second time the other way round, with a volume disk
        pair.here, pair.there = pair.there, pair.here
        pair.connect()
    domain = pair.source.lookupByUUIDString(uuid)
    pair.goes_on(domain)
    domain.destroy()
    assert 5 < pair.ticks(path)


@pytest.mark.parametrize("format", ["qcow2", "raw"])
@pytest.mark.parametrize("storage", ["full", "incremental"])
def test_separate_storage(apart: Pair, place: Path, storage: str, format: str) -> None:
    """The disk is copied into a volume that was made for it; the old image stays as it was."""
    domain = apart.guest(format=format)
    uuid = domain.UUIDString()
    volume = apart.seen(apart.instances / "disks" / f"{uuid}_disk", 1)

    outcome = moved(apart, place, storage=storage, accept=("base-unverified",))

    assert Outcome("done") == outcome
    assert [f"{uuid}_disk"] == apart.links()
    assert (apart.instances / uuid / "disk").exists()
    if format == "qcow2":
        # told the format; a volume in use is looked at all the same
        about = json.loads(run("qemu-img", "info", "-U", "-f", "qcow2", "--output=json", volume))
        assert (None if storage == "full" else str(apart.base)) == about.get("backing-filename")
        assert "1.1" == about["format-specific"]["data"]["compat"]
    domain = apart.destination.lookupByUUIDString(uuid)
    assert [("volume", POOL, f"{uuid}_disk")] == apart.addresses(domain)
    apart.goes_on(domain)
    domain.destroy()
    before = apart.ticks(apart.instances / "disks" / volume.name, format, 1)
    domain.create()
    apart.goes_on(domain)
    assert [("volume", POOL, f"{uuid}_disk")] == apart.addresses(domain, 0)
    domain.destroy()
    assert 5 < before <= apart.ticks(apart.instances / "disks" / volume.name, format, 1)


def test_a_base_is_compared(apart: Pair) -> None:
    """An incremental copy needs the same base there: each byte of it is compared, or accepted."""
    apart.guest()
    ids = [each.id for each in refusals(judged(apart, storage="incremental").concerns)]
    assert ["base-unverified"] == ids  # no pool lists it

    xml = f"<pool type='dir'><name>base</name><target><path>{apart.base.parent}</path></target>"
    pool = apart.destination.storagePoolDefineXML(f"{xml}</pool>")
    pool.create()
    assert () == refusals(judged(apart, storage="incremental").concerns)

    with apart.seen(apart.base, 1).open("r+b") as image:
        image.seek(700_000)
        image.write(b"another")
    (concern,) = refusals(judged(apart, storage="incremental").concerns)
    assert ("base-unverified", "vda") == (concern.id, concern.target)
    assert concern.message.endswith("its content is another one there")

    apart.seen(apart.base, 1).unlink()
    pool.refresh()
    assert "ready" == judged(apart, storage="full").state  # which needs none


def test_storage_that_is_not_shared_is_found_out(
    apart: Pair, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The name that was made here does not show there: nothing migrates, and it goes again."""
    monkeypatch.setattr(migrate, "SHOWING", 2.0)
    domain = apart.guest()

    outcome = moved(apart, place)

    assert ("undone", "no-shared-storage") == (outcome.state, outcome.id)
    assert "--storage full" in outcome.message
    stays(apart, domain)


def test_a_volume_that_is_another_file_there_is_found_out(
    apart: Pair, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A volume of the same name, with the same size and time of change, is not enough."""
    monkeypatch.setattr(migrate, "SHOWING", 2.0)
    path = apart.instances / "disks" / "own.qcow2"
    domain = apart.guest(path=path)
    image, other = apart.seen(path), apart.seen(path, 1)
    run("cp", "--preserve=all", image, other)
    for connection in (apart.source, apart.destination):
        connection.storagePoolLookupByName(POOL).refresh()

    outcome = moved(apart, place)

    assert ("undone", "no-shared-storage") == (outcome.state, outcome.id)
    assert ("here",) == apart.running(domain.UUIDString())
    assert ["own.qcow2"] == apart.links()


def test_a_cache_that_is_not_coherent(pair: Pair, place: Path) -> None:
    """What libvirt calls unsafe is asked for only where it was shown safe, or is accepted."""
    domain = pair.guest(cache="writeback")
    made = judged(pair)
    assert ("unsafe-cache", "warn") == (made.concerns[0].id, made.concerns[0].severity)

    outcome = moved(pair, place)

    assert ("undone", "unsafe-cache") == (outcome.state, outcome.id)
    assert "(libvirt error 81)" in outcome.message
    assert ("here",) == pair.running(domain.UUIDString())
    assert [] == pair.links()
    assert Outcome("done") == moved(pair, place, accept=("unsafe-cache",))
    arrived(pair, domain.UUIDString())


def test_preflight_refuses_before_anything_is_touched(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All concerns about both hosts are told, each with its id."""

    def ids(**options: Any) -> list[str]:
        return [each.id for each in refusals(judged(pair, **options).concerns)]

    domain = pair.guest()
    uuid = domain.UUIDString()
    assert [] == ids()

    domain.suspend()
    assert ["not-running"] == ids()
    domain.resume()

    other = f"<domain type='qemu'><name>guest</name>{'<memory>1</memory>'}<os><type>hvm</type></os>"
    pair.destination.defineXML(f"{other}</domain>")
    assert ["domain-exists"] == ids()
    pair.destination.lookupByName("guest").undefine()

    taken = pair.instances / "disks" / f"{uuid}_disk"
    taken.touch()
    # the list is old, and the directory is looked at
    assert "volume-taken" in ids()
    pair.destination.storagePoolLookupByName(POOL).refresh()
    assert "volume-taken" in ids()
    assert "volume-taken" in ids(storage="full")
    taken.unlink()
    pair.destination.storagePoolLookupByName(POOL).refresh()

    pair.destination.storagePoolLookupByName(POOL).destroy()
    assert "pool-inactive" in ids()
    pair.destination.storagePoolLookupByName(POOL).create()

    with pytest.raises(PlanError, match="no pool 'nowhere'"):
        ids(relocate={None: "nowhere"})

    # without a pool that takes it a file stays at its path, and cannot be copied there
    assert [] == ids(relocate={})
    assert ["outside-pools"] == ids(relocate={}, storage="full")
    assert "--relocate POOL" in judged(pair, relocate={}, storage="full").message

    same = migrate.judged(pair.source, pair.source, "guest", "", Options(relocate=RELOCATE))
    assert "same-host" == same.id

    with monkeypatch.context() as patch:
        patch.setattr("xmlkit.survey.is_local", lambda uri: False)
        assert "unseen" in ids()

    domain.snapshotCreateXML("<domainsnapshot><name>s</name></domainsnapshot>")
    assert ["snapshots"] == ids()

    # the guest still runs with a disk that is not defined any more
    document = Document.parse(domain.XMLDesc(SECURE))
    (disk,) = document.root.iterfind("devices/disk")
    pair.source.defineXML(document.text.replace(document.text_of(disk), ""))
    assert ["disk-changed", "snapshots"] == sorted(ids(storage="full"))
    assert [] == pair.links()
    assert ("here",) == pair.running(uuid)


@pytest.mark.parametrize("storage", ["full", "incremental"])
def test_a_file_that_libvirt_has_not_listed_takes_the_name(
    apart: Pair, place: Path, storage: str
) -> None:
    """It is found before the guest is touched, named by its path, and not overwritten or removed.

    Also one that somebody puts there after it was judged, before the step and during it.
    """
    domain = apart.guest()
    path = apart.instances / "disks" / f"{domain.UUIDString()}_disk"
    theirs = apart.seen(path, 1)
    theirs.write_bytes(b"theirs")
    options: dict[str, Any] = {"storage": storage, "accept": ("base-unverified",)}

    (concern,) = refusals(judged(apart, **options).concerns)
    assert ("volume-taken", "vda") == (concern.id, concern.target)
    assert str(path) in concern.message

    theirs.unlink()
    made = judged(apart, **options)
    theirs.write_bytes(b"theirs")
    outcome = carried_out(apart, place, made)
    assert ("undone", "volume-taken") == (outcome.state, outcome.id)
    assert str(path) in outcome.message
    assert b"theirs" == theirs.read_bytes()

    theirs.unlink()
    made = judged(apart, **options)
    pool = apart.destination.storagePoolLookupByName(POOL)

    def put(what: str, _: str, step: Any, *rest: Any) -> None:
        if (what, type(step).__name__) == ("begin", "Create"):
            theirs.write_bytes(b"theirs")
            pool.refresh()

    outcome = carried_out(apart, place, made, put)
    assert "undone" == outcome.state
    assert b"theirs" == theirs.read_bytes()
    assert ("here",) == apart.running(domain.UUIDString())


@pytest.mark.parametrize(
    ("option", "uri"),
    [
        ("--migrate-uri", "garbage"),
        ("--migrate-uri", ""),
        ("--migrate-uri", "tcp://"),
        ("--migrate-uri", "tcp:host:49152"),
        ("--migrate-uri", "tcp://host:port"),
        ("--migrate-uri", "tcp://host:99999"),
        ("--migrate-uri", "tcp://[::1"),
        ("--migrate-uri", "tcp://host/path"),
        ("--migrate-uri", "unix://host/path"),
        ("--migrate-uri", "unix:relative"),
        ("--migrate-uri", "ssh://host"),
        ("--migrate-uri", "tcp://host:1\n"),
        ("--disks-uri", "rdma://host"),
    ],
)
def test_a_uri_that_is_none_is_refused(tmp_path: Path, option: str, uri: str) -> None:
    """One line, exit code 2, before any host is asked."""
    hosts = ("--connect", "test:///nowhere", "--to", "test:///nowhere", "--storage", "full")
    Shell(None, tmp_path)("migrate", *hosts, option, uri, "guest").refused(f"{option} ")


@pytest.mark.parametrize("uri", ["unix:///a/b.sock", "tcp://host:49152"])
def test_memory_and_disks_do_not_share_a_socket(tmp_path: Path, uri: str) -> None:
    """QEMU listens at each of them."""
    hosts = ("--connect", "test:///nowhere", "--to", "test:///nowhere", "--storage", "full")
    both = ("--migrate-uri", uri, "--disks-uri", uri)
    Shell(None, tmp_path)("migrate", *hosts, *both, "guest").refused(f"--disks-uri {uri!r} is the")
    assert "tcp://host" == Options(migrate_uri="tcp://host", disks_uri="tcp://host").disks_uri


def test_no_destination_is_not_just_any(tmp_path: Path) -> None:
    """libvirt takes an empty URI for a host of its own choice."""
    Shell(None, tmp_path)("migrate", "--connect", "test:///nowhere", "--to", "", "guest").refused(
        "which host to?"
    )


@pytest.mark.parametrize(
    ("source", "to"), [("QEMU", "test:///default"), ("test:///default", "QEMU")], ids=["to", "from"]
)
def test_a_host_of_another_driver_is_refused(
    libvirtd: Libvirtd, tmp_path: Path, source: str, to: str
) -> None:
    """libvirt would say so in the middle of it: a QEMU guest goes from QEMU to QEMU."""
    scene = Scene(libvirtd)
    scene.nova_guest("test")
    uris = [libvirtd.uri if each == "QEMU" else each for each in (source, to)]
    told = Shell(None, tmp_path)("migrate", "--connect", uris[0], "--to", uris[1], "--yes", "test")
    told.refused("test:///default: its guests are not QEMU's but of the driver TEST")
    assert not (tmp_path / "state").exists() or not list((tmp_path / "state").glob("*.jsonl"))


@pytest.mark.parametrize(
    "uri", ["tcp://host", "tcp://host:49152", "tcp://[::1]:1", "unix:///a/b.sock", "unix:/a"]
)
def test_a_uri_that_is_one_is_taken(uri: str) -> None:
    """As libvirt takes it."""
    assert uri == Options(migrate_uri=uri).migrate_uri
    assert uri == Options(disks_uri=uri).disks_uri


def fill(directory: Path) -> None:
    """Leave no room in a file system."""
    with contextlib.suppress(OSError), (directory / "filling").open("wb") as file:
        while True:
            os.write(file.fileno(), bytes(4096))


@pytest.mark.parametrize("moment", ["begin", "done"])
def test_a_journal_that_cannot_be_written_leaves_it_pending(
    pair: Pair, place: Path, moment: str
) -> None:
    """It is told as what it is, and recover ends it."""
    domain = pair.guest()
    uuid = domain.UUIDString()
    with mounted("tmpfs", 1 << 20) as directory:
        (directory / "state").mkdir(mode=0o700)

        def listener(what: str, _: str, step: Any, *__: Any) -> None:
            if (what, type(step)) == (moment, Migrate):
                (journal,) = (directory / "state").glob("*.jsonl")
                room = -journal.stat().st_size % 4096
                padding = json.dumps({"resume": "x" * (room - 20)}) + "\n"
                journal.write_text(journal.read_text() + padding)
                fill(directory)

        outcome = carried_out(pair, directory, judged(pair), listener)

        assert ("pending", "journal") == outcome[:2], outcome
        pair.writers()
        (directory / "filling").unlink()
        found, errors = service.recover_all(
            lambda _: pair.source, directory / "state", there=lambda _: pair.destination
        )
        assert ([], ["done"]) == (errors, [ends[uuid].state for _, ends in found])
    arrived(pair, uuid)


def test_no_password_of_a_uri_is_kept(pair: Pair, place: Path) -> None:
    """Neither as the way to a host nor in a step."""
    domain = pair.guest()
    uri = pair.there.uri.replace("///", "//nova:Zugang@/")
    options = Options(RELOCATE, migrate_uri=pair.unix())
    made = migrate.judged(pair.source, pair.destination, "guest", uri, options)
    assert made.task is not None
    assert "Zugang" not in repr(made)
    directory = state.directory(str(place / "state"))
    result = service.migrate_one(
        *(pair.source, pair.destination, made, directory),
        uri=pair.here.uri.replace("///", "//nova:Zugang@/"),
        to=uri,
    )
    assert Outcome("done") == result.outcomes[domain.UUIDString()]
    (journal,) = directory.glob("*.jsonl")
    assert "Zugang" not in journal.read_text()


def test_interrupted_it_stays_here(pair: Pair, place: Path) -> None:
    """Ctrl-C cancels a migration that is under way; the destination has no statistics of it."""
    domain = pair.guest(memory=3072)
    domain.migrateSetMaxSpeed(1)
    sides = []

    def interrupt(what: str, uuid: str, *_: Any) -> None:
        if what == "migrated":
            sides.append(migrate._side(pair.destination, uuid))
            raise KeyboardInterrupt

    outcome = moved(pair, place, interrupt)

    assert sides[0].job
    assert ("undone", "interrupted") == (outcome.state, outcome.id)
    stays(pair, domain)


def test_interrupted_a_copy_goes_again(apart: Pair, place: Path) -> None:
    """The volume that was made for it is deleted."""
    domain = apart.guest(memory=3072)
    domain.migrateSetMaxSpeed(1)

    def interrupt(what: str, *_: Any) -> None:
        if what == "migrated":
            raise KeyboardInterrupt

    outcome = moved(apart, place, interrupt, storage="full")

    assert ("undone", "interrupted") == (outcome.state, outcome.id)
    stays(apart, domain)


def filled(pair: Pair, **options: Any) -> Any:
    """A guest that runs, with 24 MiB on its disk that have to be copied."""
    domain = pair.guest(format="raw", start=False, **options)
    with pair.seen(pair.instances / domain.UUIDString() / "disk").open("r+b") as image:
        image.seek(SIZE)
        image.write(os.urandom(24 << 20))
    domain.create()
    until(lambda: pair.written(domain) > 2)
    return domain


def test_progress_is_what_libvirt_counts(apart: Pair, place: Path) -> None:
    """It grows, never beyond the whole, and ends there, in bytes."""
    domain = filled(apart, memory=256)
    domain.migrateSetMaxSpeed(8)
    told: list[tuple[int, int]] = []

    def listener(what: str, *rest: Any) -> None:
        if what == "migrated":
            told.append(rest[2:])

    assert Outcome("done") == moved(apart, place, listener, storage="full")
    done, whole = zip(*told, strict=True)
    assert sorted(done) == list(done)
    assert 2 < len(set(done))
    assert all(part <= all_ for part, all_ in told)
    assert done[-1] == whole[-1]
    # the memory counts as soon as libvirt says of it, which it may have gone over before
    assert 24 << 20 <= whole[-1]


def test_progress_is_not_told_where_libvirt_has_none(
    pair: Pair, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is made up."""
    pair.guest()
    monkeypatch.setattr(libvirt.virDomain, "jobStats", lambda *_: {})
    told: list[str] = []

    assert Outcome("done") == moved(pair, place, lambda what, *_: told.append(what))
    assert {"begin", "done"} == set(told)


@pytest.mark.parametrize("storage", ["shared", "full"])
def test_ctrl_c_while_it_is_copied(
    storage: str, place: Path, start_libvirtd: Callable[..., Libvirtd]
) -> None:
    """SIGINT to the command, while memory or a disk goes over: exit code 3, and all is as before.

    Until then the terminal shows how much has gone over.
    """
    hosts = make_pair(start_libvirtd, place, separate=storage != "shared")
    domain = hosts.guest(memory=3072) if storage == "shared" else filled(hosts)
    domain.migrateSetMaxSpeed(1)
    key = "memory_processed" if storage == "shared" else "disk_processed"
    under_way: list[int] = []

    def interrupt(pid: int) -> None:
        # some looks at it, so that the terminal has shown one of them
        while len(under_way) < 3:
            known = under_way[-1] if under_way else 0
            now = until(lambda known=known: max(0, domain.jobStats().get(key, 0) - known))
            under_way.append(known + now)
            time.sleep(0.5)
        os.kill(pid, signal.SIGINT)

    disks = () if storage == "shared" else ("--disks-uri", hosts.unix("nbd"))
    threads: list[threading.Thread] = []

    def after(pid: int) -> None:
        threads.append(threading.Thread(target=interrupt, args=(pid,)))
        threads[0].start()

    shell = Shell(None, place / "state")
    done = shell.on_terminal(
        *("migrate", "--connect", hosts.here.uri, "--to", hosts.there.uri),
        *("--relocate", POOL, "--storage", storage),
        *("--migrate-uri", hosts.unix(), *disks, "guest"),
        answer="y\n",
        after=after,
    )
    threads[0].join()

    assert 3 == len(under_way)
    done.told(3)
    assert "guest  undone: interrupted: interrupted" in done.stdout
    shown = re.findall(
        r"MiB copied\S* [^/]* (\d+)/(\d+)", re.sub(r"\x1b\[[^A-Za-z]*[A-Za-z]", "", done.stderr)
    )
    parts = [int(part) for part, _ in shown]
    assert parts, done.stderr
    assert sorted(parts) == parts
    assert parts[-1] > 0
    assert all(int(part) <= int(whole) for part, whole in shown)
    (journal,) = read_all(str(place / "state"))[0]
    assert ("undone", ()) == (journal.state, journal.pending)
    hosts.connect()
    domain = hosts.source.lookupByName("guest")
    assert libvirt.VIR_DOMAIN_JOB_NONE == domain.jobInfo()[0]
    stays(hosts, domain, "qcow2" if storage == "shared" else "raw")


def test_what_the_destination_refuses_is_taken_back(pair: Pair, place: Path) -> None:
    """A guest that cannot start there goes on here."""
    domain = pair.guest()
    (pair.sockets / "there").mkdir(mode=0o700)  # QEMU cannot listen

    outcome = moved(pair, place, migrate_uri=f"unix://{pair.sockets}/there/no.sock")

    assert ("undone", "libvirt") == (outcome.state, outcome.id)
    stays(pair, domain)


def test_two_names_of_an_image_do_no_harm(
    pair: Pair, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No second guest gets in by the new name; and to delete one name takes nothing away."""
    monkeypatch.setattr(migrate, "SHOWING", 2.0)
    domain = pair.guest()
    uuid = domain.UUIDString()
    old, new = pair.instances / uuid / "disk", pair.instances / "disks" / f"{uuid}_disk"
    seen = []

    def meddle(what: str, _: str, step: Any, *rest: Any) -> None:
        if (what, type(step).__name__) != ("begin", "Migrate"):
            return
        assert 2 == old.stat().st_nlink
        text = Document.parse(domain.XMLDesc(SECURE)).text
        text = text.replace(f"<uuid>{uuid}", f"<uuid>{uuid[:-1]}{'01'[uuid[-1] == '0']}")
        text = text.replace(str(old), str(new)).replace("<name>guest<", "<name>other<")
        with pytest.raises(libvirt.libvirtError, match='Failed to get "write" lock'):
            pair.destination.createXML(text.replace("guest.log", "other.log"))
        pair.goes_on(domain)
        pool = pair.destination.storagePoolLookupByName(POOL)
        pool.storageVolLookupByName(new.name).delete()
        pair.goes_on(domain)
        seen.append(old.stat().st_nlink)

    outcome = moved(pair, place, meddle)

    assert [1] == seen
    assert ("undone", "no-shared-storage") == (outcome.state, outcome.id)
    stays(pair, domain)


def test_a_guest_on_both_hosts_is_left_alone(
    pair: Pair, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither is ended: which one is right is for the operator to say."""
    monkeypatch.setattr(migrate, "SETTLING", 2.0)
    domain = pair.guest()
    made = judged(pair)
    assert made.task is not None
    assert made.plan is not None
    directory = state.directory(str(place / "state"))
    writer = Writer.create(
        *(str(directory), state.new_id(directory), (made.task,)),
        uri=pair.here.uri,
        kind="migrate",
        to=pair.there.uri,
    )
    writer.begin(*((made.uuid, number) for number in range(3)))
    writer.close()
    document = Document.parse(domain.XMLDesc(SECURE)).text
    image = pair.instances / "another"
    run("qemu-img", "create", "-q", "-f", "qcow2", image, "1M")
    text = document.replace(f"{pair.instances}/{made.uuid}/disk", str(image))
    other = pair.destination.createXML(text)

    (outcome,) = recovered(pair, directory)

    assert ("pending", "two-running") == (outcome.state, outcome.id)
    assert ("here", "there") == pair.running(made.uuid)

    other.suspend()
    (outcome,) = recovered(pair, directory)
    assert ("pending", "two-running") == (outcome.state, outcome.id)
    assert libvirt.VIR_DOMAIN_PAUSED == other.state()[0]

    other.destroy()
    domain.destroy()
    domain.undefine()
    (outcome,) = recovered(pair, directory)
    assert ("pending", "guest-lost") == (outcome.state, outcome.id)
    assert (pair.instances / made.uuid / "disk").exists()

    pair.source.defineXML(document)
    assert [Outcome("undone", "", "it is shut off here")] == recovered(pair, directory)


@pytest.mark.parametrize("both", [True, False])
def test_a_name_that_a_guest_has_here_is_not_taken_back(
    pair: Pair, place: Path, both: bool
) -> None:
    """It has come onto its volume by other ways since: by a hard reboot of Nova's, say."""
    domain = pair.guest()
    made = judged(pair)
    assert made.task is not None
    assert made.plan is not None
    old, new = pair.instances / made.uuid / "disk", pair.instances / f"disks/{made.uuid}_disk"
    said = {str(old): "qcow2", str(new): "qcow2"}
    (old.parent / "disk.info").write_text(json.dumps(said))
    directory = state.directory(str(place / "state"))
    writer = Writer.create(
        *(str(directory), state.new_id(directory), (made.task,)),
        uri=pair.here.uri,
        kind="migrate",
        to=pair.there.uri,
    )
    writer.begin(*((made.uuid, number) for number in range(len(made.task.steps) - 1)))
    writer.close()
    new.hardlink_to(old)
    pair.source.storagePoolLookupByName(POOL).refresh()
    document = Document.parse(domain.XMLDesc(SECURE))
    domain.destroy()
    pair.source.defineXML(transform(document, made.plan).text).create()
    if not both:
        old.unlink()

    (outcome,) = recovered(pair, directory)

    assert "undone" == outcome.state
    assert f"{new} stays, since guest here uses it" in outcome.message
    assert (both, True) == (old.exists(), new.exists())
    assert said == json.loads((old.parent / "disk.info").read_text())


@pytest.mark.versions
@pytest.mark.parametrize("suite", ["bullseye", "bookworm", "trixie", "sid"])
def test_dest_xml_alone_leaves_the_old_address(
    suite: str, place: Path, releases: Callable[[str], Release]
) -> None:
    """What libvirt defines at the destination is the source's, unless PERSIST_XML is given too.

    This is why both are always sent: the guest would not start again once the old name has gone.
    """
    start = releases(suite)
    pair = make_pair(start, place)
    domain = pair.guest()
    made = judged(pair)
    assert made.task is not None
    assert made.live is not None
    (link,) = (step for step in made.task.steps if isinstance(step, Link))
    os.link(link.source, link.target)
    pair.destination.storagePoolLookupByName(POOL).refresh()
    live = transform(Document.parse(domain.XMLDesc(migrate.MIGRATABLE)), made.live)

    domain.migrate3(
        pair.destination,
        {
            libvirt.VIR_MIGRATE_PARAM_DEST_XML: live.text,
            libvirt.VIR_MIGRATE_PARAM_URI: pair.unix(),
        },
        libvirt.VIR_MIGRATE_LIVE
        | libvirt.VIR_MIGRATE_PERSIST_DEST
        | libvirt.VIR_MIGRATE_UNDEFINE_SOURCE
        | libvirt.VIR_MIGRATE_UNSAFE,
    )

    there = pair.destination.lookupByName("guest")
    assert [("volume", POOL, f"{made.uuid}_disk")] == pair.addresses(there, 0)
    assert [("file", f"{pair.instances}/{made.uuid}/disk")] == pair.addresses(there)


@pytest.mark.versions
@pytest.mark.parametrize("storage", ["shared", "incremental"])
@pytest.mark.parametrize(
    ("here", "there", "machine"),
    [
        ("bookworm", "sid", "pc-i440fx-7.2"),
        ("sid", "bookworm", "pc-i440fx-7.2"),
        ("bullseye", "bookworm", "pc-i440fx-5.2"),
        ("bookworm", "trixie", "pc-i440fx-7.2"),
    ],
)
def test_between_versions(
    *,
    here: str,
    there: str,
    machine: str,
    storage: str,
    place: Path,
    releases: Callable[[str], Release],
) -> None:
    """Links and incremental copies, also to an older libvirt, which is warned of."""
    pair = make_pair(
        *(releases(here), place),
        separate=storage != "shared",
        starts=(releases(here), releases(there)),
        machine=machine,
    )
    domain = pair.guest()
    uuid = domain.UUIDString()
    warned = [each.id for each in judged(pair, storage=storage).concerns if each.severity == "warn"]
    assert (here == "sid") == ("older-libvirt" in warned)

    outcome = moved(pair, place, storage=storage, accept=("base-unverified", "old-snapshots"))

    assert Outcome("done") == outcome
    apart = storage != "shared"
    arrived(pair, uuid, live="path" if apart else "volume", side=int(apart))


def test_a_guest_that_is_resumed_may_open_its_image_again(pair: Pair, place: Path) -> None:
    """A destination that gives up may have taken the owner; it is what libvirt here says again."""
    domain = pair.guest()
    made = judged(pair)
    assert made.task is not None
    image = pair.instances / made.uuid / "disk"
    owner = image.stat().st_uid
    assert 0 != owner
    mover = migrate._Mover(
        *(pair.source, pair.destination),
        Writer(str(place / "journal"), new=True),
        *(lambda *_: None, made.task),
    )

    assert not mover._own_again()
    os.chown(image, 0, 0)
    assert mover._own_again()
    assert (owner, owner) == (image.stat().st_uid, image.stat().st_gid)
    mover.writer.close()
    assert domain.isActive()


def test_a_guest_that_waits_there_is_resumed(apart: Pair, place: Path) -> None:
    """xmlkit ended before it could resume a guest that had come: recover does it."""
    domain = apart.guest()
    uuid = domain.UUIDString()

    class Ended(BaseException):
        pass

    def end(what: str, _: str, step: Any, *rest: Any) -> None:
        if (what, type(step).__name__) == ("begin", "Resume"):
            raise Ended

    with pytest.raises(Ended):
        moved(apart, place, end, storage="full")
    assert () == apart.running(uuid)

    assert [Outcome("done")] == recovered(apart, place / "state")
    arrived(apart, uuid, side=1)


def recovered(pair: Pair, directory: Path) -> list[Outcome]:
    """What recover makes of it, by the API."""
    pair.connect()
    found, errors = service.recover_all(
        lambda journal: pair.source, directory, there=lambda journal: pair.destination
    )
    assert [] == errors
    return [outcome for _, outcomes in found for outcome in outcomes.values()]


def xmlkit(*words: object) -> Result:
    """A command line, as it is typed."""
    return CliRunner().invoke(cli, [str(word) for word in words], standalone_mode=False)


def test_the_command(pair: Pair, place: Path) -> None:
    """--dry-run changes nothing; --yes does it; rollback says how to go back; recover is idle."""
    domain = pair.guest()
    uuid = domain.UUIDString()
    hosts = ("--connect", pair.here.uri, "--to", pair.there.uri, "--relocate", POOL)
    where = ("--state-dir", place / "state")

    shown = xmlkit("migrate", *hosts, *where, "--dry-run", "guest")
    assert 0 == shown.return_value, shown.output
    assert "ln -T -- " in shown.stderr
    assert f"virsh --connect '{pair.there.uri}' pool-refresh -- {POOL}" in shown.stderr
    assert "virsh migrate --live --persistent --undefinesource" in shown.stderr
    assert [] == pair.links()
    assert not (place / "state").exists()

    done = xmlkit(
        *("migrate", *hosts, *where, "--yes", "--format", "json"),
        *("--migrate-uri", pair.unix(), "guest"),
    )
    data = json.loads(done.stdout)
    assert (0, "migrate") == (done.return_value, data["kind"])
    assert ["done"] == [each["state"] for each in data["domains"]]
    id = data["domains"][0]["transition"]

    back = xmlkit("rollback", *where, "--yes", id)
    assert "xmlkit migrate --connect" in str(back.exception)
    assert "nothing to recover" in xmlkit("recover", *where).stdout
    listed = xmlkit("journal", *where, "--format", "json")
    jsonschema.validate(json.loads(listed.stdout), SCHEMA)
    assert pair.there.uri in listed.stdout
    arrived(pair, uuid)


def test_recover_needs_both_hosts(pair: Pair, place: Path) -> None:
    """While one of them cannot be reached a migration stays pending, and nothing is done."""
    domain = pair.guest()
    made = judged(pair)
    assert made.task is not None
    directory = state.directory(str(place / "state"))
    writer = Writer.create(
        *(str(directory), state.new_id(directory), (made.task,)),
        uri=pair.here.uri,
        kind="migrate",
        to="qemu+unix:///system?socket=/nowhere",
    )
    writer.close()

    done = xmlkit("recover", "--state-dir", directory)
    assert 1 == done.return_value
    assert "pending: libvirt: cannot connect to" in done.stdout
    assert [Outcome("undone")] == recovered(pair, directory)
    stays(pair, domain)


@pytest.mark.parametrize("way", ["--to path", "the plan's inverse"])
def test_cold_migration(way: str, apart: Pair, tmp_path: Path) -> None:
    """The destination's XML is made from the destination's facts; and the way back gives the bytes.

    Nova does so when it resizes or evacuates: it writes XML there, and may have to revert.
    """
    domain = apart.guest(start=False)
    uuid = domain.UUIDString()
    text = domain.XMLDesc(SECURE)
    legacy = tmp_path / "legacy.xml"
    legacy.write_text(text)
    host = tmp_path / "dest.xml"
    # the image is brought over, by whatever means
    name = apart.instances / "disks" / f"{uuid}_disk"
    run("cp", "--sparse=always", apart.instances / uuid / "disk", apart.seen(name, 1))
    assert 0 == (xmlkit("observe", "--connect", apart.there.uri, "-o", host).return_value or 0)
    made = tmp_path / "made.xml"
    done = xmlkit(
        *("transform", "--host", host, "--relocate", POOL, "-q", "-o", made, legacy),
    )
    assert 0 == (done.return_value or 0), done.output

    there = apart.destination.defineXML(made.read_text())
    apart.destination.storagePoolLookupByName(POOL).refresh()
    assert [("volume", POOL, name.name)] == apart.addresses(there)
    there.create()
    apart.goes_on(there)
    there.destroy()

    if way == "--to path":
        refreshed = tmp_path / "refreshed.xml"
        xmlkit("observe", "--connect", apart.there.uri, "-o", refreshed)
        done = xmlkit("transform", "--host", refreshed, "--to", "path", "-q", made)
        assert text.replace(f"{apart.instances}/{uuid}/disk", str(name)) == done.stdout
    else:
        document = Document.parse(text)
        from xmlkit.host import parse_host

        decided = plan(document, parse_host(host.read_bytes()), relocate=RELOCATE)
        assert all(isinstance(each, Transition) for each in decided.disks)
        assert made.read_text() == transform(document, decided).text
        assert text == transform(transform(document, decided), decided.inverse()).text
