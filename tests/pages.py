"""The blocks of the documentation, and a host on which they are run.

Rules
- A block is fenced and says its language. What CONTRIBUTING.md says of each is what is done.
- A comment before a block may say what it takes for granted (`first:`), or where it is to be
  written (`file:`, on the other host behind a `b:`). Any other block of a shell or of Python
  is run as it stands, by a shell as root; no comment keeps it from that.
- The host is a private libvirtd whose /var/lib and /srv are its own, so that the paths of a page
  are real ones. Words that stand for a name are replaced by one (`WORDS`).
- Packages of Debian come from the real archive, with lists of apt that are the tests' own.
"""

from __future__ import annotations

import os
import platform
import pty
import re
import select
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

from scene import DOMAIN, disk_xml
from sources import apt_config, locked, run

from xmlkit.testing import Libvirtd, boot_sector

ROOT = Path(__file__).parents[1]
UUID = "3f2c1c8e-0d4b-4a7e-9b1a-6d5f0e9c7a11"
INSTANCES = Path("/var/lib/nova/instances")
BASE = INSTANCES / "_base" / "0123456789abcdef0123456789abcdef01234567"
ID = re.compile(r"[0-9]{8}-[0-9]{6}-[0-9a-f]{4}")
WORDS = {
    r"\bDOMAIN\b": "instance-00000001",
    r"\bUUID(?=_|\b)": UUID,
    r"\bDESTINATION\b": "b",
    rf"{ID.pattern}|(?<= )ID\b": "$(newest)",
    r"\b[0-9]{8}-[0-9]{4}\b(?!-)": "$(date -u -d '1 hour ago' +%Y%m%d-%H%M)",
    "/opt/xmlkit/bin/xmlkit": "$PROGRAM",
    # the two hosts of the tests share a disk, which libvirt does not take for shared storage
    "virsh migrate --live": "virsh migrate --unsafe --live",
}
SECONDS = 540.0

_FENCE = re.compile(
    r"((?:^ *<!-- (?:first|file): (?:(?!-->).)* -->\n+)*)^( *)```(\S*)\n(.*?)^\2```$",
    re.M | re.S,
)
_NOTE = re.compile(r"<!-- (first|file): (.*?) -->", re.S)
_PROMPT = re.compile(r"^[$#] ((?:[^\n]*\\\n)*[^\n]*)\n((?:(?![$#] )[^\n]*\n)*)", re.M)

# A command that fails ends the page, but for an exit code 1 that says what was found.
_BEGIN = r"""
set -o pipefail
found() {
    case $1,$2 in
        1,xmlkit\ diff* | 1,xmlkit\ compare* | 1,xmlkit\ status* | 1,xmlkit\ cache* | \
            1,xmlkit\ validate*) ;;
        *) echo "exit code $1: $2" >&2; exit "$1" ;;
    esac
}
trap 'found "$?" "$BASH_COMMAND"' ERR
newest() { ls /var/lib/xmlkit/*.jsonl | sed 's|.*/\(.*\)\.jsonl|\1|' | sort | tail -n 1; }
"""
_HOST = r"""
set -e
uuid=$1 base=$2
for name in stdin:0 stdout:1 stderr:2; do ln -s "/proc/self/fd/${name#*:}" "/dev/${name%:*}"; done
mkdir -p /var/lib/nova/instances/_base /var/lib/nova/instances/disks "/var/lib/nova/instances/$uuid"
mkdir -p /srv/images
cp sector "$base"
truncate --size 1M "$base"
qemu-img create -q -f qcow2 -b "$base" -F raw "/var/lib/nova/instances/$uuid/disk"
virsh -q define guest.xml
for uri in qemu:///system "$3"; do
    virsh -q -c "$uri" pool-define-as nova-disks-pool dir --target /var/lib/nova/instances/disks
    virsh -q -c "$uri" pool-start nova-disks-pool
    virsh -q -c "$uri" pool-autostart nova-disks-pool
done
virsh dumpxml --inactive --security-info instance-00000001 >guest.xml
cp guest.xml domain.xml
xmlkit observe --connect qemu:///system -o host.xml
cp host.xml DEST.xml
"""
# To the other host, whatever its name: libvirt's client wants a line to its socket, and a command
# is run where that host is, by its mounts. Arguments of this program: the socket, then ssh's.
_SSH = r"""
import os, re, socket, sys, threading
path, *words = sys.argv[1:]
line = " ".join(words)
if "libvirt-sock" not in line:
    command = re.sub(r"^\S+ ", "", line)
    enter = ("nsenter", f"--mount=/proc/self/fd/{os.environ['OTHER']}", "--", "env")
    os.execvp("nsenter", [*enter, f"--chdir={os.getcwd()}", "sh", "-c", command])
peer = socket.socket(socket.AF_UNIX)
peer.connect(path)
def send():
    while data := os.read(0, 65536):
        peer.sendall(data)
    peer.shutdown(socket.SHUT_WR)
threading.Thread(target=send, daemon=True).start()
while data := peer.recv(65536):
    os.write(1, data)
"""
# What is closed to everyone but root is open here, so that another user can start the command.
_OPEN = r"""
open() {
    mkdir -m 755 "upper-$1"
    mkdir "work-$1"
    mount -t overlay -o "lowerdir=$2,upperdir=upper-$1,workdir=work-$1" overlay "$2"
}
echo "nova:x:4200:4200::/var/lib/nova:/bin/sh" >>/etc/passwd
echo "nova:x:4200:" >>/etc/group
"""
_PYTHON = f"""
import logging as log
import libvirt
connection = libvirt.open("qemu:///system")
uuid = "{UUID}"
"""


