"""Benchmark: a newcomer, from `git clone` to a trusted preview of a guest of one's own.

Rules
- What is typed is docs/tutorial.md, block by block, up to that preview; the guest is another than
  the page's, with a disk of its own, and has to be valid before and after by libvirt's schemas.
- All caches are cold: pip's is empty, and so is the home directory. The clone is of a bundle, since
  where the repository is differs; packages come from the index that the machine's pip asks.
- Twice: as root, and as a user without rights on a machine without libvirt: nothing of libvirt's is
  to be seen, so the schemas are unpacked as the page says. What is done for that is in namespaces.
- Exit code: 0 both within two minutes, 1 one was not.

Needs root, and a python3 of the system for the user (Debian's python3-venv).
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import tempfile
import time
from pathlib import Path

from pages import blocks

GOAL = 120.0  # seconds
ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "tutorial.md"
GUEST = ROOT / "fixtures/nova/qcow2-file.xml"
IMAGE = "/var/lib/libvirt/images/mine.qcow2"
NAME, UID = "newcomer", 4201
# The machine's libvirt, and this bench's own list of users.
_WITHOUT = """
for each in /usr/share/libvirt /run/libvirt /var/lib/libvirt /etc/libvirt; do
    [ ! -d "$each" ] || mount -t tmpfs none "$each"
done
for each in passwd group; do
    cp "/etc/$each" "$1/$each"
    mount --bind "$1/$each" "/etc/$each"
done
echo "$2:*:$3:$3::$1/home:/bin/bash" >>/etc/passwd
echo "$2:x:$3:" >>/etc/group
exec su - "$2" -c "$4"
"""


def steps(*, schemas: bool) -> list[tuple[str, str]]:
    """What a newcomer types, each with a name; schemas: whether they have to be unpacked."""
    found = []
    for block in blocks(PAGE):
        if block.text.startswith("virsh "):
            continue  # the guest is there
        if "apt-get download" not in block.text or schemas:
            lines = [line for line, _ in block.shown] or [block.text]
            found.append((f"{block.page}:{block.line}", "\n".join(lines)))
        if "guest.xml" in block.text:
            return found
    raise AssertionError("the tutorial has no preview of one's own guest")


def script(clone: str, *, schemas: bool) -> str:
    """All of it as one shell's, with the time of each step on stderr."""
    lines = ["set -e", clone, "cd xmlkit"]
    lines.append("echo 'git clone' $(date +%s.%N) >&2")
    for name, text in steps(schemas=schemas):
        lines += [f"( {text.strip()} ) || [ $? -eq 1 ]" if "xmlkit diff" in text else text]
        lines.append(f"echo {shlex.quote(name)} $(date +%s.%N) >&2")
    return "\n".join(lines)


def tried(directory: Path, bundle: Path, *, root: bool) -> float:
    """The seconds that it took; raises if the preview is not what a newcomer may trust."""
    home = directory / "home"
    home.mkdir()
    guest, changed = re.subn(r"(?<=file=\")/var/[^\"]*", IMAGE, GUEST.read_text())
    assert changed
    (home / "mine.xml").write_text(guest)
    clone = f"git clone --quiet {bundle} xmlkit && cp mine.xml xmlkit/guest.xml"
    typed = script(clone, schemas=not root)
    cold = {"HOME": str(home), "PIP_CACHE_DIR": str(home / "pip"), "XDG_CACHE_HOME": str(home)}
    environment = {k: v for k, v in os.environ.items() if not k.startswith("XMLKIT_")} | cold
    command = ["bash", "-c", typed]
    if not root:
        directory.chmod(0o755)
        for path in (home, home / "mine.xml"):
            os.chown(path, UID, UID)
        command = ["bash", "-ec", _WITHOUT, "without", str(directory), NAME, str(UID), typed]
        command = ["unshare", "--mount", *command]
    start = time.time()
    done = subprocess.run(command, cwd=home, env=environment, capture_output=True, text=True)
    took = time.time() - start
    assert done.returncode == 0, done.stdout + done.stderr
    before = start
    for line in done.stderr.splitlines():
        name, _, at = line.rpartition(" ")
        if at.replace(".", "").isdigit() and "." in at:
            print(f"    {name:<24} {float(at) - before:6.1f} s")
            before = float(at)
    preview = done.stdout[done.stdout.rindex("instance-00000001  ") :]
    assert "valid before, valid after" in preview, preview
    assert f"file {IMAGE}" in preview, preview
    assert "volume images/mine.qcow2" in preview, preview
    return took


def main() -> int:
    """Both, and a table."""
    with tempfile.TemporaryDirectory(prefix="newcomer-") as name:
        top = Path(name)
        top.chmod(0o755)
        bundle = top / "xmlkit.bundle"
        subprocess.run(
            ["git", "-C", str(ROOT), "bundle", "create", "--quiet", str(bundle), "HEAD"], check=True
        )
        bundle.chmod(0o644)
        missed = False
        print(f"load of the machine before: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
        for who, root in (("root", True), ("a user, without libvirt", False)):
            place = top / ("root" if root else "user")
            place.mkdir()
            took = tried(place, bundle, root=root)
            missed |= took > GOAL
            print(f"newcomer, {who:<24} {took:6.1f} s, at most {GOAL:.0f}")
    return int(missed)


if __name__ == "__main__":
    raise SystemExit(main())
