"""Observing: libvirt's own documents, unaltered, of a real libvirt, and what they do not say."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import libvirt
import pytest
from chroots import Release
from lxml import etree
from scene import Scene, until

from xmlkit import Host, parse_host
from xmlkit.observe import (
    LibvirtError,
    domain_xml,
    domains_of,
    is_local,
    is_own,
    observe,
    opened,
    why_off,
    without_password,
)
from xmlkit.testing import Libvirtd, boot_sector

FIXTURES = Path(__file__).parents[1] / "fixtures"
NODE = f"test://{FIXTURES}/every-pool-type.xml"
POOL = "<pool type='dir'><name>{}</name><target><path>{}</path></target></pool>"


def xmlkit(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """The command, in a process of its own."""
    code = "from xmlkit.cli import main; main()"
    return subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True)


def observed(uri: str) -> bytes:
    with opened(uri) as connection:
        return observe(connection)


def make_pool(libvirtd: Libvirtd, name: str, files: dict[str, bytes] | None = None) -> Path:
    """A running pool of a directory with these files."""
    directory = libvirtd.directory / name
    directory.mkdir()
    for file, content in (files or {}).items():
        (directory / file).write_bytes(content)
    libvirt.open(libvirtd.uri).storagePoolCreateXML(POOL.format(name, directory))
    return directory


def test_libvirts_documents_are_unaltered() -> None:
    """Capabilities, pools and volumes stand in the file letter by letter."""
    text = observed(NODE).decode()
    connection = libvirt.openReadOnly(NODE)
    documents = [connection.getCapabilities()]
    for pool in connection.listAllStoragePools():
        documents += [pool.XMLDesc(), *(each.XMLDesc() for each in pool.listAllVolumes())]

    assert 1 + 6 + 4 == len(documents)  # capabilities, pools, volumes
    # the test driver makes new UUIDs for each connection
    assert [] == [
        document for document in documents if without_uuid(document) not in without_uuid(text)
    ]


def without_uuid(text: str) -> str:
    return "".join(line for line in text.splitlines(True) if "<uuid>" not in line)


def test_pools_and_volumes_are_sorted_by_name(libvirtd: Libvirtd) -> None:
    """libvirt has them in no order: two observations can be compared line by line."""
    for name in ("b", "a", "d", "c", "e"):
        make_pool(libvirtd, name, {"z": b"", "y": b"", "x": b"", "w": b""})
    host = parse_host(observed(libvirtd.uri))

    assert ["a", "b", "c", "d", "e"] == [pool.name for pool in host.pools]
    assert {("w", "x", "y", "z")} == {tuple(pool.by_name) for pool in host.pools}


def test_the_file_says_where_it_came_from() -> None:
    """A version of its own, the URI, libvirt's version, and nothing besides libvirt's documents."""
    root = etree.fromstring(observed(NODE))

    assert {
        "version": "1",
        "uri": NODE,
        "libversion": str(libvirt.openReadOnly(NODE).getLibVersion()),
    } == dict(root.attrib)
    assert {"capabilities", "storage"} == {each.tag for each in root}


def test_a_guest_cannot_break_the_observation(libvirtd: Libvirtd) -> None:
    """A header that it wrote to its raw disk names a backing file that no XML can hold."""
    header = struct.pack(">4sIQI", b"QFI\xfb", 2, 72, 3).ljust(72, b"\0") + b"/\x1bx"
    make_pool(libvirtd, "p", {"hostile": header.ljust(1 << 20, b"\0"), "harmless": b""})
    host = parse_host(observed(libvirtd.uri))

    assert ["harmless"] == [volume.name for volume in host.by_name["p"].volumes or ()]


def test_pools_are_observed_with_their_state(libvirtd: Libvirtd) -> None:
    """Active or not, started by itself or not; of an inactive pool no volume is known."""
    connection = libvirt.open(libvirtd.uri)
    for name in ("on", "off", "auto"):
        (libvirtd.directory / name).mkdir()
        (libvirtd.directory / name / "v").touch()
        pool = connection.storagePoolDefineXML(POOL.format(name, libvirtd.directory / name))
        if name != "off":
            pool.create()
        pool.setAutostart(name == "auto")
    host = parse_host(observed(libvirtd.uri))

    assert {
        "on": (True, False, ["v"]),
        "off": (False, False, None),
        "auto": (True, True, ["v"]),
    } == {
        pool.name: (
            pool.active,
            pool.autostart,
            None if pool.volumes is None else [volume.name for volume in pool.volumes],
        )
        for pool in host.pools
    }


def test_a_host_is_observed_as_it_is(libvirtd: Libvirtd) -> None:
    """Its driver, its version, its security models."""
    host = parse_host(observed(libvirtd.uri))
    connection = libvirt.open(libvirtd.uri)
    models = etree.fromstring(connection.getCapabilities()).findall("host/secmodel/model")

    assert ("qemu", connection.getLibVersion(), ()) == (host.driver, host.libversion, host.pools)
    assert [model.text for model in models] == list(host.security_models)


def test_links_are_observed_beside_the_documents(libvirtd: Libvirtd) -> None:
    """libvirt follows them and does not say so; only those that are volumes are named."""
    directory = make_pool(libvirtd, "p", {"file": b"x"})
    (directory / "link").symlink_to("file")
    (directory / "<&>'\"").symlink_to("file")
    (directory / "dangling").symlink_to("nowhere")
    libvirt.open(libvirtd.uri).storagePoolLookupByName("p").refresh()
    (pool,) = parse_host(observed(libvirtd.uri)).pools

    assert {"file": False, "link": True, "<&>'\"": True} == {
        volume.name: volume.link for volume in pool.volumes or ()
    }


def test_a_file_whose_name_is_not_utf_8_stops_nothing(libvirtd: Libvirtd) -> None:
    """libvirt lists it with bytes that no XML can have: it is left out, the others are there."""
    directory = make_pool(libvirtd, "p", {"file": b"x"})
    (directory / os.fsdecode(b"a\xff")).touch()
    libvirt.open(libvirtd.uri).storagePoolLookupByName("p").refresh()
    (pool,) = parse_host(observed(libvirtd.uri)).pools

    assert ["file"] == [volume.name for volume in pool.volumes or ()]


def test_a_pool_that_vanishes_meanwhile_is_left_out(libvirtd: Libvirtd) -> None:
    """Nobody can lock a host; the others are read."""
    for name in ("one", "two", "three"):
        make_pool(libvirtd, name)
    other = libvirt.open(libvirtd.uri)
    seen: list[str] = []

    def gone(name: str) -> None:
        seen.append(name)
        if len(seen) == 2:
            other.storagePoolLookupByName(name).destroy()

    with opened(libvirtd.uri) as connection:
        host = parse_host(observe(connection, gone))

    assert {"one", "two", "three"} == set(seen)
    assert {"one", "two", "three"} - {seen[1]} == set(host.by_name)


def test_observing_only_reads(libvirtd: Libvirtd) -> None:
    """The connection could not change anything if it wanted to."""
    with opened(libvirtd.uri) as connection, pytest.raises(libvirt.libvirtError, match="read only"):
        connection.storagePoolDefineXML(POOL.format("p", "/x"))


def test_a_connection_is_closed_at_the_end() -> None:
    """Whatever happens in between."""
    with pytest.raises(LibvirtError, match="test:///default"), opened("test:///default") as found:
        found.lookupByName("nobody")

    with pytest.raises(libvirt.libvirtError):
        found.getURI()


@pytest.mark.parametrize(
    "uri",
    [
        "nonsense",
        "test:///no/such/file.xml",
        "qemu+unix:///system?socket=/no/such/socket",
        "qemu+tcp://127.0.0.1:1/system",
    ],
)
def test_a_uri_that_does_not_connect_is_an_error_that_names_it(uri: str) -> None:
    """In libvirt's words."""
    with pytest.raises(LibvirtError) as raised, opened(uri):
        pass

    assert str(raised.value).startswith(f"cannot connect to {uri}: ")


