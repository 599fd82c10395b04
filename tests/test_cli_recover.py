"""xmlkit recover: what was interrupted comes to an end.

Rules
- What is pending was left by a command that was killed, or that lost its libvirtd.
- Killed means SIGKILL, while libvirtd is frozen in the middle of a step.
"""

from __future__ import annotations

import os
import signal

import pytest
from commands import WAITING, Shell, hears
from scene import POOL, Scene, until

from xmlkit.journal import read_all
from xmlkit.steps import Refresh

APPLY = ("apply", "--relocate", POOL)


def killed(scene: Scene, xmlkit: Shell, *arguments: str) -> str:
    """The id of a transition whose xmlkit was killed after the names were made."""
    daemon = scene.libvirtd.daemon
    known = set(xmlkit.transitions())

    def refreshing() -> bool:
        journals, _ = read_all(str(xmlkit.state))
        return any(
            isinstance(task.steps[number], Refresh)
            for each in journals
            if each.id not in known
            for uuid, task in each.tasks.items()
            for number in each.begun.get(uuid, ())
        )

    def kill(pid: int) -> None:
        try:
            until(refreshing)
        finally:
            os.kill(pid, signal.SIGKILL)
            os.kill(daemon, signal.SIGCONT)

    xmlkit.on_terminal(
        *arguments, answer="y\n", before=lambda: os.kill(daemon, signal.SIGSTOP), after=kill
    ).told(-signal.SIGKILL)
    (id,) = set(xmlkit.transitions()) - known
    return id


def test_there_is_nothing_to_recover(scene: Scene, xmlkit: Shell) -> None:
    """Exit code 0, before anything and after something was done; no host is needed."""
    nowhere = Shell(None, xmlkit.state)
    nothing = f"nothing to recover in {xmlkit.state}\n"
    assert nothing == nowhere("recover").told(0).stdout
    assert not xmlkit.state.exists()
    scene.nova_guest("guest")
    xmlkit(*APPLY, "guest", "--yes").told(0)

    assert nothing == nowhere("recover").told(0).stdout
    assert nothing == xmlkit("recover", "--connect", scene.libvirtd.uri).told(0).stdout
    for uri in ("nonsense", "qemu+unix:///system?socket=/nowhere"):
        nowhere("recover", "--connect", uri).refused(f"cannot connect to {uri}")
    assert [] == nowhere.json("recover", 0, "recover")["transitions"]


def test_what_was_killed_comes_to_an_end(scene: Scene, xmlkit: Shell) -> None:
    """The guest boots before that; nothing new is begun; the journal knows the host."""
    domain = scene.nova_guest("guest")
    id = killed(scene, xmlkit, *APPLY, "guest")
    scene.boots(domain)
    message = f"transition {id} has not come to an end: run xmlkit recover first"
    xmlkit(*APPLY, "guest", "--yes").refused(message)
    xmlkit(*APPLY, "guest", "--script").refused(message)
    xmlkit("rollback", id, "--yes").refused(message)
    assert f"{id}  apply  pending  1 domain\n" == xmlkit("journal").told(0).stdout
    done = Shell(None, xmlkit.state)("recover").told(0)

    assert f"{id}  guest  undone\n" == done.stdout
    assert [] == list((scene.instances / "disks").iterdir())
    assert f"{id}  apply  undone  1 domain\n" == xmlkit("journal").told(0).stdout
    scene.boots(domain)
    xmlkit(*APPLY, "guest", "--yes").told(0)


def test_a_rollback_that_was_killed_comes_to_an_end(scene: Scene, xmlkit: Shell) -> None:
    """It is a transition like any other."""
    domain = scene.nova_guest("guest", kinds=("disk", "disk.local"))
    xmlkit(*APPLY, "guest", "--yes").told(0)
    (id,) = xmlkit.transitions()
    daemon = scene.libvirtd.daemon

    def kill(pid: int) -> None:
        try:
            until(lambda: len(list((scene.instances / domain.UUIDString()).iterdir())) == 2)
        finally:
            os.kill(pid, signal.SIGKILL)
            os.kill(daemon, signal.SIGCONT)

    xmlkit.on_terminal(
        *("rollback", id),
        answer="y\n",
        before=lambda: os.kill(daemon, signal.SIGSTOP),
        after=kill,
    ).told(-signal.SIGKILL)
    found = xmlkit.json("recover", 0, "recover")

    (transition,) = found["transitions"]
    assert transition["id"] != id
    assert transition["domains"][0]["state"] in ("done", "undone")
    scene.boots(domain)
    xmlkit("rollback", id, "--yes").told(0)
    assert ["file", "file"] == [each[0] for each in scene.addresses(domain)]


