"""Scripts: a shell that runs one does what the commands say, and stops where one fails."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import LAWS

from xmlkit.document import Document
from xmlkit.shell import Command, script

WORDS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8)


def sh(text: str) -> subprocess.CompletedProcess[bytes]:
    """A POSIX shell that reads the script from a file, as an operator would run it."""
    return subprocess.run(["sh"], input=text.encode(), capture_output=True, timeout=60)


@LAWS
@given(st.lists(WORDS, min_size=1, max_size=3))
def test_each_word_comes_through(words: list[str]) -> None:
    """Quotes, dollars, blanks, line breaks."""
    done = sh(script([Command(("printf", "%s\\n", *words))]))

    assert (0, b"") == (done.returncode, done.stderr)
    assert "".join(f"{word}\n" for word in words).encode() == done.stdout


@pytest.mark.parametrize("text", ["<a>$HOME `id` \\ 'x'</a>", "<a>\nEOF\nEOFF\n</a>", "<a>é</a>"])
def test_a_document_comes_through(text: str) -> None:
    """Nothing in it is obeyed, and no line of it ends it."""
    done = sh(script([Command(("cat", "/dev/stdin"), Document.parse(text))]))

    assert (0, f"{text}\n".encode()) == (done.returncode, done.stdout)


def test_a_failure_is_undone_and_ends_the_script(tmp_path: Path) -> None:
    """What follows is not run, and the exit code says so."""
    made = tmp_path / "made"
    done = sh(
        script(
            [
                Command(("touch", str(made))),
                Command(("false",), undo=("rm", str(made))),
                Command(("echo", "never")),
            ]
        )
    )

    assert (1, b"") == (done.returncode, done.stdout)
    assert not made.exists()


def test_a_failure_without_undo_ends_the_script() -> None:
    """Also one that reads a document."""
    done = sh(script([Command(("false",), Document.parse("<a/>")), Command(("echo", "never"))]))

    assert (1, b"") == (done.returncode, done.stdout)
