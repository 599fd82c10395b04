"""xmlkit hook as libvirt calls it: a process with the XML on stdin, where a guest waits for it.

Rules
- Whatever goes wrong, stdout has what came or nothing, the exit code is 0 and the reason is logged;
  with --strict it is 1 and stdout has nothing.
- Times are limits with much room, for a busy machine; how long a cold run takes is printed only.
"""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

UUID = "3f2c1c8e-0d4b-4a7e-9b1a-6d5f0e9c7a11"
CODE = "from xmlkit.cli import main; main()"
BEGIN = ("guest", "migrate", "begin", "-")
SECONDS = 120.0  # for what takes one on an idle machine
XML = """\
<domain type='kvm'>
  <name>guest</name>
  <uuid>{uuid}</uuid>
  <devices>
    <disk type='file'>
      <driver name="qemu" type='raw'/>
      <source file='{path}'/>
      <target dev='vda'/>
    </disk>
  </devices>
</domain>
"""
HOST = """\
<host version='1' uri='qemu:///system' libversion='9000000'>
  <storage active='yes' autostart='yes'>
    <pool type='dir'><name>disks</name><target><path>{pool}</path></target></pool>
    {volumes}
  </storage>
</host>
"""
VOLUME = """\
<volume type='file'><name>{name}</name>
<target><path>{pool}/{name}</path><format type='raw'/></target></volume>
"""


class Place:
    """A destination: an image with two names, one of them in a pool, and the host file of it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.image = directory / "instances" / UUID / "disk"
        self.image.parent.mkdir(parents=True)
        self.image.write_bytes(bytes(512))
        self.volume = directory / "disks" / f"{UUID}_disk"
        self.volume.parent.mkdir()
        self.volume.hardlink_to(self.image)
        self.xml = XML.format(uuid=UUID, path=self.image).encode()
        self.rewritten = (
            self.xml.replace(b"type='file'", b"type='volume'")
            .replace(b"file=", b"pool='disks' volume=")
            .replace(bytes(self.image), self.volume.name.encode())
        )
        self.host = directory / "host.xml"
        self.write_host(self.volume.name)

    def write_host(self, *names: str) -> None:
        """The host file, whose pool lists these volumes."""
        pool = self.volume.parent
        listed = "".join(VOLUME.format(name=name, pool=pool) for name in names)
        self.host.write_text(HOST.format(pool=pool, volumes=listed))
        self.host.chmod(0o644)

    def command(
        self, *options: str, arguments: tuple[str, ...] = BEGIN, host: Path | None = None
    ) -> list[str]:
        """The command line, as the hook's script makes it."""
        python = [sys.executable, "-c", CODE]
        return [*python, "hook", "--host", str(host or self.host), *options, "--", *arguments]

    def run(
        self,
        *options: str,
        xml: bytes | None = None,
        arguments: tuple[str, ...] = BEGIN,
        host: Path | None = None,
    ) -> subprocess.CompletedProcess[bytes]:
        """What comes of it; it has a minute, where the test sets no other."""
        options = options if "--timeout" in options else ("--timeout", "60", *options)
        return subprocess.run(
            self.command(*options, arguments=arguments, host=host),
            input=self.xml if xml is None else xml,
            capture_output=True,
            timeout=SECONDS,
            check=False,
        )

    def passes(self, *options: str, xml: bytes | None = None, host: Path | None = None) -> str:
        """What is said when the XML passes through, and is refused with --strict alike."""
        came = self.xml if xml is None else xml
        done = self.run(*options, xml=xml, host=host)
        assert (0, came) == (done.returncode, done.stdout), done.stderr
        strict = self.run(*options, "--strict", xml=xml, host=host)
        assert (1, b"") == (strict.returncode, strict.stdout), strict.stderr
        assert done.stderr == strict.stderr
        assert b"Traceback" not in done.stderr
        return done.stderr.decode()


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """A destination of its own."""
    return Place(tmp_path)


# What it prints.


def test_it_prints_the_domain_on_volumes(place: Place) -> None:
    """Exit code 0, strict or not; what it did is told on stderr with the guest's name."""
    begun = time.monotonic()
    done = place.run()
    print(f"xmlkit hook, cold: {time.monotonic() - begun:.2f} s")
    strict = place.run("--strict")

    assert (0, place.rewritten) == (done.returncode, done.stdout)
    assert b"xmlkit hook: guest: on volumes now: vda\n" == done.stderr
    assert (0, place.rewritten) == (strict.returncode, strict.stdout)