@pytest.mark.parametrize(
    "uri", ["qemu+tcp://user:HIDE-ME@127.0.0.1:1/system", "esx://root:HIDE-ME@127.0.0.1/"]
)
def test_a_password_in_a_uri_does_not_show(uri: str) -> None:
    """Not in an error either; the user's name may."""
    with pytest.raises(LibvirtError) as raised, opened(uri):
        pass

    assert "HIDE-ME" not in str(raised.value)
    assert "127.0.0.1" in str(raised.value)


# Domains.


def test_a_domain_is_read_as_it_will_boot_next() -> None:
    """The persistent XML, by name or UUID: without the id that the running one has."""
    with opened("test:///default") as connection:
        live = connection.lookupByName("test")
        by_name, by_uuid = (
            domain_xml(connection, each) for each in ("test", live.UUIDString().upper())
        )

        assert "1" == etree.fromstring(live.XMLDesc()).get("id")
    assert by_name == by_uuid
    assert None is etree.fromstring(by_name).get("id")


def test_all_domains_are_listed() -> None:
    """Running or not, sorted by name."""
    with opened(NODE) as connection:
        assert ["guest"] == domains_of(connection)


@pytest.mark.parametrize("name", ["nobody", "", "6695eb01-f6a4-8304-79aa-97f2502e193e", "-"])
def test_a_domain_that_does_not_exist_is_an_error_that_names_it(name: str) -> None:
    """And not an exception of libvirt's."""
    with opened("test:///default") as connection, pytest.raises(LibvirtError) as raised:
        domain_xml(connection, name)

    assert f"no domain {name!r}" in str(raised.value)


