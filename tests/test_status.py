"""Where a host and its domains stand, and how the command tells it.

Rules
- What is told of a domain is what the planner and preflight say; here it is counted and named.
- The command reads alone, and never takes a host that nobody named.
"""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import jsonschema
import pytest
from probes import Site, volume_xml
from scene import POOL, disk_xml, run

from xmlkit import service, shipped
from xmlkit.document import Document
from xmlkit.host import Host, Pool, Volume, version_text
from xmlkit.journal import Writer
from xmlkit.rules import RULES
from xmlkit.status import DomainStatus, status
from xmlkit.survey import Directory, File, Guest, Survey, survey
from xmlkit.testing import Libvirtd

ROOT = Path(__file__).parents[1]
NODE = f"test://{ROOT}/fixtures/every-pool-type.xml"
SCHEMA = json.loads((ROOT / "schemas" / "status-1.json").read_text())
UNIT = ROOT / "systemd" / "xmlkit-status.service"
UUID = "3f2c1c8e-0d4b-4a7e-9b1a-6d5f0e9c7a11"
POOLS = (
    Pool(
        "images",
        "dir",
        "/srv/images",
        volumes=tuple(
            Volume("images", name, f"/srv/images/{name}", format="raw") for name in ("a", "b")
        ),
    ),
)
HOST = Host(9_000_000, "qemu", ("none", "dac"), POOLS)
NOVA = (
    "<metadata><nova:instance xmlns:nova='http://openstack.org/xmlns/libvirt/nova/1.1'/></metadata>"
)


def file(path: str, device: str = "disk", more: str = "") -> str:
    return f"<disk type='file' device='{device}'><source file='{path}'/>{more}{{}}</disk>"


IN_POOL = file("/srv/images/a")
OUTSIDE = file("/srv/elsewhere")
MISSING = file("/srv/images/missing")
VOLUME = "<disk type='volume'><source pool='images' volume='b'/>{}</disk>"
CINDER = file("/var/lib/nova/mnt/x", more="<serial>x</serial>")
CONFIG = file(f"/var/lib/nova/instances/{UUID}/disk.config")
INSTANCE = file(f"/var/lib/nova/instances/{UUID}/disk")
NETWORK = "<disk type='network'><source protocol='rbd' name='p/v'/>{}</disk>"
CDROM = file("/srv/iso/a.iso", "cdrom")
EMPTY = "<disk type='file' device='cdrom'>{}</disk>"


def guest(*disks: str, metadata: str = "", **changes: Any) -> Guest:
    written = "".join(
        disk.format(f"<target dev='vd{letter}'/>")
        for disk, letter in zip(disks, "abcdefg", strict=False)
    )
    xml = (
        f"<domain type='kvm'><name>guest</name><uuid>{UUID}</uuid>{metadata}"
        f"<devices>{written}</devices></domain>"
    )
    return replace(Guest(UUID, "guest", Document.parse(xml)), **changes)


def survey_of(*guests: Guest, host: Host = HOST) -> Survey:
    images = {
        path: File(path, inode=number)
        for number, path in enumerate(("/srv/images/a", "/srv/images/b", "/srv/elsewhere"), 1)
    }
    directory = Directory("/srv/images", file_system="ext4", free=1 << 30)
    return Survey(host, guests, files=images, directories={directory.path: directory})


def of(*disks: str, host: Host = HOST, metadata: str = "", **changes: Any) -> DomainStatus:
    """Where a domain with these disks stands."""
    surveyed = survey_of(guest(*disks, metadata=metadata, **changes), host=host)
    (domain,) = status(surveyed, schemas="/schemas").domains
    return domain


# Where a domain stands.


@pytest.mark.parametrize(
    ("disks", "form", "volumes", "legacy"),
    [
        ((VOLUME,), "volumes", ("vda",), ()),
        ((IN_POOL,), "legacy", (), ("vda",)),
        ((VOLUME, IN_POOL), "partial", ("vda",), ("vdb",)),
        ((OUTSIDE,), "legacy", (), ("vda",)),
        ((), "nothing", (), ()),
        ((NETWORK,), "nothing", (), ()),
        ((EMPTY, CDROM), "nothing", (), ()),
        ((CDROM, VOLUME), "volumes", ("vdb",), ()),
        ((NETWORK, VOLUME, OUTSIDE), "partial", ("vdb",), ("vdc",)),
    ],
)
def test_a_domain_is_named_by_its_disks(
    disks: tuple[str, ...], form: str, volumes: tuple[str, ...], legacy: tuple[str, ...]
) -> None:
    """Removable drives and what has no counterpart count for nothing."""
    found = of(*disks)

    assert (form, volumes, legacy) == (found.form, found.volumes, found.legacy)


