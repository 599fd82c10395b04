"""xmlkit compare --git: the diff driver, called by the real git."""

from __future__ import annotations

import os
import pty
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from xmlkit.cli.git import Change, GitError, change_of, shown
from xmlkit.cli.paint import painter
from xmlkit.document import Limits

FIXTURES = Path(__file__).parents[1] / "fixtures"
OLD = (FIXTURES / "file-in-pool.xml").read_bytes()
NEW = (FIXTURES / "volume-disk.xml").read_bytes()
SECRETS = (FIXTURES / "secrets.xml").read_bytes()
COMMAND = [sys.executable, "-c", "from xmlkit.cli import main; main()", "compare", "--git"]
MOVED = """\
changed /domain/devices/disk[vda]/@type: file -> volume
removed /domain/devices/disk[vda]/source/@file: /srv/images/a.qcow2
added   /domain/devices/disk[vda]/source/@pool: images
added   /domain/devices/disk[vda]/source/@volume: a.qcow2
"""

Git = Callable[..., str]


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """The work tree of a repository in which .xml files have the driver."""
    tree = tmp_path / "work"
    tree.mkdir()
    return tree


@pytest.fixture
def git(work: Path) -> Git:
    """git in that work tree: what it prints; it has to succeed and to complain of nothing."""
    quiet = {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull}

    def call(*words: str, **variables: str) -> str:
        named = ("-c", "user.name=nobody", "-c", "user.email=nobody@example.org")
        done = subprocess.run(
            ["git", *named, *words],
            cwd=work,
            env=os.environ | quiet | variables,
            capture_output=True,
        )
        assert (0, b"") == (done.returncode, done.stderr), done.stdout
        return done.stdout.decode()

    call("init", "--quiet", "--initial-branch=main")
    call("config", "diff.libvirt.command", shlex.join(COMMAND))
    (work / ".gitattributes").write_text("*.xml diff=libvirt\n")
    return call


def commit(git: Git) -> None:
    git("add", "--all")
    git("commit", "--quiet", "--message", "State")


def terminal(work: Path, *words: str, **variables: str) -> str:
    """What git prints on a terminal; it has to succeed."""
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        ["git", *words], cwd=work, stdout=theirs, stderr=theirs, env=os.environ | variables
    ) as process:
        os.close(theirs)
        printed = b""
        try:
            while piece := os.read(ours, 4096):
                printed += piece
        except OSError:
            pass  # how a terminal's other end says that it is over
        assert 0 == process.wait(120), printed
    os.close(ours)
    return printed.decode()


def test_git_shows_what_libvirt_would_see(git: Git, work: Path) -> None:
    """`git diff`, `git diff --cached`, `git show` and `git log -p` print what compare prints."""
    guest = work / "guest.xml"
    guest.write_bytes(OLD)
    commit(git)
    guest.write_bytes(NEW)
    expected = f"diff --git a/guest.xml b/guest.xml\n{MOVED}"

    assert expected == git("diff")
    git("add", "--all")
    assert expected == git("diff", "--cached")
    commit(git)
    assert expected == git("show", "--ext-diff", "--format=")
    assert expected in git("log", "-p", "--ext-diff")
    assert expected == git("diff", "HEAD^", "HEAD")


def test_what_libvirt_reads_alike_is_said_to_be_so(git: Git, work: Path) -> None:
    """A file that git lists is never without a word, even if nothing differs by meaning."""
    (work / "guest.xml").write_bytes(OLD)
    commit(git)
    (work / "guest.xml").write_bytes(OLD.replace(b"    <", b"\t<"))

    header, said = git("diff").splitlines()
    assert "diff --git a/guest.xml b/guest.xml" == header
    assert said.startswith("no difference to libvirt")


def test_ends_of_lines_are_shown_whatever_git_does_to_them(git: Git, work: Path) -> None:
    """git's own conversion is not applied to what it has given out, nor warned of."""
    (work / "other.xml").write_bytes(b"<project>\r\n</project>\n")
    commit(git)
    (work / "other.xml").write_bytes(b"<project>\n</project>\n")
    commit(git)
    (work / ".git/info/attributes").write_text("* text=auto\n")

    options = ("-c", "core.autocrlf=input", "-c", "core.safecrlf=warn")
    found = git(*options, "diff", "HEAD^", "HEAD").splitlines()
    assert ["-<project>\\r", "+<project>", " </project>"] == found[-3:]


