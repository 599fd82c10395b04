"""The script does what the executor would do, and may be cut short anywhere.

Rules
- It is run by sh in a scene, with the real virsh and the installed xmlkit.
- It is cut by running its first lines alone, line after line, and then the whole.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from xml.sax.saxutils import quoteattr

import libvirt
import pytest
from loops import mounted
from scene import POOL, Scene, disk_xml

from xmlkit.script import ScriptError, script
from xmlkit.service import Options, cases_of
from xmlkit.steps import Copy, Link
from xmlkit.survey import survey
from xmlkit.testing import Libvirtd

UUID = "3f2c1c8e-0d4b-4a7e-9b1a-6d5f0e9c7a11"
ODD = 'it\'s "$(HOME)" `id` ünd \\ more'


def script_of(scene: Scene, options: Options | None = None) -> str:
    """The script of all domains that can change."""
    options = options or Options(relocate={None: POOL})
    cases = cases_of(survey(scene.connection, secure=True), options)
    assert [] == [case for case in cases if case.state == "refused"]
    tasks = [case.task for case in cases if case.task is not None]
    return script(tasks, scene.libvirtd.uri)


def sh(text: str, *, cut: int | None = None) -> subprocess.CompletedProcess[str]:
    """Run a script, or the first lines of its last part."""
    lines = text.split("\n")
    if cut is not None:
        lines = lines[: lines.index("    esac") + 2 + cut]
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
    return subprocess.run(
        ["sh", "-s"],
        input="\n".join(lines) + "\n",
        capture_output=True,
        text=True,
        env={key: value for key, value in os.environ.items() if key != "LIBVIRT_DEFAULT_URI"}
        | {"PATH": path},
    )


def done(text: str) -> None:
    ended = sh(text)
    assert (0, "") == (ended.returncode, ended.stderr)


def body(text: str) -> list[str]:
    """The lines that do something."""
    lines = text.split("\n")
    return lines[lines.index("    esac") + 2 :]


def tree(scene: Scene) -> dict[str, tuple[int, str]]:
    """Each file under the instances, with its mode and a digest of its content."""
    return {
        str(path.relative_to(scene.instances)): (
            path.stat().st_mode,
            hashlib.sha256(path.read_bytes()).hexdigest(),
        )
        for path in sorted(scene.instances.rglob("*"))
        if path.is_file()
    }


def test_images_get_their_names_and_domains_their_volumes(scene: Scene) -> None:
    """Two guests, one with two disks; the old names are gone, and the guests boot."""
    guests = [
        scene.nova_guest("one", kinds=("disk", "disk.local")),
        scene.nova_guest("two", raw=True),
    ]
    done(script_of(scene))

    assert [2, 1] == [len(scene.addresses(domain)) for domain in guests]
    assert {"volume"} == {each[0] for domain in guests for each in scene.addresses(domain)}
    assert [] == [path for path in scene.instances.glob("*-*/disk*") if path.is_file()]
    for domain in guests:
        scene.boots(domain)


def test_it_is_the_executors_order(scene: Scene) -> None:
    """All names, one refresh, all definitions, all on the disks, then the old names."""
    for name in ("one", "two"):
        scene.nova_guest(name, kinds=("disk", "disk.local"))
    words = [line.split()[0] for line in body(script_of(scene)) if line and line[0] != "#"]

    assert [
        *["is_off"] * 2,
        *["give_name"] * 4,
        "virsh",
        *["define"] * 2,
        "sync",
        *["drop_name"] * 4,
    ] == words


def test_cut_after_each_line_it_can_be_run_again(scene: Scene) -> None:
    """At each cut the guest boots from what is defined, and all is done in the end."""
    domain = scene.nova_guest("guest", kinds=("disk", "disk.local"))
    text = script_of(scene)
    states = set()
    for cut in range(len(body(text))):
        ended = sh(text, cut=cut)
        assert (0, "") == (ended.returncode, ended.stderr)
        state = (tuple(scene.addresses(domain)), tuple(tree(scene)))
        if state not in states:
            scene.boots(domain)
            states.add(state)
    done(text)

    assert 6 == len(states)  # as it was, two names, the definition, two names less; and disks made
    assert {"volume"} == {each[0] for each in scene.addresses(domain)}
    scene.boots(domain)


def copying(scene: Scene) -> str:
    """The script of a domain whose images are copied."""
    (case,) = cases_of(survey(scene.connection, secure=True), Options(relocate={None: POOL}))
    assert case.task is not None
    steps = tuple(
        Copy(each.source, each.target) if isinstance(each, Link) else each
        for each in case.task.steps
    )
    return script([case.task._replace(steps=steps)], scene.libvirtd.uri)


def test_copies_cut_after_each_line_can_be_made_again(scene: Scene) -> None:
    """What is defined has the whole content at each cut; half a copy is made anew."""
    domain = scene.nova_guest("guest", raw=True, uuid_=UUID, kinds=("disk", "disk.local"))
    scene.boots(domain)
    content = (scene.instances / UUID / "disk").read_bytes()
    text = copying(scene)
    half = scene.instances / "disks" / f"{UUID}_disk.xmlkit"
    half.write_bytes(content[:1000])
    for cut in range(len(body(text))):
        ended = sh(text, cut=cut)
        assert (0, "") == (ended.returncode, ended.stderr)
        address = scene.addresses(domain)[0]
        path = scene.instances / "disks" / address[2] if address[0] == "volume" else address[1]
        assert content == Path(path).read_bytes()
    done(text)

    assert {f"disks/{UUID}_disk", f"disks/{UUID}_disk.local"} == {
        name for name in tree(scene) if not name.startswith("_base")
    }
    scene.boots(domain)


def test_what_is_left_of_a_copy_goes(scene: Scene) -> None:
    """It was interrupted after the copy had its name."""
    scene.nova_guest("guest", raw=True, uuid_=UUID)
    text = copying(scene)
    image, copy = scene.instances / UUID / "disk", scene.instances / "disks" / f"{UUID}_disk"
    shutil.copy(image, copy)
    copy.with_name(f"{copy.name}.xmlkit").hardlink_to(copy)
    done(text)

    assert [copy] == list(copy.parent.iterdir())


def test_a_pool_on_another_file_system_gets_a_copy(
    start_libvirtd: Callable[..., Libvirtd],
) -> None:
    """Sparse as it was, with owner and mode."""
    with mounted("ext4", 256 << 20) as directory:
        # a libvirtd has the mounts that were there when it started
        scene = Scene(start_libvirtd())
        scene.pool("far", directory / "disks")
        domain = scene.nova_guest("guest", raw=True, uuid_=UUID)
        image = scene.instances / UUID / "disk"
        os.chown(image, 12345, 12346)
        image.chmod(0o640)
        blocks = image.stat().st_blocks
        done(script_of(scene, Options(relocate={None: "far"}, copy=True)))
        found = (directory / "disks" / f"{UUID}_disk").stat()

        assert not image.exists()
        assert (12345, 12346, 0o100640) == (found.st_uid, found.st_gid, found.st_mode)
        assert found.st_blocks <= blocks + 16
        scene.boots(domain)


def test_back_to_paths(scene: Scene) -> None:
    """The other direction moves nothing: a volume's path is a path."""
    domain = scene.nova_guest("guest")
    done(script_of(scene))
    text = script_of(scene, Options(to="path"))
    done(text)

    assert "file" == scene.addresses(domain)[0][0]
    assert "give_name" not in "".join(body(text))
    scene.boots(domain)