def test_what_is_not_novas_to_give_counts_for_nothing() -> None:
    """Cinder's volumes and the config drive stay where they are for ever."""
    found = of(CINDER, CONFIG, metadata=NOVA)

    assert ("nothing", ()) == (found.form, found.legacy)


@pytest.mark.parametrize(
    ("disks", "changes", "blocked", "ids"),
    [
        ((IN_POOL,), {}, False, []),
        ((IN_POOL,), {"state": "running", "live": Document.parse("<domain/>")}, False, []),
        ((OUTSIDE,), {}, True, ["outside-pools"]),
        ((MISSING,), {}, True, ["no-volume"]),
        ((IN_POOL, OUTSIDE), {}, False, ["outside-pools"]),
        ((IN_POOL,), {"persistent": False}, True, ["transient-domain"]),
        ((IN_POOL,), {"managed_save": True}, True, ["managed-save"]),
        ((VOLUME,), {"managed_save": True}, False, []),
        ((IN_POOL, OUTSIDE), {"block_jobs": ("vda",)}, True, ["outside-pools", "block-job"]),
    ],
)
def test_a_domain_is_blocked_by_what_would_refuse_it(
    disks: tuple[str, ...], changes: dict[str, Any], blocked: bool, ids: list[str]
) -> None:
    """Or if none of its legacy disks would change; that it runs does not count."""
    found = of(*disks, **changes)

    assert (blocked, ids) == (found.blocked, [each.id for each in found.concerns])


def test_apparmor_blocks_and_says_so() -> None:
    """The disk keeps a path there; a volume disk could not even start."""
    host = replace(HOST, security_models=("apparmor", "dac"))

    assert (True, ["apparmor"]) == (
        of(IN_POOL, host=host).blocked,
        [each.id for each in of(IN_POOL, host=host).concerns],
    )
    assert ["apparmor"] == [each.id for each in of(VOLUME, host=host).concerns]


def test_a_named_pool_takes_what_lies_in_the_instance_directory() -> None:
    """Without one it is legacy and blocked; with one preflight judges the move."""
    surveyed = survey_of(guest(INSTANCE))
    (without,) = status(surveyed, schemas="/schemas").domains
    (with_,) = status(surveyed, schemas="/schemas", relocate={None: "images"}).domains
    assert ["outside-pools"] == [each.id for each in without.concerns]
    # nobody looked at this image
    assert (True, ["unseen"]) == (with_.blocked, [each.id for each in with_.concerns])


# The host.


def test_a_host_is_ready_if_nothing_is_in_its_way() -> None:
    """Schemas, version, driver, pools."""
    ready = status(survey_of(), schemas="/schemas")

    assert (True, (), "9.0.0", "qemu") == (
        ready.ready,
        ready.concerns,
        ready.libvirt,
        ready.driver,
    )
    (pool,) = ready.pools
    assert ("images", "dir", "/srv/images") == (pool.name, pool.type, pool.path)
    assert (True, True, True, "ext4", 1 << 30) == (
        pool.active,
        pool.autostart,
        pool.persistent,
        pool.file_system,
        pool.free,
    )


@pytest.mark.parametrize(
    ("host", "schemas", "ids"),
    [
        (HOST, None, ["no-schemas"]),
        (replace(HOST, pools=()), "/schemas", ["no-pools"]),
        (replace(HOST, driver="lxc"), "/schemas", ["hypervisor"]),
        (replace(HOST, libversion=1_000_000), "/schemas", ["libvirt-version", "live-snapshots"]),
    ],
)
def test_what_is_in_the_way_of_every_domain_is_the_hosts(
    host: Host, schemas: str | None, ids: list[str]
) -> None:
    """It makes the host unready."""
    found = status(survey_of(host=host), schemas=schemas)

    assert not found.ready
    assert [each for each in ids if each != "live-snapshots"] == [
        each.id for each in found.concerns
    ]


def test_what_was_not_seen_is_none() -> None:
    """Another machine's file systems, an unknown version."""
    surveyed = replace(survey_of(host=replace(HOST, libversion=None)), local=False, directories={})
    found = status(surveyed, schemas="/schemas")

    assert (None, False) == (found.libvirt, found.local)
    assert (None, None) == (found.pools[0].file_system, found.pools[0].free)


# The command.