def test_what_cannot_be_told_stays_pending(scene: Scene, xmlkit: Shell) -> None:
    """Exit code 1 for a domain that somebody has half changed, until it is one thing or another."""
    domain = scene.nova_guest("guest", kinds=("disk", "disk.local"))
    before = scene.document(domain).text
    id = killed(scene, xmlkit, *APPLY, "guest")
    uuid = domain.UUIDString()
    path, new = scene.instances / uuid / "disk", scene.instances / "disks" / f"{uuid}_disk"
    assert path.samefile(new)
    scene.connection.defineXML(before.replace(f"{path}'", f"{new}'"))
    done = xmlkit("recover").told(1)
    found = xmlkit.json("recover", 1, "recover")

    assert done.stdout.startswith(f"{id}  guest  pending: disk-changed: ")
    assert ["pending"] == [each["state"] for each in found["transitions"][0]["domains"]]
    assert path.samefile(new)
    scene.boots(domain)
    scene.connection.defineXML(before)
    xmlkit("recover").told(0)
    scene.boots(domain)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_who_is_interrupted_before_anything_is_begun(
    scene: Scene, xmlkit: Shell, number: signal.Signals
) -> None:
    """Exit code 130 of each command that changes a host, and nothing has changed."""
    domain = scene.nova_guest("guest")
    xmlkit(*APPLY, "guest", "--yes").told(0)
    (id,) = xmlkit.transitions()
    daemon = scene.libvirtd.daemon
    before = scene.document(domain).text

    def interrupted(*arguments: str) -> str:
        """What a command says that was interrupted while it connected."""
        os.kill(daemon, signal.SIGSTOP)
        try:
            process = xmlkit.start(*arguments)
            until(lambda: hears(process.pid, signal.SIGTERM))
            process.send_signal(number)
        finally:
            os.kill(daemon, signal.SIGCONT)
        done = xmlkit.end(process).told(130)
        assert "" == done.stdout
        # on a busy machine it may take its time to hear
        return done.stderr.replace(WAITING, "").strip()

    image = str(scene.instances / "image")
    assert "" == interrupted("apply", "--all", "--to", "path", "--yes")
    assert "" == interrupted("rollback", id, "--yes")
    assert "" == interrupted("migrate", "--to", scene.libvirtd.uri, "guest", "--yes")
    assert "" == interrupted("snapshot", "guest", "vda", "--to-file", image)
    assert [id] == xmlkit.transitions()
    assert before == scene.document(domain).text

    xmlkit("rollback", id, "--yes").told(0)
    id = killed(scene, xmlkit, *APPLY, "guest")
    assert interrupted("recover").endswith("xmlkit recover brings to an end what was begun")
    assert f"{id}  guest  undone\n" == xmlkit("recover").told(0).stdout
    scene.boots(domain)


def test_trouble_with_one_keeps_no_other(scene: Scene, xmlkit: Shell) -> None:
    """Exit code 2, but the others have come to an end and are told."""
    scene.nova_guest("guest")
    id = killed(scene, xmlkit, *APPLY, "guest")
    journal = xmlkit.state / f"{id}.jsonl"
    elsewhere = xmlkit.state / "20200101-000000-aaaa.jsonl"
    text = journal.read_text().replace(id, elsewhere.stem)
    elsewhere.write_text(text.replace(scene.libvirtd.uri, "qemu+unix:///system?socket=/nowhere"))
    newer = xmlkit.state / "20200101-000000-bbbb.jsonl"
    newer.write_text(text.replace("xmlkit.journal/1", "xmlkit.journal/2"))
    done = xmlkit("recover").told(2)

    assert f"{id}  guest  undone\n" == done.stdout
    assert "cannot connect to qemu+unix:///system?socket=/nowhere" in done.stderr
    assert "use the xmlkit that wrote it" in done.stderr
    assert 2 == done.stderr.count("\n")


def test_another_host_does_not_count_as_one_without_the_domain(scene: Scene, xmlkit: Shell) -> None:
    """Exit code 2, and no name is taken away; the same host by another URI is as good."""
    domain = scene.nova_guest("guest")
    id = killed(scene, xmlkit, *APPLY, "guest")
    new = scene.instances / "disks" / f"{domain.UUIDString()}_disk"
    done = xmlkit("recover", "--connect", "test:///default").told(2)

    assert f"test:///default has no domain of transition {id}" in done.stderr
    assert new.exists()
    assert f"{id}  apply  pending  1 domain\n" == xmlkit("journal").told(0).stdout
    alike = f"{scene.libvirtd.uri}&mode=direct"
    assert f"{id}  guest  undone\n" == xmlkit("recover", "--connect", alike).told(0).stdout
    assert not new.exists()


def test_only_one_works_on_a_host(scene: Scene, xmlkit: Shell) -> None:
    """Exit code 2 while another one asks; its process and command are named."""
    scene.nova_guest("guest")
    told = []
    xmlkit.on_terminal(
        *(*APPLY, "guest"),
        answer="n\n",
        before=lambda: told.append((xmlkit("recover"), xmlkit(*APPLY, "guest", "--yes"))),
    ).told(1)

    for done in told[0]:
        done.refused("is working on this host: wait until it has ended")