@pytest.mark.parametrize(
    "arguments",
    [
        *(("guest", *rest.split()) for rest in ("prepare begin -", "start begin -")),
        *(
            ("guest", *rest.split())
            for rest in ("stopped end -", "release end -", "attach begin -")
        ),
        *(("guest", *rest.split()) for rest in ("restore begin -", "reconnect begin -")),
        ("guest", "migrate", "end", "-"),
        ("guest", "begin", "migrate", "-"),
        ("migrate", "begin", "-", "-"),
        ("--strict", "stopped", "end", "-"),
    ],
    ids=" ".join,
)
def test_for_all_other_operations_it_does_nothing(place: Place, arguments: tuple[str, ...]) -> None:
    """It prints nothing and ends with 0, even if its host file is missing: guests start and end."""
    place.host.unlink()
    done = place.run("--strict", arguments=arguments)

    assert (0, b"", b"") == (done.returncode, done.stdout, done.stderr)


@pytest.mark.parametrize("arguments", [(), ("guest",), ("guest", "migrate")], ids=" ".join)
def test_a_script_that_forgets_its_arguments_is_told(
    place: Place, arguments: tuple[str, ...]
) -> None:
    """libvirt gives four: a hook that does nothing must not do so unseen, nor with --strict."""
    for options, code in (((), 0), (("--strict",), 1)):
        done = place.run(*options, arguments=arguments)
        assert (code, b"") == (done.returncode, done.stdout)
        assert b'"$@"' in done.stderr
        assert 1 == done.stderr.count(b"\n")


@pytest.mark.parametrize("option", ["--strct", "-s", "--timeout=soon"])
def test_an_option_that_is_none_is_told(place: Place, option: str) -> None:
    """Exit code 2: who wrote --strict wrongly does not get migrations that pass through."""
    done = place.run(option)

    assert (2, b"") == (done.returncode, done.stdout)
    assert b"Error: " in done.stderr


def test_other_operations_do_not_wait_for_stdin(place: Place) -> None:
    """Whoever calls it may keep stdin open: nothing is read."""
    reading, writing = os.pipe()
    try:
        command = place.command(arguments=("guest", "started", "begin", "-"))
        done = subprocess.run(
            command, stdin=reading, capture_output=True, timeout=SECONDS, check=False
        )
    finally:
        os.close(reading)
        os.close(writing)

    assert (0, b"") == (done.returncode, done.stdout)


@pytest.mark.parametrize("name", ["--strict", "-h", "--host", "-", "a b", "ü"])
def test_a_guest_may_have_any_name(place: Place, name: str) -> None:
    """Behind `--` it is no option, whatever it looks like."""
    done = place.run(arguments=(name, *BEGIN[1:]))

    assert (0, place.rewritten) == (done.returncode, done.stdout)
    assert f"xmlkit hook: {name}: on volumes now: vda\n" == done.stderr.decode()


def test_a_name_cannot_write_on_the_operators_terminal(place: Place) -> None:
    """What a terminal would obey is escaped where it is logged."""
    done = place.run(arguments=("\x1b[2Jguest", *BEGIN[1:]))

    assert b"xmlkit hook: \\x1b[2Jguest: on volumes now: vda\n" == done.stderr


def test_a_name_that_is_no_text_is_told_in_escapes(place: Place) -> None:
    """An argument is bytes."""
    done = place.run(arguments=(os.fsdecode(b"a\xff"), *BEGIN[1:]))

    assert (0, place.rewritten) == (done.returncode, done.stdout)
    assert b"xmlkit hook: a\\udcff: on volumes now: vda\n" == done.stderr


def test_nobody_has_to_read_what_it_says(place: Place) -> None:
    """A stderr that is closed, or whose reader has gone, is no reason to fail."""
    for script in ('exec "$@" 2>&-', '"$@" 2>/dev/full'):
        command = ["sh", "-c", script, "sh", *place.command("--timeout", "60")]
        # where coverage is measured it would write to stderr as well
        environment = {k: v for k, v in os.environ.items() if not k.startswith("COV")}
        done = subprocess.run(
            command,
            input=place.xml,
            capture_output=True,
            timeout=SECONDS,
            check=False,
            env=environment,
        )

        assert (0, place.rewritten) == (done.returncode, done.stdout)