def test_new_and_gone_files_are_shown_whole(git: Git, work: Path) -> None:
    """Their other side is /dev/null, as git says it, and each line is there but for secrets."""
    (work / "gone.xml").write_bytes(OLD)
    commit(git)
    (work / "gone.xml").unlink()
    (work / "new.xml").write_bytes(SECRETS)
    git("add", "--all")
    found = git("diff", "--cached", "--no-renames")

    gone, new = found.split("diff --git ")[1:]
    assert gone.startswith(
        "a/gone.xml b/gone.xml\ndeleted file mode 100644\n--- a/gone.xml\n+++ /dev/null\n@@ -1,"
    )
    assert [f"-{line}" for line in OLD.decode().splitlines()] == gone.splitlines()[5:]
    assert new.startswith(
        "a/new.xml b/new.xml\nnew file mode 100644\n--- /dev/null\n+++ b/new.xml\n@@ -0,0 +1,"
    )
    assert len(SECRETS.splitlines()) == new.count("\n+") - 1
    assert "(redacted)" in new
    assert "HIDE-ME" not in found


def test_renamed_files_and_modes_have_gits_own_lines(git: Git, work: Path) -> None:
    """git gives two more arguments for a rename; a mode that changes is told."""
    (work / "old.xml").write_bytes(OLD)
    (work / "mode.xml").write_bytes(SECRETS)
    commit(git)
    (work / "mode.xml").chmod(0o755)
    (work / "old.xml").rename(work / "new.xml")
    (work / "new.xml").write_bytes(OLD.replace(b"vda", b"vdb"))
    git("add", "--all")
    found = git("diff", "--cached", "--find-renames")

    assert "diff --git a/mode.xml b/mode.xml\nold mode 100644\nnew mode 100755\n" in found
    assert "diff --git a/old.xml b/new.xml\nsimilarity index " in found
    assert "rename from old.xml\nrename to new.xml\n" in found
    assert "removed /domain/devices/disk[vda]: " in found


def test_a_conflict_is_one_line(git: Git, work: Path) -> None:
    """git gives the name alone of a file that is not merged; half-merged text is shown by lines."""
    guest = work / "guest.xml"
    guest.write_bytes(OLD)
    commit(git)
    git("checkout", "--quiet", "-b", "other")
    guest.write_bytes(OLD.replace(b"vda", b"vdb"))
    commit(git)
    git("checkout", "--quiet", "main")
    guest.write_bytes(OLD.replace(b"vda", b"vdc"))
    commit(git)
    named = ("-c", "user.name=nobody", "-c", "user.email=nobody@example.org")
    merged = subprocess.run(["git", *named, "merge", "other"], cwd=work, capture_output=True)
    assert 1 == merged.returncode

    assert "* Unmerged path guest.xml\n" == git("diff", "--cached")
    found = git("diff", "HEAD")
    assert "+<<<<<<< HEAD" in found
    assert "+      <target dev='vdb'/>" in found


