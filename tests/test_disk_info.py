"""Nova's disk.info: entries follow their disks, and the file is never half written or followed.

Rules
- Read here as Nova reads it: the whole file, as JSON.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest
from kills import kills
from loops import MIB, after_power_cut, mounted, need_root

from xmlkit import disk_info
from xmlkit.images import ImageError


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """The disk.info of an instance with two disks."""
    (tmp_path / "instance").mkdir()
    (tmp_path / "disks").mkdir()
    path = tmp_path / "instance/disk.info"
    path.write_text(
        json.dumps({f"{tmp_path}/instance/disk": "raw", f"{tmp_path}/instance/disk.swap": "qcow2"})
    )
    return path


def entries(file: Path) -> dict[str, str]:
    """With short paths."""
    found = json.loads(file.read_text().rstrip())
    return {key.removeprefix(f"{file.parents[1]}/"): value for key, value in found.items()}


def test_an_entry_moves_there_and_back(file: Path) -> None:
    """Each half can be done twice; between them both paths have the format."""
    old, new = str(file.parent / "disk"), str(file.parents[1] / "disks/uuid_disk")
    before = file.read_bytes()
    for _ in range(2):
        disk_info.add(old, new)
    assert {
        "instance/disk": "raw",
        "instance/disk.swap": "qcow2",
        "disks/uuid_disk": "raw",
    } == entries(file)
    for _ in range(2):
        disk_info.remove(old)
    assert {"instance/disk.swap": "qcow2", "disks/uuid_disk": "raw"} == entries(file)
    for _ in range(2):
        disk_info.add(new, old)
        disk_info.remove(new, beside=old)
    assert json.loads(before) == json.loads(file.read_bytes())
    assert ["disk.info"] == os.listdir(file.parent)


def test_what_nova_has_not_written_is_not_invented(file: Path) -> None:
    """No file, no entry, an empty file: nothing happens, not even a new time of change."""
    os.utime(file, (1, 1))
    disk_info.add(str(file.parent / "disk.eph0"), str(file.parents[1] / "disks/eph0"))
    disk_info.remove(str(file.parent / "disk.eph0"))
    disk_info.remove(str(file.parents[1] / "disks/eph0"))
    assert 1 == file.stat().st_mtime
    assert [] == os.listdir(file.parents[1] / "disks")
    file.write_text("\n")
    disk_info.add(str(file.parent / "disk"), str(file.parents[1] / "disks/disk"))
    disk_info.remove(str(file.parent / "disk"))
    assert "\n" == file.read_text()


def test_owner_mode_and_attributes_are_kept(file: Path) -> None:
    """Nova has to be able to write to it afterwards."""
    need_root()
    os.chown(file, 64055, 107)
    file.chmod(0o640)
    os.setxattr(file, "user.note", b"kept")
    os.utime(file, (1, 1))
    inode = file.stat().st_ino
    disk_info.remove(str(file.parent / "disk"))

    facts = file.stat()
    assert (64055, 107, 0o100640) == (facts.st_uid, facts.st_gid, facts.st_mode)
    assert ["user.note"] == os.listxattr(file)
    assert inode != facts.st_ino  # replaced as a whole
    assert 1 != facts.st_mtime


@pytest.mark.parametrize(
    "text",
    [
        *("{", "[]", '"raw"', "null", '{"/a": 1}', '{"/a": {}}', "\udcff", "[" * 100_000),
        '{"/a": "' + "x" * MIB + '"}',
    ],
)
def test_what_is_not_as_nova_writes_it_is_left_alone(file: Path, text: str) -> None:
    """And named: a repair by guess would be a guessed format."""
    content = text.encode(errors="surrogateescape")
    file.write_bytes(content)
    disk = str(file.parent / "disk")
    with pytest.raises(ImageError, match=re.escape(str(file))) as caught:
        disk_info.add(disk, "/new")
    assert "disk-info" == caught.value.id
    with pytest.raises(ImageError, match=re.escape(str(file))) as caught:
        disk_info.remove(disk)
    assert "disk-info" == caught.value.id
    assert content == file.read_bytes()


def test_a_format_is_not_replaced_by_another_one(file: Path) -> None:
    """Two entries that disagree are for an operator to look at."""
    before = file.read_bytes()
    with pytest.raises(ImageError, match=r"raw of .*/disk and qcow2 of .*/disk\.swap") as caught:
        disk_info.add(str(file.parent / "disk"), str(file.parent / "disk.swap"))
    assert "disk-info" == caught.value.id
    assert before == file.read_bytes()


def test_no_link_is_followed(file: Path) -> None:
    """Neither the file nor its directory; and what is no file is not read."""
    disk = str(file.parent / "disk")
    real = file.rename(file.parents[1] / "real")
    before = real.read_bytes()
    file.symlink_to(real)
    with pytest.raises(ImageError, match="symbolic link") as caught:
        disk_info.remove(disk)
    assert "symlink" == caught.value.id
    file.unlink()
    os.mkfifo(file)
    with pytest.raises(ImageError, match="regular") as caught:
        disk_info.remove(disk)
    assert "disk-info" == caught.value.id
    (file.parents[1] / "linked").symlink_to("instance")
    with pytest.raises(ImageError, match="linked") as caught:
        disk_info.remove(str(file.parents[1] / "linked/disk"))
    assert "symlink" == caught.value.id
    assert before == real.read_bytes()


def test_a_link_in_the_place_of_the_temporary_is_not_written_through(file: Path) -> None:
    """Somebody who may write to the directory puts it there."""
    victim = file.parents[1] / "victim"
    victim.write_text("untouched")
    (file.parent / ".xmlkit-disk.info").symlink_to(victim)
    disk_info.remove(str(file.parent / "disk"))
    assert "untouched" == victim.read_text()
    assert {"instance/disk.swap": "qcow2"} == entries(file)
    assert ["disk.info"] == os.listdir(file.parent)


SETUP = """
import sys
from xmlkit import disk_info
old, new = sys.argv[1:3]
"""


def test_a_kill_at_any_step_leaves_a_whole_file(file: Path) -> None:
    """Before it or after it, never without an entry for the disk."""
    old, new = str(file.parent / "disk"), str(file.parents[1] / "disks/uuid_disk")
    before = file.read_bytes()
    seen = set()
    for _ in kills(SETUP, "(disk_info.add(old, new), disk_info.remove(old))", old, new):
        found = entries(file)
        seen.add(frozenset(found))
        assert "qcow2" == found.pop("instance/disk.swap")
        assert {"raw"} == set(found.values())
        disk_info.add(old, new)
        disk_info.remove(old)
        assert {"disks/uuid_disk", "instance/disk.swap"} == set(entries(file))
        assert {"disk.info"} == set(os.listdir(file.parent)) - {".xmlkit-disk.info"}
        file.write_bytes(before)
    assert 3 == len(seen)


def test_what_is_written_survives_a_power_cut() -> None:
    """As soon as the call has returned."""
    with mounted("ext4", 32 * MIB) as here:
        (here / "disk.info").write_text(json.dumps({f"{here}/disk": "raw"}))
        os.sync()
        disk_info.add(f"{here}/disk", f"{here}/new")
        with after_power_cut(here) as then:
            assert {f"{here}/disk": "raw", f"{here}/new": "raw"} == json.loads(
                (then / "disk.info").read_text()
            )


def test_what_a_killed_one_has_left_goes(file: Path) -> None:
    """Also where nothing is left to be changed."""
    (file.parent / ".xmlkit-disk.info").write_text("{")
    disk_info.remove(f"{file.parents[1]}/disks/uuid_disk", beside=str(file.parent / "disk"))
    assert ["disk.info"] == os.listdir(file.parent)


def test_an_entry_goes_from_both_directories(file: Path) -> None:
    """A disk that was to come back, and did not: its entry is where it was to be."""
    elsewhere = f"{file.parents[1]}/disks/uuid_disk"
    disk_info.remove(str(file.parent / "disk"), beside=elsewhere)
    assert {"instance/disk.swap": "qcow2"} == entries(file)


def test_no_directory_no_entry(file: Path) -> None:
    """Where the other directory is not, or is a link, nothing was added and nothing is removed."""
    (file.parents[1] / "link").symlink_to(file.parent)
    for there in ("nowhere", "link"):
        disk_info.remove(f"{file.parents[1]}/{there}/disk", beside=str(file.parent / "disk"))
    assert 2 == len(entries(file))