# What passes through.


@pytest.mark.parametrize("full", ["/dev/full", "closed"])
def test_a_stdout_that_takes_nothing_leaves_the_xml_as_it_is(place: Place, full: str) -> None:
    """libvirt takes no word for no change; with --strict it is a refusal."""
    script = '"$@" >&-' if full == "closed" else f'"$@" >{full}'
    for code, options in ((0, ()), (1, ("--strict",))):
        command = ["sh", "-c", script, "sh", *place.command("--timeout", "60", *options)]
        done = subprocess.run(
            command, input=place.xml, stderr=subprocess.PIPE, timeout=SECONDS, check=False
        )

        assert code == done.returncode
        assert done.stderr.startswith(b"xmlkit hook: guest: cannot write to stdout: ")
        assert 1 == done.stderr.count(b"\n")


def test_half_of_an_xml_refuses_the_migration(place: Place) -> None:
    """It cannot be taken back, and libvirt is not to make anything of it."""
    for options in ((), ("--strict",)):
        printed = place.directory / "stdout"
        with printed.open("wb") as stdout:
            done = subprocess.run(
                place.command("--timeout", "60", *options),
                input=place.xml,
                stdout=stdout,
                stderr=subprocess.PIPE,
                timeout=SECONDS,
                check=False,
                # what it covers would be a larger file
                env={k: v for k, v in os.environ.items() if not k.startswith("COV")},
                preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100)),
            )

        assert 1 == done.returncode
        assert place.rewritten[:100] == printed.read_bytes()
        assert (
            b"xmlkit hook: guest: 100 bytes were written to stdout: File too large\n" == done.stderr
        )


DAMAGED = {
    "nothing": b"",
    "no XML": b"\x00\xff<",
    "a pool": b"<pool type='dir'/>\n",
    "latin-1": b"<domain><name>\xe9</name></domain>",
}


@pytest.mark.parametrize("xml", DAMAGED.values(), ids=DAMAGED)
def test_what_cannot_be_read_passes_through(place: Place, xml: bytes) -> None:
    """Byte for byte, with the reason; with --strict it is refused."""
    said = place.passes(xml=xml)

    assert said.startswith("xmlkit hook: guest: ")
    assert 1 == said.count("\n")


def test_a_disk_without_its_volume_passes_through(place: Place) -> None:
    """The reason has the disk and an id to look up."""
    place.write_host()

    assert place.passes().startswith("xmlkit hook: guest: vda: no-volume: ")


def test_strict_is_all_or_nothing(place: Place) -> None:
    """Of two disks one has no volume: it keeps its path, or with --strict both are refused."""
    second = b"<disk type='file'><source file='/srv/x'/><target dev='vdb'/></disk>\n  </devices>"
    xml = place.xml.replace(b"</devices>", second)
    done, strict = place.run(xml=xml), place.run("--strict", xml=xml)

    expected = place.rewritten.replace(b"</devices>", second)
    assert (0, expected) == (done.returncode, done.stdout)
    assert (1, b"") == (strict.returncode, strict.stdout)
    told, *now = done.stderr.splitlines()
    assert told.startswith(b"xmlkit hook: guest: vdb: outside-pools: ")
    assert [b"xmlkit hook: guest: on volumes now: vda"] == now
    assert [told] == strict.stderr.splitlines()


def test_a_volume_that_is_another_image_is_not_taken(place: Place) -> None:
    """A copy has the right name and is listed, and is still not what the guest writes to."""
    place.volume.unlink()
    place.volume.write_bytes(place.image.read_bytes())

    assert place.passes().startswith("xmlkit hook: guest: vda: other-image: ")


def test_xml_that_is_too_large_is_left_to_libvirt(place: Place) -> None:
    """Nothing is printed, which leaves the XML as it is; with --strict it is refused."""
    xml = b"<domain>" + b" " * (17 << 20) + b"</domain>"
    done, strict = place.run(xml=xml), place.run("--strict", xml=xml)

    assert (0, b"") == (done.returncode, done.stdout)
    assert (1, b"") == (strict.returncode, strict.stdout)
    assert b"xmlkit hook: guest: the XML is larger than 16 MiB\n" == done.stderr == strict.stderr