# What it refuses, with everything as it was.


def refused(scene: Scene, text: str, words: str) -> None:
    """One line says why, and nothing is changed."""
    before = tree(scene)
    ended = sh(text)

    assert (1, "") == (ended.returncode, ended.stdout)
    assert [True] == [words in line for line in ended.stderr.strip().split("\n")]
    assert before == tree(scene)
    assert {"file"} == {
        each[0] for d in scene.connection.listAllDomains() for each in scene.addresses(d)
    }


def test_a_running_guest_stops_it_before_anything(scene: Scene) -> None:
    """Be it the last one."""
    scene.nova_guest("one")
    last = scene.nova_guest("two")
    text = script_of(scene)
    last.createWithFlags(libvirt.VIR_DOMAIN_START_PAUSED)

    refused(scene, text, f"not shut off: {last.UUIDString()}")


@pytest.mark.parametrize("form", ["link", "copy"])
def test_nothing_is_overwritten(scene: Scene, form: str) -> None:
    """Somebody has put another image there since."""
    scene.nova_guest("guest", uuid_=UUID)
    text = script_of(scene) if form == "link" else copying(scene)
    (scene.instances / "disks" / f"{UUID}_disk").write_bytes(b"somebody's")

    refused(scene, text, "exists")


@pytest.mark.parametrize("form", ["link", "copy"])
def test_no_link_is_followed(scene: Scene, form: str) -> None:
    """Somebody has put a symbolic link in the place of the image."""
    scene.nova_guest("guest", uuid_=UUID)
    text = script_of(scene) if form == "link" else copying(scene)
    image = scene.instances / UUID / "disk"
    image.rename(image.with_name("elsewhere"))
    image.symlink_to("elsewhere")

    refused(scene, text, f"no image: {image}")