@dataclass(frozen=True)
class Block:
    """One block of a page: its line, language and text; what is done first; where it is written."""

    page: str
    line: int
    language: str
    text: str
    first: tuple[str, ...] = ()
    file: str | None = None

    @property
    def shown(self) -> list[tuple[str, str]]:
        """Of a console: each command and what is printed below it."""
        return [
            (line.replace("\\\n", " "), below.strip("\n"))
            for line, below in _PROMPT.findall(f"{self.text}\n")
        ]

    @property
    def runs(self) -> bool:
        if self.language == "yaml":
            return "- run: " in self.text
        return self.language in ("sh", "console", "python") and self.file is None


def blocks(page: Path) -> list[Block]:
    """The blocks of a page in their order."""
    text = page.read_text()
    found = []
    for match in _FENCE.finditer(text):
        notes = _NOTE.findall(match[1])
        files = [said for kind, said in notes if kind == "file"]
        found.append(
            Block(
                *(page.name, text.count("\n", 0, match.start(3)) + 1, match[3]),
                textwrap.dedent(match[4]),
                tuple(said for kind, said in notes if kind == "first"),
                files[0] if files else None,
            )
        )
    return found


def replaced(text: str) -> str:
    """The words of a page, as they are on the host."""
    for word, real in WORDS.items():
        text = re.sub(word, real, text)
    return text


def codename() -> str:
    """The release of Debian that this machine is, else the oldest that is supported."""
    values = platform.freedesktop_os_release()
    return values["VERSION_CODENAME"] if values["ID"] == "debian" else "bookworm"