def test_closed_stdin_is_no_xml(place: Place) -> None:
    """It is told, and nothing is printed."""
    command = ["sh", "-c", 'exec "$@" <&-', "sh", *place.command("--timeout", "60")]
    done = subprocess.run(command, capture_output=True, timeout=SECONDS, check=False)

    assert (0, b"") == (done.returncode, done.stdout)
    assert done.stderr.startswith(b"xmlkit hook: guest: ")
    assert b"Traceback" not in done.stderr


# The host file.


def another_owner(host: Path) -> None:
    os.chown(host, 65534, -1)


def a_link(host: Path) -> None:
    host.rename(host.with_name("real.xml"))
    host.symlink_to("real.xml")


def a_directory(host: Path) -> None:
    host.unlink()
    host.mkdir()


def a_fifo(host: Path) -> None:
    host.unlink()
    os.mkfifo(host, 0o600)


BAD_HOSTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (Path.unlink, "No such file"),
    "not root's": (another_owner, "chown root, chmod go-w"),
    "group may write": (lambda host: host.chmod(0o664), "chown root, chmod go-w"),
    "all may write": (lambda host: host.chmod(0o646), "chown root, chmod go-w"),
    "a link": (a_link, "symbolic link"),
    "a directory": (a_directory, "is not a regular file"),
    "a fifo": (a_fifo, "is not a regular file"),
    "empty": (lambda host: host.write_bytes(b""), ""),
    "no XML": (lambda host: host.write_text("{}"), ""),
    "a domain": (lambda host: host.write_text("<domain/>"), "xmlkit observe"),
    "of another version": (lambda host: host.write_text("<host version='2'/>"), "version '2'"),
}


@pytest.mark.parametrize(("spoil", "expected"), BAD_HOSTS.values(), ids=BAD_HOSTS)
def test_a_host_file_that_cannot_be_trusted_is_not_used(
    place: Place, spoil: Callable[[Path], object], expected: str
) -> None:
    """Who writes it decides on which image a guest runs; it must be root's alone."""
    spoil(place.host)
    said = place.passes()

    assert said.startswith("xmlkit hook: guest: ")
    assert expected in said
    assert 1 == said.count("\n")


# The time limit.


