"""A transition as a shell script, for those who want to read it, change it, or run it elsewhere.

Laws
- The same steps in the same order as the executor takes them: names or copies first, then one
  refresh a pool, then the definitions, and the old names last.
- It can be run again after it was interrupted; it overwrites nothing, follows no link, and removes
  only what is still the same image as the one that is kept.
- No document stands in it, so no secret does: the XML is read from libvirt when the script runs,
  and `xmlkit transform` makes the planned change in it.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator

from xmlkit.errors import XmlkitError
from xmlkit.journal import Task
from xmlkit.plan import plans_to_json
from xmlkit.steps import Copy, Define, Link, Redefine, Refresh, Step, Stop, Unlink

__all__ = ["ScriptError", "script"]

_HEAD = """\
#!/bin/sh
# Made by xmlkit apply --script: read it before you run it, as root. Interrupted, run it again.
set -eu
export LC_ALL=C LIBVIRT_DEFAULT_URI=%(uri)s

fail() { printf '%%s\\n' "$*" >&2; exit 1; }
is_image() { [ -f "$1" ] && [ ! -h "$1" ]; }
is_linked() { is_image "$1" && is_image "$2" && [ "$1" -ef "$2" ]; }
is_copied() { is_image "$1" && is_image "$2" && cmp -s -- "$1" "$2"; }

without_info() {  # Nova keeps the formats of an instance's disks there, by their paths
    [ ! -e "${1%%/*}/disk.info" ] ||
        fail "use xmlkit apply, which moves the entries in it: ${1%%/*}/disk.info"
}
give_name() {  # give_name IMAGE NAME: a second name
    is_linked "$1" "$2" && return
    is_image "$2" && [ ! -e "$1" ] && [ ! -h "$1" ] && return  # it has gone there already
    is_image "$1" || fail "no image: $1"
    without_info "$1"
    ln -T -- "$1" "$2"
}
make_copy() {  # make_copy IMAGE NAME
    rm -f -- "$2.xmlkit"  # what is left if it was interrupted
    is_image "$2" && [ ! -e "$1" ] && [ ! -h "$1" ] && return
    is_copied "$1" "$2" && return
    is_image "$1" || fail "no image: $1"
    without_info "$1"
    if [ -e "$2" ] || [ -h "$2" ]; then fail "it exists, and is not $1: $2"; fi
    cp --reflink=auto --sparse=always --preserve=all -T -- "$1" "$2.xmlkit"
    sync -- "$2.xmlkit"
    is_copied "$1" "$2.xmlkit" || fail "the copy differs: $2.xmlkit"
    ln -T -- "$2.xmlkit" "$2"
    rm -- "$2.xmlkit"
}
drop_name() {  # drop_name NAME KEPT: the old name of an image that has a new one
    [ -e "$1" ] || [ -h "$1" ] || return 0
    is_linked "$1" "$2" || fail "not two names of one image: $1 $2"
    rm -- "$1"
}
drop_copied() {  # drop_copied IMAGE COPY
    [ -e "$1" ] || [ -h "$1" ] || return 0
    is_copied "$1" "$2" || fail "no longer equal: $1 $2"
    rm -- "$1"
}
is_off() { [ "$(virsh domstate "$1")" = 'shut off' ] || fail "not shut off: $1"; }
define() {  # define UUID NUMBER: the persistent XML with the planned addresses
    is_off "$1"
    (
        umask 077
        old=$(mktemp) new=$(mktemp)
        trap 'rm -f -- "$old" "$new"' EXIT
        virsh dumpxml --inactive --security-info "$1" >"$old"
        plan "$2" | xmlkit transform --quiet --plan - -o "$new" "$old"
        cmp -s -- "$old" "$new" || virsh -q define "$new"
    )
}
plan() {
    case $1 in
"""


class ScriptError(XmlkitError):
    """What a script cannot do; the message says what to do instead."""


def script(tasks: Iterable[Task], uri: str) -> str:
    """The shell script that carries `tasks` out on the host of `uri`.

    Raises ScriptError for a task that redefines snapshots, or restarts a guest.
    """
    those = tuple(tasks)
    for task in those:
        if any(isinstance(step, Redefine) for step in task.steps):
            raise ScriptError(
                f"{task.plan.name}: a script cannot redefine snapshots, checkpoints or managed "
                "saves: use xmlkit apply without --script"
            )
        if any(isinstance(step, Stop) for step in task.steps):
            raise ScriptError(
                f"{task.plan.name}: a script restarts no guest: use xmlkit apply without --script"
            )
    pieces = [_HEAD % {"uri": shlex.quote(uri)}]
    for number, task in enumerate(those):
        pieces.append(f"    {number}) cat <<'XMLKIT-PLAN'\n")
        # a span may have a line that ends the text early; the address is all that is needed
        bare = [each._replace(span="") for each in task.plan.transitions]
        pieces.append(plans_to_json([task.plan._replace(disks=tuple(bare))]))
        pieces.append("\nXMLKIT-PLAN\n    ;;\n")
    pieces.append("    esac\n}\n\n")
    for number, task in enumerate(those):
        pieces.append(f"# {number}: {ascii(task.plan.name)[1:-1]}\n")
    pieces.append("\n")
    # all before any image gets a name, so that a running guest stops the script early
    pieces += (f"is_off {task.uuid}\n" for task in those)
    for phase in (_images, _refreshes, _definitions, _unlinks, _last_refreshes):
        pieces += dict.fromkeys(f"{line}\n" for line in phase(those))
    return "".join(pieces)


def _images(tasks: tuple[Task, ...]) -> Iterator[str]:
    for step in _all(tasks):
        if isinstance(step, Link):
            yield shlex.join(("give_name", step.source, step.target))
        elif isinstance(step, Copy):
            yield shlex.join(("make_copy", step.source, step.target))


def _refreshes(tasks: tuple[Task, ...]) -> Iterator[str]:
    for task in tasks:
        yield from (str(step) for step in _split(task)[0] if isinstance(step, Refresh))


def _definitions(tasks: tuple[Task, ...]) -> Iterator[str]:
    yield from (f"define {task.uuid} {number}" for number, task in enumerate(tasks))


def _unlinks(tasks: tuple[Task, ...]) -> Iterator[str]:
    copied = {step.source for step in _all(tasks) if isinstance(step, Copy)}
    unlinks = [step for step in _all(tasks) if isinstance(step, Unlink)]
    if unlinks:
        # the new names, and what libvirt has written, are on their disks before an old name goes
        yield "sync"
    for step in unlinks:
        command = "drop_copied" if step.path in copied else "drop_name"
        yield shlex.join((command, step.path, step.kept))


def _last_refreshes(tasks: tuple[Task, ...]) -> Iterator[str]:
    for task in tasks:
        yield from (str(step) for step in _split(task)[1] if isinstance(step, Refresh))


def _all(tasks: tuple[Task, ...]) -> Iterator[Step]:
    for task in tasks:
        yield from task.steps


def _split(task: Task) -> tuple[tuple[Step, ...], tuple[Step, ...]]:
    """The steps before the definition and those after it."""
    at = next(i for i, step in enumerate(task.steps) if isinstance(step, Define))
    return task.steps[:at], task.steps[at:]