FOREIGN = {
    "foreign-xml": (b"<project><a/><b/></project>\n", b"<project><b/><a/></project>\n"),
    "broken": (OLD, OLD[:-20]),
    "doctype": (OLD, b"<!DOCTYPE domain>\n" + OLD),
    "another-kind": (OLD, b"<pool type='dir'><name>p</name></pool>\n"),
    "empty": (OLD, b""),
    "text": (b"a\n", b"b"),
    "utf-16": ("<a/>".encode("utf-16"), "<b/>".encode("utf-16")),
    "latin-1": (b"caf\xe9\n", b"caf\xe8\n"),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_what_is_not_libvirts_is_shown_by_lines(git: Git, work: Path, name: str) -> None:
    """Order means something there; git goes on to the next file whatever this one holds."""
    old, new = FOREIGN[name]
    (work / "1.xml").write_bytes(old)
    (work / "2.xml").write_bytes(OLD)
    commit(git)
    (work / "1.xml").write_bytes(new)
    (work / "2.xml").write_bytes(NEW)
    first, second = git("diff").split("diff --git ")[1:]

    assert "a/1.xml b/1.xml\n--- a/1.xml\n+++ b/1.xml\n@@ " in first
    assert {"-", "+"} & {line[:1] for line in first.splitlines()[4:]}
    assert f"a/2.xml b/2.xml\n{MOVED}" == second


def test_what_cannot_be_shown_is_said(git: Git, work: Path) -> None:
    """Binary files, and such as are larger than a document may be."""
    *first, last = COMMAND
    git("config", "diff.libvirt.command", shlex.join([*first, "--max-size", "1", last]))
    (work / "binary.xml").write_bytes(b"a\0b")
    (work / "large.xml").write_bytes(OLD)
    commit(git)
    (work / "binary.xml").write_bytes(b"a\0c")
    (work / "large.xml").write_bytes(OLD + b" " * (1 << 20))
    binary, large = git("diff").split("diff --git ")[1:]

    assert "Binary files a/binary.xml and b/binary.xml differ\n" in binary
    assert "larger than 1 MiB" in large
    assert "git diff --no-ext-diff" in large


def test_names_may_be_anything(git: Git, work: Path) -> None:
    """A file's name is never an option, nor stdin, nor obeyed by a terminal."""
    names = ["--help.xml", "-", "a b.xml", "x\x1b[31m\n.xml", "ü.xml"]
    (work / ".gitattributes").write_text("* diff=libvirt\n")
    for name in names:
        (work / name).write_bytes(OLD)
    commit(git)
    for name in names:
        (work / name).write_bytes(NEW)
    found = git("diff")

    assert len(names) == found.count(MOVED)
    for name in ("--help.xml", "-", "a b.xml", r"x\x1b[31m\n.xml", "ü.xml"):
        assert f"diff --git a/{name} b/{name}\n" in found


def test_a_link_is_compared_as_a_link(git: Git, work: Path) -> None:
    """git hands over what it says; it is not followed."""
    (work / "secret.txt").write_bytes(OLD)
    (work / "link.xml").symlink_to("nowhere")
    commit(git)
    (work / "link.xml").unlink()
    (work / "link.xml").symlink_to("secret.txt")
    found = git("diff")

    assert "-nowhere\n" in found
    assert "+secret.txt\n" in found


def test_no_secret_is_shown_by_either_way(git: Git, work: Path) -> None:
    """By meaning or by lines, one that changed shows that it did; --show-secrets shows it."""
    broken = SECRETS[:-12]
    (work / "1.xml").write_bytes(SECRETS)
    (work / "2.xml").write_bytes(broken)
    commit(git)
    (work / "1.xml").write_bytes(SECRETS.replace(b"HIDE-ME", b"HIDE-YOU"))
    (work / "2.xml").write_bytes(broken.replace(b"HIDE-ME", b"HIDE-YOU"))
    found = git("diff")

    assert "HIDE-" not in found
    assert ["(changed)" in part for part in found.split("diff --git ")[1:]] == [True, True]
    *first, last = COMMAND
    git("config", "diff.libvirt.command", shlex.join([*first, "--show-secrets", last]))
    assert 2 <= git("diff").count("HIDE-YOU-1")


def test_colour_is_for_gits_pager() -> None:
    """git's pager is a pipe to us, and git says that there is one; NO_COLOR is heard."""
    words = [*COMMAND[:-1], "--git", "a.xml", "/dev/null", ".", ".", "/dev/null", ".", "100644"]

    def printed(**variables: str) -> bytes:
        env = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "GIT_PAGER_IN_USE")}
        done = subprocess.run(words, env=env | {"TERM": "xterm"} | variables, capture_output=True)
        assert 0 == done.returncode, done.stderr
        return done.stdout

    assert b"\x1b[" not in printed()
    assert b"\x1b[" in printed(GIT_PAGER_IN_USE="true")
    assert b"\x1b[" not in printed(GIT_PAGER_IN_USE="true", NO_COLOR="1")


def test_colour_comes_through_a_real_pager(git: Git, work: Path) -> None:
    """git diff on a terminal: through its pager the header is bold and what is gone is red."""
    (work / "guest.xml").write_bytes(OLD)
    commit(git)
    (work / "guest.xml").write_bytes(NEW)
    printed = terminal(work, "diff", GIT_PAGER="cat", TERM="xterm", NO_COLOR="")

    assert "\x1b[1mdiff --git a/guest.xml b/guest.xml\x1b[0m" in printed
    assert "\x1b[31mremoved\x1b[0m" in printed