class PageHost:
    """The host that the pages are written for: one guest of Nova's, off, and the pool.

    There is another host, empty but for the same pool, that sees the same files; `ssh` leads to it.
    """

    def __init__(self, start: Callable[..., Libvirtd], directory: Path) -> None:
        own = directory / "own"
        for name in ("lib", "srv"):
            (own / name).mkdir(parents=True)
        for each in (directory, own):
            each.chmod(0o755)
        places = {Path("/var/lib"): own / "lib", Path("/srv"): own / "srv"}
        options: dict[str, Any] = {
            "places": places,
            "remember_owner": False,
            "private_network": False,
        }
        programs = directory / "bin"
        programs.mkdir()
        own_path = os.pathsep.join((str(programs), os.environ["PATH"]))
        with patch.dict(os.environ, PATH=own_path):  # hooks have that of their libvirtd
            self.libvirtd = start(name="a", **options)
            self.other = start(name="b", **options)
        for host in (self.libvirtd, self.other):
            (host.directory / "etc/hosts").write_text("127.0.0.1 localhost a b\n")
        self.work = directory / "work"
        self.work.mkdir()
        program = programs / "xmlkit"
        code = "from xmlkit.cli import main; main()"
        program.write_text(f"#!/bin/sh\nexec {sys.executable} -c '{code}' \"$@\"\n")
        program.chmod(0o755)
        ssh = programs / "ssh"
        (programs / "ssh.py").write_text(_SSH)
        sock = self.other.directory / "run/libvirt/libvirt-sock"
        ssh.write_text(f'#!/bin/sh\nexec {sys.executable} {programs}/ssh.py {sock} "$@"\n')
        ssh.chmod(0o755)
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("LIBVIRT_", "XMLKIT_"))}
        self.environment = kept | {
            "GIT_CONFIG_GLOBAL": str(self.work / "gitconfig"),
            "PATH": own_path,
            "TERM": "dumb",
            "NO_COLOR": "1",
            "PROGRAM": str(program),
            "PROGRAMS": str(Path(sys.executable).parent),
            "APT_CONFIG": str(self.work / "apt.conf"),
            "SYSTEMD_OFFLINE": "1",  # the machine's systemd is not asked
            "ANSIBLE_HOME": str(self.work / "ansible-home"),
            "ANSIBLE_REMOTE_TMP": str(self.work / "ansible-home"),
            "ANSIBLE_CONFIG": str(self.work / "ansible.cfg"),
            "ANSIBLE_PYTHON_INTERPRETER": sys.executable,
            "ANSIBLE_COLLECTIONS_PATH": str(self.work / "collections"),
        }
        for name in ("ansible", "fixtures", "schemas", "templates", "systemd", "xmlkit"):
            (self.work / name).symlink_to(ROOT / name)
        for name in ("pyproject.toml", "README.md", "LICENSE"):
            (self.work / name).symlink_to(ROOT / name)
        (self.work / "ansible.cfg").touch()
        (self.work / "sector").write_bytes(boot_sector(hears_button=True))
        log = self.libvirtd.directory / "guest.log"
        guest = DOMAIN.format(
            name="instance-00000001",
            uuid=UUID,
            log=log,
            disks=disk_xml(INSTANCES / UUID / "disk").replace("'/>", "' cache='none'/>", 1),
        )
        (self.work / "guest.xml").write_text(guest)
        self._run(["bash", "-c", _HOST, "host", UUID, str(BASE), self.other.uri])

    def _run(self, command: Sequence[str]) -> None:
        done = subprocess.run(
            self._inside(command),
            cwd=self.work,
            env=self.environment,
            capture_output=True,
            text=True,
        )
        assert 0 == done.returncode, done.stderr

    def _inside(self, command: Sequence[str]) -> list[str]:
        """Where libvirtd and its guests are, with the network of the machine."""
        enter = ["nsenter", "--target", str(self.libvirtd.daemon), "--mount", "--pid", "--ipc"]
        # not by nsenter's --wd: that would be the directory on the mount of outside
        return [*enter, "--uts", "--", "env", f"--chdir={self.work}", *command]

    def carry_out(self, page: Sequence[Block]) -> dict[tuple[int, int], str]:
        """Run the blocks of a page one after the other, in one shell; y is typed when it asks.

        Returns what each command of a console printed, by the line of its block and its number:
        what root typed (`#`) with its stderr. A command that fails fails the test.
        """
        lines = [_BEGIN, *self._prepared(page)]
        for block in page:
            if not block.runs:
                continue
            lines += [replaced(each) for each in block.first]
            lines.append(f"echo '--- {block.page}:{block.line}' >&2")
            if block.language == "python":
                lines.append(f"{sys.executable} - <<'END'\n{_PYTHON}\n{block.text}END")
            elif block.language == "yaml":  # of a workflow
                lines += re.findall(r"^- run: (.*)$", block.text, re.M)
            elif block.language == "sh":
                lines.append(replaced(block.text))
            else:
                root = block.text.startswith("# ")
                for number, (line, _) in enumerate(block.shown):
                    out = f"out-{block.line}-{number}"
                    lines.append(f"{replaced(line)} >{out} {'2>&1' if root else ''}")
        script = self.work / "page.sh"
        script.write_text("\n".join([*lines, ":"]) + "\n")
        self._on_terminal(self._inside(["bash", str(script)]))
        found = {}
        for path in self.work.glob("out-*"):
            _, at, nth = path.name.split("-")
            found[int(at), int(nth)] = path.read_text().strip("\n")
        return found

    def _prepared(self, page: Sequence[Block]) -> list[str]:
        """Files, and what only some pages need; lines for the shell."""
        for block in page:
            if block.file and block.file.startswith("b:/etc/libvirt/"):
                path = self.other.directory / block.file.removeprefix("b:/")
                path.parent.mkdir(exist_ok=True)
                path.write_text(replaced(block.text))
                path.chmod(0o755)
                self.other.restart()  # it looks for hooks when it starts
            elif block.file:
                (self.work / Path(block.file).name).write_text(replaced(block.text))
        text = "\n".join(block.text for block in page)
        if "apt-get " in text:
            config = apt_config(codename(), "deb")
            with locked(config.parent / ".lock"):
                run("apt-get", "--quiet", f"--config-file={config}", "update")
            own = f'{config.read_text()}Dir::State::Status "/dev/null";\n'
            (self.work / "apt.conf").write_text(own)
        lines = []
        if "runuser " in text:
            # where the interpreter is, and what it imports
            used = [Path(sys.executable), Path(sys.executable).resolve(), ROOT]
            parents = {parent for path in used for parent in path.parents}
            closed = [path for path in sorted(parents) if not path.stat().st_mode & 0o001]
            lines += [_OPEN, *(f"open {number} {path}" for number, path in enumerate(closed))]
        return lines

    def _on_terminal(self, command: Sequence[str]) -> None:
        primary, secondary = pty.openpty()
        other = os.open(f"/proc/{self.other.daemon}/ns/mnt", os.O_RDONLY)
        with (self.work / "stdout").open("wb") as stdout:
            process = subprocess.Popen(
                command,
                stdin=secondary,
                stdout=stdout,
                stderr=secondary,
                cwd=self.work,
                env=self.environment | {"OTHER": str(other)},
                pass_fds=(other,),
                start_new_session=True,
            )
        os.close(secondary)
        os.close(other)
        said = b""
        deadline = time.monotonic() + SECONDS
        try:
            with open(primary, "r+b", buffering=0):
                while time.monotonic() < deadline:
                    if not select.select([primary], [], [], 1)[0]:
                        continue
                    try:
                        said += os.read(primary, 65536)
                    except OSError:  # its last writer has ended
                        break
                    if said.endswith(b"[y/N]: "):
                        os.write(primary, b"y\n")
                code = process.wait(timeout=SECONDS)
        finally:
            process.kill()
            process.wait()
        text = said.decode(errors="replace").replace("\r\n", "\n")
        assert 0 == code, text + (self.work / "stdout").read_text(errors="replace")[-4000:]
        assert "Traceback" not in text