# The command.


def test_observe_writes_what_host_reads(tmp_path: Path) -> None:
    """To stdout or to a file, the same; exit code 0 and nothing on stderr."""
    file = tmp_path / "host.xml"
    shown = xmlkit("observe", "--connect", NODE)
    written = xmlkit("observe", "--connect", NODE, "-o", file)

    assert (0, "", 0, "", "") == (
        shown.returncode,
        shown.stderr,
        written.returncode,
        written.stdout,
        written.stderr,
    )
    assert parse_host(shown.stdout).by_name == parse_host(file.read_bytes()).by_name
    assert 6 == len(parse_host(shown.stdout).pools)


def test_observe_takes_libvirts_own_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    """$LIBVIRT_DEFAULT_URI counts without --connect, and only then."""
    monkeypatch.setenv("LIBVIRT_DEFAULT_URI", NODE)

    assert 6 == len(parse_host(xmlkit("observe").stdout).pools)
    assert 1 == len(parse_host(xmlkit("observe", "--connect", "test:///default").stdout).pools)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        pytest.param((), "--connect", id="no-host"),
        pytest.param(("--connect", "nonsense:///"), "nonsense:///", id="no-connection"),
        pytest.param(("--connect", NODE, "-o", "/no/such/file"), "/no/such/file", id="no-place"),
        pytest.param(("--connect", NODE, "-o", "/"), "/", id="a-directory"),
    ],
)
def test_observe_fails_in_words(
    arguments: tuple[str, ...], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exit code 2, nothing on stdout, no traceback."""
    monkeypatch.delenv("LIBVIRT_DEFAULT_URI", raising=False)
    done = xmlkit("observe", *arguments)

    assert (2, "") == (done.returncode, done.stdout)
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_an_empty_host_has_no_pool(libvirtd: Libvirtd, tmp_path: Path) -> None:
    """It is a host; every disk of every domain lies outside its pools."""
    file = tmp_path / "host.xml"
    done = xmlkit("observe", "--connect", libvirtd.uri, "-o", file)
    diff = xmlkit("diff", "--host", file, "--format", "json", FIXTURES / "file-in-pool.xml")

    assert (0, 0) == (done.returncode, diff.returncode)
    assert () == parse_host(file.read_bytes()).pools
    (disk,) = json.loads(diff.stdout)["domains"][0]["disks"]
    assert "outside-pools" == disk["reason"]["id"]


@pytest.fixture
def crowded(libvirtd: Libvirtd) -> tuple[Libvirtd, Path]:
    """A host with 5,000 volumes."""
    return libvirtd, make_pool(libvirtd, "p", {f"v{n}": b"x" for n in range(5000)})


def test_a_host_with_5000_volumes_takes_seconds(
    crowded: tuple[Libvirtd, Path], tmp_path: Path
) -> None:
    """To observe, and to compare a domain with what was observed or with the host itself."""
    libvirtd, directory = crowded
    host, domain = tmp_path / "host.xml", tmp_path / "domain.xml"
    disks = "".join(
        f"<disk type='file'><source file='{directory}/v{n}'/><target dev='vd{letter}'/></disk>"
        for n, letter in zip(range(0, 5000, 250), "abcdefghijklmnopqrst", strict=True)
    )
    domain.write_text(
        "<domain type='qemu'><name>d</name><memory>65536</memory><os><type>hvm</type></os>"
        f"<devices>{disks}</devices></domain>"
    )
    start = time.monotonic()
    done = xmlkit("observe", "--connect", libvirtd.uri, "-o", host)
    offline = xmlkit("diff", "--host", host, domain, "--format", "json")
    online = xmlkit("diff", "--connect", libvirtd.uri, domain, "--format", "json")
    seconds = time.monotonic() - start

    assert (0, 1, 1) == (done.returncode, offline.returncode, online.returncode)
    assert 5000 == len(parse_host(host.read_bytes()).by_name["p"].by_name)
    assert offline.stdout == online.stdout
    assert [True] * 20 == [each["verified"] for each in disks_of(online.stdout)]
    assert seconds < 30  # some 3 where nothing else runs


def disks_of(text: str) -> list[dict[str, Any]]:
    disks: list[dict[str, Any]] = json.loads(text)["domains"][0]["disks"]
    return disks


def test_a_host_without_anything_reads_back() -> None:
    """The default of libvirt's test driver: its one pool, and no volumes in it."""
    host = parse_host(observed("test:///default"))

    assert ("test", ["default-pool"]) == (host.driver, list(host.by_name))
    assert isinstance(host, Host)


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("qemu+ssh://root@host/system?keyfile=/k", "qemu+ssh://root@host/system?keyfile=/k"),
        ("esx://me:HIDE@ME@host/?no_verify=1", "esx://me@host/?no_verify=1"),
        ("x://host/?token=HIDE-ME&a=b", "x://host/?token=(redacted)&a=b"),
    ],
)
def test_a_uri_is_shown_without_its_password(uri: str, shown: str) -> None:
    """But with all that is needed to connect again."""
    assert shown == without_password(uri)


