"""xmlkit rollback: what was done is taken back, by its id.

Rules
- Each command is a process of its own, on a private libvirtd with real guests.
- The domains' present XML is changed: what was edited since stays.
"""

from __future__ import annotations

import json
from typing import Any

from commands import Shell
from scene import POOL, Scene

TO_POOL = ("--relocate", POOL)


def moved(xmlkit: Shell, *names: str) -> str:
    """The id of a transition that is done."""
    found = xmlkit.json("apply", 0, "apply", *TO_POOL, *names, "--yes")
    (id,) = {domain["transition"] for domain in found["domains"]}
    return str(id)


def forms(scene: Scene, *domains: Any) -> list[str]:
    return [scene.addresses(domain)[0][0] for domain in domains]


def test_there_and_back(scene: Scene, xmlkit: Shell) -> None:
    """Byte for byte; its own id is told, and a second time there is nothing to take back."""
    domain = scene.nova_guest("guest", kinds=("disk", "disk.local"))
    before = scene.document(domain).text
    id = moved(xmlkit, "guest")
    done = xmlkit("rollback", id, "--yes").told(0)
    (back,) = set(xmlkit.transitions()) - {id}

    assert f"guest  done\nrollback {back}: 1 done\n" == done.stdout
    assert before == scene.document(domain).text
    assert [] == list((scene.instances / "disks").iterdir())
    scene.boots(domain)
    assert "rollback: 1 nothing\n" == xmlkit("rollback", id).told(0).stdout
    assert f"{back}  rollback of {id}  done  1 domain\n" in xmlkit("journal").told(0).stdout


def test_its_host_is_the_journals(scene: Scene, xmlkit: Shell) -> None:
    """Nobody has to say it again."""
    domain = scene.nova_guest("guest")
    id = moved(xmlkit, "guest")
    Shell(None, xmlkit.state)("rollback", id, "--yes").told(0)

    assert ["file"] == forms(scene, domain)


def test_only_the_named_domains_are_taken_back(scene: Scene, xmlkit: Shell) -> None:
    """By name or UUID; the rest can be taken back later."""
    one, two = scene.nova_guest("one"), scene.nova_guest("two")
    id = moved(xmlkit, "one", "two")
    xmlkit("rollback", id, "one", "--yes").told(0)
    assert ["file", "volume"] == forms(scene, one, two)
    found = xmlkit.json("apply", 0, "rollback", id, "--yes")

    assert [("one", "nothing"), ("two", "done")] == sorted(
        (each["name"], each["state"]) for each in found["domains"]
    )
    assert "rollback" == found["kind"]
    assert ["file", "file"] == forms(scene, one, two)
    xmlkit("rollback", id, "three").refused(f"transition {id} has no domain 'three'")


def test_a_dry_run_changes_nothing(scene: Scene, xmlkit: Shell) -> None:
    """It shows the steps back."""
    domain = scene.nova_guest("guest")
    id = moved(xmlkit, "guest")
    done = xmlkit("rollback", id, "--dry-run").told(0)

    assert "rollback: 1 planned\n" == done.stdout
    assert f"    rm -- {scene.instances / 'disks'}/" in done.stderr
    assert ["volume"] == forms(scene, domain)
    assert [id] == xmlkit.transitions()


def test_the_difference_back_is_shown(scene: Scene, xmlkit: Shell) -> None:
    """With --diff: what was taken out comes back, and the other way round."""
    scene.nova_guest("guest")
    (there,) = xmlkit.json("apply", 0, "apply", *TO_POOL, "guest", "--diff", "--yes")["domains"]
    rollback = ("rollback", there["transition"], "--diff")
    (planned,) = xmlkit.json("apply", 0, *rollback, "--dry-run")["domains"]
    (done,) = xmlkit.json("apply", 0, *rollback, "--yes")["domains"]

    def lines(unified: str, sign: str) -> list[str]:
        found = unified.split("\n")[3:]
        return [each[1:] for each in found if each.startswith(sign)]

    assert 2 == len(lines(there["unified"], "+")) == len(lines(there["unified"], "-"))
    assert lines(there["unified"], "-") == lines(done["unified"], "+")
    assert lines(there["unified"], "+") == lines(done["unified"], "-")
    assert planned["unified"] == done["unified"]


def test_it_asks(scene: Scene, xmlkit: Shell) -> None:
    """On a terminal; elsewhere it wants --yes."""
    domain = scene.nova_guest("guest")
    id = moved(xmlkit, "guest")
    assert "say --yes" in xmlkit("rollback", id).told(2).stderr
    done = xmlkit.on_terminal("rollback", id, answer="n\n").told(1)
    assert "Take 1 domain back? [y/N]: " in done.stderr
    assert ["volume"] == forms(scene, domain)
    xmlkit.on_terminal("rollback", id, answer="y\n").told(0)

    assert ["file"] == forms(scene, domain)


def test_what_was_changed_or_runs_is_not_taken_back(scene: Scene, xmlkit: Shell) -> None:
    """Exit code 1; the others are, with what was edited beside the disks."""
    edited, runs, kept = (scene.nova_guest(name) for name in ("edited", "runs", "kept"))
    id = moved(xmlkit, "edited", "runs", "kept")
    text = scene.document(edited).text
    scene.connection.defineXML(text.replace("_disk'", "_disk-other'"))
    text = scene.document(kept).text
    scene.connection.defineXML(text.replace(">1</vcpu>", ">2</vcpu>"))
    runs.create()
    found = xmlkit.json("apply", 1, "rollback", id, "--yes")

    assert [("edited", "disk-changed"), ("kept", None), ("runs", "running")] == sorted(
        (each["name"], each["id"]) for each in found["domains"]
    )
    assert ["volume", "file", "volume"] == forms(scene, edited, kept, runs)
    assert ">2</vcpu>" in scene.document(kept).text


def test_a_failure_leaves_the_volumes(scene: Scene, xmlkit: Shell) -> None:
    """Exit code 3: somebody has put something in the old place while it asked."""
    domain = scene.nova_guest("guest")
    id = moved(xmlkit, "guest")
    old = scene.instances / domain.UUIDString() / "disk"
    done = xmlkit.on_terminal(
        *("rollback", id, "--format", "json"),
        answer="y\n",
        before=lambda: old.write_bytes(b"somebody's"),
    ).told(3)
    (found,) = json.loads(done.stdout)["domains"]

    assert ("undone", "target-exists") == (found["state"], found["id"])
    assert b"somebody's" == old.read_bytes()
    assert ["volume"] == forms(scene, domain)
    scene.boots(domain)


def test_a_rollback_can_be_taken_back(scene: Scene, xmlkit: Shell) -> None:
    """And then the first one again."""
    domain = scene.nova_guest("guest")
    id = moved(xmlkit, "guest")
    found = xmlkit.json("apply", 0, "rollback", id, "--yes")
    xmlkit("rollback", found["domains"][0]["transition"], "--yes").told(0)
    assert ["volume"] == forms(scene, domain)
    xmlkit("rollback", id, "--yes").told(0)

    assert ["file"] == forms(scene, domain)


def test_an_id_may_be_short_but_not_wrong(scene: Scene, xmlkit: Shell) -> None:
    """One that nobody has, and none at all."""
    scene.nova_guest("guest")
    id = moved(xmlkit, "guest")
    xmlkit("rollback", "2").told(2)  # asks, and has no terminal
    xmlkit("rollback", "19700101").refused("no transition '19700101'")
    xmlkit("rollback", "../../etc/passwd").refused("no transition")
    xmlkit("rollback").refused("Missing argument")
    xmlkit("rollback", id[:13], "--yes").told(0)