def xmlkit(*arguments: object, **variables: str) -> subprocess.CompletedProcess[str]:
    """The command, in a process of its own, where no host is named by chance."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("LIBVIRT_")}
    return subprocess.run(
        [sys.executable, "-c", "from xmlkit.cli import main; main()", *map(str, arguments)],
        capture_output=True,
        text=True,
        env=environment | variables,
        check=False,
    )


@pytest.fixture
def site(libvirtd: Libvirtd) -> Site:
    return Site(libvirtd)


def test_the_command_shows_the_host_and_a_line_a_domain(site: Site) -> None:
    """Plain columns, and why a domain is blocked beside it."""
    site.volume_guest("new")
    site.scene.nova_guest("old").create()
    site.scene.define("none", [])
    mixed = [volume_xml(site.image("mixed").name), disk_xml(site.image("x"), "vdb")]
    site.scene.define("mixed", mixed)
    done = xmlkit("status", "--connect", site.libvirtd.uri)
    lines = [re.split(r"  +", line) for line in done.stdout.split("\n")]

    assert (1, "") == (done.returncode, done.stderr)
    version = version_text(site.scene.connection.getLibVersion())
    assert ["libvirt", f"{version}, driver qemu"] == lines[1]
    assert ["ready", "yes"] in lines
    assert ["DOMAIN", "STATE", "DISKS", "WHY"] in lines
    assert ["mixed", "shut off", "partial", "-"] in lines
    assert ["new", "shut off", "on volumes", "-"] in lines
    assert ["none", "shut off", "nothing to do", "-"] in lines
    (old,) = [line for line in lines if line[0] == "old"]
    assert ["old", "running", "legacy, blocked"] == old[:3]
    assert old[3].startswith("vda: outside-pools: /")
    (pool,) = [line for line in lines if line[0] == POOL]
    assert ["dir", "active", "yes"] == pool[1:4]
    assert re.fullmatch(r"\d+ [KMG]iB|\d+\.\d TiB", pool[5])
    summary = "4 domains: 1 on volumes, 1 partial, 1 legacy, 1 nothing to do; 1 blocked"
    assert summary == done.stdout.rstrip("\n").split("\n")[-1]


def test_with_a_pool_to_move_to_the_domain_is_not_blocked(site: Site) -> None:
    """And a pool that is not there is trouble."""
    site.scene.nova_guest("old")
    uri = site.libvirtd.uri
    done = xmlkit("status", "--connect", uri, "--relocate", POOL)
    wrong = xmlkit("status", "--connect", uri, "--relocate", "nonesuch")

    assert "0 nothing to do\n" in done.stdout
    assert "blocked" not in done.stdout
    assert (2, "") == (wrong.returncode, wrong.stdout)
    assert "no pool 'nonesuch'" in wrong.stderr


def test_all_done_is_exit_code_0(site: Site) -> None:
    """The host is ready, and no domain has a legacy disk."""
    site.volume_guest()

    assert 0 == xmlkit("status", "--connect", site.libvirtd.uri).returncode
    site.pool.destroy()
    assert 1 == xmlkit("status", "--connect", site.libvirtd.uri).returncode


def test_it_says_which_state_directory_it_looked_in(site: Site, tmp_path: Path) -> None:
    """What is pending there is something left to do; one that cannot be read is no trouble."""
    site.volume_guest()

    def asked(code: int, *arguments: object) -> tuple[list[str], dict[str, Any]]:
        line = ("status", "--connect", site.libvirtd.uri, *arguments)
        text, data = xmlkit(*line), xmlkit(*line, "--format", "json")
        assert [(code, "")] * 2 == [(each.returncode, each.stderr) for each in (text, data)]
        (row,) = [re.split("  +", each) for each in text.stdout.split("\n") if each[:6] == "state "]
        return row[-1:], json.loads(data.stdout)["state"]

    state = tmp_path / "state"
    said, data = asked(0, "--state-dir", state)
    assert [f"nothing pending in {state}"] == said
    assert {"directory": str(state), "pending": [], "live": [], "error": None} == data
    assert not state.exists()
    state.mkdir(0o700)
    site.scene.nova_guest("old")
    surveyed = survey(site.scene.connection, ("old",), secure=True)
    options = service.Options(relocate={None: POOL})
    (task,) = [case.task for case in service.cases_of(surveyed, options) if case.task]
    id = "20261122-161402-4f2a"
    Writer.create(str(state), id, (task,), uri=site.libvirtd.uri).close()
    site.scene.connection.lookupByName("old").undefine()
    said, data = asked(1, "--state-dir", state)
    assert [f"pending in {state}: {id}; run xmlkit recover"] == said
    assert [id] == data["pending"]
    live = state / "live"
    live.mkdir(0o700)
    (state / f"{id}.jsonl").rename(live / f"{id}.jsonl")
    said, data = asked(1, "--state-dir", state)
    assert [f"pending in {live}: {id}; run xmlkit recover --state-dir {live}"] == said
    assert ([], [id]) == (data["pending"], data["live"])
    state.chmod(0o777)
    said, data = asked(0, "--state-dir", state)
    assert f"{state} is writable by others" in said[0]
    assert said == [data["error"]]


def test_json_is_what_its_schema_says(site: Site) -> None:
    """Every field of it, with domains of each form."""
    site.volume_guest("new")
    site.scene.nova_guest("old").create()
    site.scene.define("other", [disk_xml(site.libvirtd.directory / "none")])
    done = xmlkit("status", "--connect", site.libvirtd.uri, "--format", "json")
    data = json.loads(done.stdout)
    jsonschema.validate(data, SCHEMA)

    assert (1, "") == (done.returncode, done.stderr)
    assert ["new", "old", "other"] == [each["name"] for each in data["domains"]]
    assert [False, True, True] == [each["blocked"] for each in data["domains"]]
    assert ["shut off", "running", "shut off"] == [each["state"] for each in data["domains"]]
    for concern in data["domains"][1]["concerns"]:
        assert RULES[concern["id"]].remedy == concern["remedy"]


def test_the_schema_has_no_room_for_anything_else() -> None:
    """Each object is closed, and each property is required and described."""

    def check(schema: Any) -> None:
        if isinstance(schema, dict):
            if schema.get("type") == "object":
                assert schema["additionalProperties"] is False
                assert set(schema["required"]) == set(schema["properties"])
                assert all("description" in each for each in schema["properties"].values()), schema[
                    "description"
                ]
            for each in schema.values():
                check(each)

    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    check(SCHEMA)


def test_a_warning_is_one_line_on_stderr(site: Site) -> None:
    """Exit code 0, whatever it is; and silence when nothing is left."""
    site.volume_guest("new")
    arguments = ("status", "--warn", "--connect", site.libvirtd.uri)
    silent = xmlkit(*arguments)
    site.scene.nova_guest("old")
    warned = xmlkit(*arguments)

    assert (0, "", "") == (silent.returncode, silent.stdout, silent.stderr)
    assert (0, "") == (warned.returncode, warned.stdout)
    assert (
        "xmlkit: 1 of 2 domains have disks that are on no volume, 1 of them blocked; "
        "xmlkit status shows them\n"
    ) == warned.stderr
    assert "blocked" not in xmlkit(*arguments, "--relocate", POOL).stderr


@pytest.mark.parametrize("arguments", [(), ("--warn",), ("--format", "json")])
def test_a_host_is_never_assumed(arguments: tuple[str, ...]) -> None:
    """No URI is exit code 2, not a test host and not this machine."""
    done = xmlkit("status", *arguments)

    assert (2, "") == (done.returncode, done.stdout)
    assert "which host? Say --connect URI, or set LIBVIRT_DEFAULT_URI" in done.stderr


def test_the_variable_names_a_host() -> None:
    """As for libvirt's own tools."""
    done = xmlkit("status", LIBVIRT_DEFAULT_URI=NODE)

    assert 1 == done.returncode
    assert "driver test" in done.stdout
    assert "of another machine: not looked at" in done.stdout