@pytest.mark.parametrize(
    ("uri", "local"),
    [
        ("qemu:///system", True),
        ("qemu+unix:///system?socket=/run/x", True),
        ("qemu+ssh://host/system", False),
        ("qemu+ext:///system?command=/usr/local/bin/tunnel", False),
        ("test:///default", False),
    ],
)
def test_whose_files_libvirt_speaks_of(uri: str, local: bool) -> None:
    """What a program leads to that is named for it is another machine, as a rule."""
    assert local == is_local(uri)
    assert local == (not is_own(uri))
    assert is_own(uri.replace("/system", "/session"))


def test_why_a_guest_is_off_is_known_after_a_restart_of_libvirtd(release: Release) -> None:
    """Then libvirt says "unknown", on each version, and QEMU's log says it in libvirt's words."""
    scene = Scene(release(), sector=boot_sector(hears_button=True))
    domain = scene.nova_guest("a")
    uuid = domain.UUIDString()
    assert "unknown" == why_off(domain)
    log = scene.libvirtd.directory / "var/log/libvirt/qemu/a.log"
    for end, word in (
        (libvirt.virDomain.shutdown, "shutdown"),
        (libvirt.virDomain.destroy, "destroyed"),
        (libvirt.virDomain.managedSave, "saved"),
    ):
        scene.start(domain)
        end(domain)
        until(lambda: not domain.isActive())  # noqa: B023
        assert word == why_off(domain)
        scene.libvirtd.restart()
        scene.reopen()
        domain = scene.connection.lookupByUUIDString(uuid)
        assert [libvirt.VIR_DOMAIN_SHUTOFF, 0] == domain.state()
        assert word == why_off(domain)
    text = log.read_bytes()
    # as a loss of power leaves it
    log.write_bytes(text[: text.rindex(b"shutting down, reason=")])
    assert "lost" == why_off(domain)
    log.write_bytes(text + bytes(1 << 20))
    assert "unknown" == why_off(domain)


def test_the_log_of_this_machine_is_not_that_of_another_one(
    libvirtd: Libvirtd, tmp_path: Path
) -> None:
    """What a tunnel leads to may be anywhere, though its end here is a socket."""
    scene = Scene(libvirtd)
    domain = scene.nova_guest("a")
    scene.start(domain)
    domain.destroy()
    libvirtd.restart()
    uri = urlsplit(libvirtd.uri)
    (path,) = parse_qs(uri.query)["socket"]
    tunnel = str(tmp_path / "tunnel")
    code = (
        "import os, socket, subprocess, sys\n"
        "here = socket.socket(socket.AF_UNIX); here.bind(sys.argv[1]); here.listen()\n"
        "print(flush=True)\n"
        "while True:\n"
        "    near, far = here.accept()[0], socket.socket(socket.AF_UNIX)\n"
        "    far.connect(sys.argv[2])\n"
        "    for a, b in ((near, far), (far, near)):\n"
        "        subprocess.Popen(['cat'], stdin=a, stdout=b)\n"
    )
    # it sees a log of that name, which may be of any guest
    inside = ["nsenter", "--mount", f"--target={libvirtd.pid}"]
    words = [*inside, sys.executable, "-c", code, tunnel, path]
    with subprocess.Popen(words, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        try:
            with opened(libvirtd.uri) as straight, opened(libvirtd.uri.replace(path, tunnel)) as by:
                assert "destroyed" == why_off(straight.lookupByName("a"))
                assert "unknown" == why_off(by.lookupByName("a"))
        finally:
            process.kill()


# Ctrl-C at any moment of a call that fails, over and over.
INTERRUPTED = """
import contextlib, os, signal, threading, time
import libvirt
from xmlkit.observe import opened

with opened("test:///default") as connection:
    for number in range(50):
        timer = threading.Timer(number / 20000, os.kill, (os.getpid(), signal.SIGINT))
        try:
            timer.start()
            while True:
                with contextlib.suppress(libvirt.libvirtError):
                    connection.lookupByName("none")
        except KeyboardInterrupt:
            timer.join()
print("each was heard")
"""


def test_ctrl_c_within_a_call_that_fails_is_heard() -> None:
    """libvirt's handler of errors runs within the call: raised there it would be a SystemError."""
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED], capture_output=True, text=True, timeout=120
    )
    assert ("each was heard\n", "", 0) == (done.stdout, done.stderr, done.returncode)