@pytest.mark.parametrize(
    ("setting", "on_terminal", "in_pipe"),
    [
        ("color.ui=auto", True, False),
        ("color.ui=false", False, False),
        ("color.ui=always", True, True),
        ("color.diff=false", False, False),
        ("color.diff=always", True, True),
    ],
)
def test_colour_is_as_git_is_told(
    git: Git, work: Path, setting: str, on_terminal: bool, in_pipe: bool
) -> None:
    """git's own settings decide, on a terminal and in a pipe."""
    (work / "guest.xml").write_bytes(OLD)
    commit(git)
    (work / "guest.xml").write_bytes(NEW)
    free = {"NO_COLOR": "", "GIT_PAGER": "cat", "TERM": "xterm"}

    assert on_terminal == ("\x1b[" in terminal(work, "-c", setting, "diff", **free))
    assert in_pipe == ("\x1b[" in git("-c", setting, "diff", **free))
    assert "\x1b[" not in git("-c", setting, "diff", **free | {"NO_COLOR": "1"})


@pytest.mark.parametrize("words", [("diff",), ("show", "--ext-diff"), ("log", "-p", "--ext-diff")])
def test_a_reader_that_has_seen_enough_is_no_failure(
    git: Git, work: Path, words: tuple[str, ...]
) -> None:
    """git would say that its driver died, after `head` or a pager that was left by q."""
    for name in "abc":
        (work / f"{name}.xml").write_bytes(OLD)
    commit(git)
    for name in "abc":
        (work / f"{name}.xml").write_bytes(NEW)
    if words != ("diff",):
        commit(git)
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(["git", *words], cwd=work, stdout=write, stderr=subprocess.PIPE)
    os.close(write)

    assert b"" == done.stderr
    # git itself dies of what it cannot write, as any program does
    assert done.returncode in (0, -signal.SIGPIPE)


def test_a_huge_file_takes_no_longer_than_git(git: Git, work: Path) -> None:
    """Of 100,000 lines in another order git finds the difference in seconds, and so do we."""
    lines = [f"<disk number='{number % 300}'/>\n" for number in range(100_000)]
    (work / "huge.xml").write_text("".join(lines))
    commit(git)
    (work / "huge.xml").write_text("".join(sorted(lines)))

    assert git("diff", "--no-ext-diff").count("\n+") == git("diff").count("\n+")


@pytest.mark.parametrize("count", [0, 2, 3, 6, 10])
def test_other_numbers_of_arguments_are_refused(count: int) -> None:
    """Who calls it by hand learns what it is for, with exit code 2."""
    with pytest.raises(GitError, match=r"diff\.libvirt\.command"):
        change_of(["x"] * count)
    done = subprocess.run([*COMMAND, *["x"] * count], capture_output=True, text=True)
    assert (2, "") == (done.returncode, done.stdout)
    assert 1 == done.stderr.count("\n")


def test_json_is_not_for_git() -> None:
    """What git shows is read by people."""
    words = [*COMMAND[:-1], "--format", "json", "--git", "guest.xml"]
    done = subprocess.run(words, capture_output=True, text=True)
    assert 2 == done.returncode
    assert "--git goes with --format text" in done.stderr


def test_the_arguments_are_those_of_gits_manual() -> None:
    """path old-file old-hex old-mode new-file new-hex new-mode, and of a rename two more."""
    seven = ["p", "o", "1" * 40, "100644", "n", "2" * 40, "100755"]

    assert Change("p", "o", "100644", "n", "100755", "p") == change_of(seven)
    assert Change("p", "o", "100644", "n", "100755", "q", "rename") == change_of(
        [*seven, "q", "rename"]
    )
    assert change_of(["p"]) is None


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=50
)
@given(st.binary(max_size=60), st.binary(max_size=60), st.sampled_from([b"", b"<domain>", OLD]))
def test_any_bytes_can_be_shown(tmp_path: Path, old: bytes, new: bytes, before: bytes) -> None:
    """Nothing is raised whatever two files hold, and what differs is never without a word."""
    one, other = tmp_path / "old", tmp_path / "new"
    one.write_bytes(before + old)
    other.write_bytes(before + new)
    given = ["p", str(one), "1", "100644", str(other), "2", "100644"]
    lines = list(shown(given, lambda *_: [], Limits(), painter("never"), show_secrets=False))

    assert "diff --git a/p b/p" == lines[0]
    assert (old != new) == (len(lines) > 1)
    assert not any("\n" in line for line in lines)