def late(place: Place, feed: bytes, *options: str) -> tuple[int, bytes, bytes, float]:
    """Run it with a pipe on stdin that gets `feed` again and again and never ends."""
    process = subprocess.Popen(
        place.command("--timeout", "1", *options),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    begun = time.monotonic()
    try:
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(place.xml)
            process.stdin.flush()
            while feed and process.poll() is None and time.monotonic() < begun + SECONDS:
                process.stdin.write(feed)
                process.stdin.flush()
                time.sleep(0.02)
        code = process.wait(SECONDS)
        return code, process.stdout.read(), process.stderr.read(), time.monotonic() - begun
    finally:
        process.kill()
        process.wait()
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()
        process.stdout.close()
        process.stderr.close()


@pytest.mark.parametrize("feed", [b"", b" "], ids=["silent", "dripping"])
@pytest.mark.parametrize("options", [(), ("--strict",)], ids=["plain", "strict"])
def test_stdin_that_never_ends_ends_with_the_time(
    place: Place, feed: bytes, options: tuple[str, ...]
) -> None:
    """No half of a document is printed."""
    code, out, said, _ = late(place, feed, *options)

    assert (len(options), b"") == (code, out)
    assert b"xmlkit hook: guest: it took longer than 1 s\n" == said


def test_a_host_file_that_takes_too_long_ends_with_the_time(place: Place) -> None:
    """Its 200 MiB are not read to the end, though a parser hears no signal; the XML goes on."""
    many = [f"{number:032}" for number in range(1_000_000)]
    place.write_host(*many)
    assert 150 << 20 < place.host.stat().st_size < 256 << 20
    for options, expected in (((), (0, place.xml)), (("--strict",), (1, b""))):
        done = place.run("--timeout", "2", *options)

        assert expected == (done.returncode, done.stdout)
        assert b"xmlkit hook: guest: it took longer than 2 s\n" == done.stderr


def test_a_host_file_that_is_too_large_is_not_read(place: Place) -> None:
    """It is told so, and the XML goes on."""
    with place.host.open("ab") as host:
        host.truncate(257 << 20)

    assert "larger than 256 MiB" in place.passes()


@pytest.mark.parametrize("number", ["SIGSEGV", "SIGKILL"])
def test_a_crash_of_the_parser_is_not_worth_a_guest(place: Place, number: str) -> None:
    """The work is a child's: when it dies, as for want of memory, the XML passes through."""
    crash = f"import os, signal; os.kill(os.getpid(), signal.{number})"
    code = f"import xmlkit.hook\ndef incoming(*_):\n    {crash}\nxmlkit.hook.incoming = incoming"
    command = place.command("--timeout", "60")
    command[2] = f"{code}\n{CODE}"
    done = subprocess.run(
        command, input=place.xml, capture_output=True, timeout=SECONDS, check=False
    )

    assert (0, place.xml) == (done.returncode, done.stdout)
    ended = -signal.Signals[number]
    assert f"xmlkit hook: guest: internal error: the child ended with {ended}\n" == (
        done.stderr.decode()
    )


def test_an_error_of_its_own_is_told_without_a_traceback(place: Place) -> None:
    """Whatever it is, the XML passes through."""
    code = "import xmlkit.hook\ndef incoming(*_):\n    1 / 0\nxmlkit.hook.incoming = incoming"
    command = place.command("--timeout", "60")
    command[2] = f"{code}\n{CODE}"
    done = subprocess.run(
        command, input=place.xml, capture_output=True, timeout=SECONDS, check=False
    )

    assert (0, place.xml) == (done.returncode, done.stdout)
    assert b"internal error: ZeroDivisionError: division by zero\n" in done.stderr
    assert b"Traceback" not in done.stderr


# The log.


def test_what_it_says_stands_in_the_systems_log(place: Place) -> None:
    """libvirt drops the stderr of a hook that succeeds. Facility daemon, level notice."""
    devices = place.directory / "dev"
    devices.mkdir()
    os.mknod(devices / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    handle = os.open(devices, os.O_RDONLY)
    log = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    try:
        # a short name: a socket's may have 107 bytes
        log.bind(f"/proc/self/fd/{handle}/log")
        log.settimeout(SECONDS)
        bound = 'mount --bind "$1" /dev; shift; exec "$@"'
        shell = ["unshare", "--mount", "sh", "-e", "-c", bound, "sh", str(devices)]
        done = subprocess.run(
            [*shell, *place.command("--timeout", "60")],
            input=place.xml,
            capture_output=True,
            timeout=SECONDS,
            check=False,
        )
        received = log.recv(4096)
    finally:
        log.close()
        os.close(handle)

    assert (0, place.rewritten) == (done.returncode, done.stdout), done.stderr
    assert received.startswith(b"<29>")  # daemon (3 << 3) and notice (5)
    assert received.rstrip(b"\0").endswith(b"xmlkit: hook: guest: on volumes now: vda")
    assert b"xmlkit hook: guest: on volumes now: vda\n" == done.stderr


# What it needs.


def test_it_imports_no_libvirt(place: Place) -> None:
    """Neither the process nor its child: a hook that calls libvirt waits for itself."""
    command = place.command("--timeout", "60")
    command[2] = (
        "import os, sys\n"
        "end = os._exit\n"
        "def ends(code):\n"
        "    print(os.getpid(), *sorted(sys.modules), file=sys.stderr, flush=True)\n"
        "    end(code)\n"
        "os._exit = ends\n"
        "from xmlkit.cli import main\n"
        "try:\n"
        "    main()\n"
        "finally:\n"
        "    print(os.getpid(), *sorted(sys.modules), file=sys.stderr)\n"
    )
    done = subprocess.run(
        command, input=place.xml, capture_output=True, timeout=SECONDS, check=False
    )
    lines = [line.split() for line in done.stderr.decode().splitlines()]
    seen = {line[0]: set(line[1:]) for line in lines if line[0].isdecimal()}

    assert (0, place.rewritten) == (done.returncode, done.stdout), done.stderr
    assert 2 == len(seen)
    assert any("xmlkit.hook" in modules for modules in seen.values())
    unwanted = {"libvirt", "libvirtmod", "rich", "jinja2", "xmlschema", "xmlkit.observe"}
    assert [set(), set()] == [modules & unwanted for modules in seen.values()]


def test_it_leaves_no_process_behind(place: Place) -> None:
    """Neither after the end of its work nor after the end of its time."""
    place.write_host(*(f"{number:032}" for number in range(300_000)))
    process = subprocess.Popen(
        place.command("--timeout", "0.3"),
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    process.communicate(place.xml, SECONDS)

    assert 0 == process.returncode
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)