@pytest.mark.parametrize(
    "arguments",
    [
        ("--warn", "--format", "json"),
        ("--schemas", "/nonesuch"),
        ("--relocate", "KIND=pool"),
        ("--accept", "running"),
        ("--connect", "nonesuch:///"),
    ],
)
def test_wrong_input_is_one_clear_line(arguments: tuple[str, ...]) -> None:
    """Exit code 2, and nothing on stdout."""
    connect = () if "--connect" in arguments else ("--connect", NODE)
    done = xmlkit("status", *connect, *arguments)

    assert (2, "") == (done.returncode, done.stdout)
    assert "Traceback" not in done.stderr
    assert "internal error" not in done.stderr


def on_terminal(columns: int, *arguments: str, term: str = "xterm") -> str:
    """What status shows on a terminal, without its escape sequences."""
    leader, follower = pty.openpty()
    size = struct.pack("4H", 24, columns, 0, 0)
    fcntl.ioctl(follower, termios.TIOCSWINSZ, size)
    environment = {key: value for key, value in os.environ.items() if key != "COLUMNS"}
    process = subprocess.Popen(
        [sys.executable, "-c", "from xmlkit.cli import main; main()", "status", *arguments],
        stdout=follower,
        env=environment | {"TERM": term},
    )
    os.close(follower)
    pieces: list[bytes] = []
    try:
        while piece := os.read(leader, 4096):
            pieces.append(piece)
    except OSError:
        pass  # the way in which a terminal ends
    os.close(leader)
    assert 1 == process.wait()
    return re.sub("\x1b[^m]*m", "", b"".join(pieces).decode()).replace("\r\n", "\n")