def test_novas_disk_info_is_left_to_the_executor(scene: Scene) -> None:
    """Its keys are paths, which the script does not rewrite."""
    scene.nova_guest("guest", uuid_=UUID)
    text = script_of(scene)
    (scene.instances / UUID / "disk.info").write_text("{}")

    refused(scene, text, "use xmlkit apply")


def test_a_disk_that_was_edited_since_is_left_alone(scene: Scene) -> None:
    """Both names stay, and the domain as it is."""
    domain = scene.nova_guest("guest", uuid_=UUID)
    text = script_of(scene)
    other = scene.overlay(scene.instances / "other" / "disk")
    scene.define("guest", [disk_xml(other)], UUID)
    ended = sh(text)

    assert 0 != ended.returncode
    assert [("file", str(other))] == scene.addresses(domain)
    assert (scene.instances / UUID / "disk").samefile(scene.instances / "disks" / f"{UUID}_disk")
    scene.boots(domain)


def test_an_image_that_is_written_to_after_the_copy_stays(scene: Scene) -> None:
    """What is newer is not removed."""
    domain = scene.nova_guest("guest", raw=True, uuid_=UUID)
    text = copying(scene)
    lines = body(text)
    sh(text, cut=1 + next(i for i, line in enumerate(lines) if line.startswith("define")))
    image = scene.instances / UUID / "disk"
    with image.open("r+b") as file:
        file.write(scene.sector[:8][::-1])
    ended = sh(text)

    assert 1 == ended.returncode
    assert f"it exists, and is not {image}" in ended.stderr
    assert image.exists()
    scene.boots(domain)


def test_snapshots_are_left_to_the_executor(scene: Scene) -> None:
    """A script cannot rewrite what stands in them."""
    domain = scene.nova_guest("guest")
    domain.snapshotCreateXML("<domainsnapshot><name>s</name></domainsnapshot>")

    with pytest.raises(ScriptError, match="guest: a script cannot redefine"):
        script_of(scene, Options(relocate={None: POOL}, rewrite_metadata=True))


# What stands in it.


def test_odd_names_are_quoted(scene: Scene) -> None:
    """In the domain's name, in the path and in the pool."""
    directory = scene.libvirtd.directory / ODD
    directory.mkdir()
    scene.pool("odd 'pool'", directory)
    image = scene.overlay(directory / "-n $(touch x) & 'disk'")
    scene.connection.storagePoolLookupByName("odd 'pool'").refresh()
    domain = scene.define("guest", [disk_xml(Path("@")).replace("'@'", quoteattr(str(image)))])
    domain.rename(ODD)
    domain = scene.connection.lookupByName(ODD)
    text = script_of(scene, Options())
    done(text)

    assert "volume" == scene.addresses(domain)[0][0]
    assert image.name in scene.addresses(domain)[0]
    domain.rename("guest")
    scene.boots(scene.connection.lookupByName("guest"))


def test_no_secret_stands_in_it_and_none_is_lost(scene: Scene) -> None:
    """The XML is read when it runs; the password is what it was."""
    domain = scene.nova_guest("guest")
    vnc = "<graphics type='vnc' port='-1' passwd='HIDE-ME7'/>"
    xml = scene.document(domain).text.replace("</devices>", f"{vnc}</devices>")
    scene.connection.defineXML(xml)
    text = script_of(scene)
    done(text)

    assert "HIDE-ME" not in text
    assert "passwd='HIDE-ME7'" in scene.document(domain).text
    assert "volume" == scene.addresses(domain)[0][0]


def test_shellcheck_has_nothing_to_say(scene: Scene) -> None:
    """Of a script for Debian's sh."""
    if not shutil.which("shellcheck"):
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)("needs shellcheck")
    scene.nova_guest("guest", kinds=("disk", "disk.local"))
    ended = subprocess.run(
        ["shellcheck", "--shell=dash", "-"], input=script_of(scene), capture_output=True, text=True
    )

    assert "" == ended.stdout