def test_a_terminal_gets_tables_that_lose_nothing() -> None:
    """Drawn by rich, as wide as it is; words are wrapped, and nothing is cut."""
    text = on_terminal(100, "--connect", NODE)

    assert "─" in text
    assert "…" not in text
    # sentences are the terminal's to break
    rows = [
        line for line in text.split("\n") if ": pool" not in line and not line.endswith("blocked")
    ]
    assert len(rows) > 20
    assert max(map(len, rows)) <= 100


def test_a_narrow_terminal_gets_paragraphs(site: Site) -> None:
    """A name, a path and a reason stand there whole, so that they can be copied."""
    names = ("日本語の仮想マシン", "a-name-" + 10 * "that-is-long-", "two  blanks")
    for name in names:
        site.scene.nova_guest(name)
    text = on_terminal(40, "--connect", site.libvirtd.uri)
    lines = text.split("\n")

    for name in names:
        at = lines.index(name)
        assert "  state shut off, disks legacy, blocked" == lines[at + 1]
        assert lines[at + 2].startswith("  vda: outside-pools: /")
    for pool in site.scene.connection.listAllStoragePools():
        path = ElementTree.fromstring(pool.XMLDesc()).findtext("target/path")
        assert f"  {path}" == lines[lines.index(pool.name()) + 2]
    assert "DOMAIN" in on_terminal(200, "--connect", site.libvirtd.uri)


def test_a_dumb_terminal_gets_what_a_pipe_gets(site: Site) -> None:
    """Plain columns, straight also where a letter takes two places."""
    for name in ("日本語", "a", "e\u0301"):
        site.scene.nova_guest(name)
    plain = xmlkit("status", "--connect", site.libvirtd.uri).stdout

    assert plain == on_terminal(40, "--connect", site.libvirtd.uri, term="dumb")
    assert "\n日本語  shut off  " in plain
    assert "\na       shut off  " in plain
    assert "\ne\u0301       shut off  " in plain


def test_what_a_terminal_would_obey_is_escaped(site: Site) -> None:
    """Names may be anybody's, and so may be what a header says; a row stays a line."""
    image = site.disks / "image"
    options = ("-q", "-u", "-f", "qcow2", "-b", "/x\ny", "-F", "raw")
    run("qemu-img", "create", *options, image, "1M")
    site.pool.refresh()
    site.scene.define("a\u202eb", [disk_xml(image)])
    done = xmlkit("status", "--connect", site.libvirtd.uri)

    assert "\u202e" not in done.stdout
    assert "a\\u202eb" in done.stdout
    assert f"no-image: {image} is backed by /x\\ny, which is missing\n" in done.stdout


# The unit.


def verified(unit: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["systemd-analyze", "verify", unit],
        capture_output=True,
        text=True,
        env={"PATH": os.environ["PATH"], "SYSTEMD_LOG_LEVEL": "warning"},
        check=False,
    )


def test_the_unit_is_one_that_systemd_takes(tmp_path: Path) -> None:
    """With the command where it is installed here; and the check does find faults."""
    command = Path(sys.executable).with_name("xmlkit")
    text = UNIT.read_text().replace("ExecStart=xmlkit ", f"ExecStart={command} ")
    assert f"ExecStart={command} status --warn --connect qemu:///system\n" in text
    good, bad = tmp_path / "xmlkit-status.service", tmp_path / "bad.service"
    good.write_text(text)
    bad.write_text(text.replace("Type=oneshot", "Type=nonesuch").replace("ExecStart=", "Exec="))

    done = verified(good)
    assert (0, "") == (done.returncode, done.stderr)
    assert 0 != verified(bad).returncode


def test_the_unit_ships_with_the_package() -> None:
    """Found by the same function as the schemas."""
    assert UNIT.name in os.listdir(shipped.directory("systemd"))


def test_the_units_command_does_what_it_should(site: Site) -> None:
    """Its own words, on another host."""
    site.scene.nova_guest("old")
    (line,) = re.findall("ExecStart=xmlkit (.*)", UNIT.read_text())
    done = xmlkit(*line.replace("qemu:///system", site.libvirtd.uri).split())

    assert (0, "") == (done.returncode, done.stdout)
    assert done.stderr.startswith("xmlkit: 1 of 1 domains have disks")
