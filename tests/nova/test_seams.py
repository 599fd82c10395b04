"""How xmlkit gets into Nova and out again: what is recognised, what is refused, what is said."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import guests
import nova.version
import pytest
from guests import GUESTS, UUID
from lookups import Seen
from nova import objects
from nova.compute.manager import ComputeManager
from nova.virt.libvirt import driver, guest, imagebackend, imagecache, migration, utils
from threads import environment

import xmlkit.nova
from xmlkit.host import Host
from xmlkit.nova.imagecache import CACHE
from xmlkit.nova.instances import INSTANCES
from xmlkit.nova.live import LIVE
from xmlkit.nova.seams import BUILDER, Seam, SeamError, find
from xmlkit.nova.storage import STORAGE

RELEASE = int(nova.version.version_string().partition(".")[0])
OWNERS = (
    ComputeManager,
    driver.LibvirtDriver,
    guest.Guest,
    imagebackend.Backend,
    imagecache.ImageCacheManager,
    migration,
    utils,
)


@pytest.fixture
def out() -> Iterator[None]:
    """Whatever a test does, xmlkit is out of Nova in the end."""
    yield
    xmlkit.nova.disable()


def enable(**wanted: Any) -> Seen:
    """xmlkit in Nova, on a host without volumes."""
    lookup = Seen(Host())
    xmlkit.nova.enable(lookup=lookup, pools={}, **wanted)
    return lookup


def test_what_was_there_comes_back(out: None) -> None:
    """The very objects, not others that do the same."""
    before = [dict(vars(owner)) for owner in OWNERS]
    enable()
    changed = [
        (owner, name)
        for owner, was in zip(OWNERS, before, strict=True)
        for name, value in vars(owner).items()
        if was.get(name) is not value and not name.startswith("__")
    ]
    expected = {
        (driver.LibvirtDriver, "_get_guest_xml"),
        (imagecache.ImageCacheManager, "update"),
    }
    assert expected <= set(changed)
    assert xmlkit.nova.is_enabled()
    xmlkit.nova.disable()
    assert not xmlkit.nova.is_enabled()
    for owner, was in zip(OWNERS, before, strict=True):
        assert [] == [name for name, value in vars(owner).items() if was.get(name) is not value]


def test_twice_is_refused(out: None) -> None:
    """Who enables it twice does not know who has to disable it."""
    enable()
    with pytest.raises(SeamError, match="already"):
        enable()


def test_each_seam_is_recognised() -> None:
    """All that this release is known to have."""
    seams = (*BUILDER, *INSTANCES, *LIVE, *STORAGE, *CACHE)
    known = [each for each in seams if each.since <= RELEASE < (each.until or RELEASE + 1)]
    assert len(known) == len(find(seams, RELEASE))


def test_another_nova_is_refused_and_unchanged(monkeypatch: pytest.MonkeyPatch, out: None) -> None:
    """By names: what is missing, what takes other arguments; all of it at once."""

    def get_guest_xml(self: Any, context: Any, instance: Any) -> None:
        """A later Nova's, perhaps."""

    monkeypatch.setattr(driver.LibvirtDriver, "_get_guest_xml", get_guest_xml)
    monkeypatch.delattr(guest.Guest, "get_disk")
    before = [dict(vars(owner)) for owner in OWNERS]
    with pytest.raises(SeamError) as refused:
        enable()
    assert "_get_guest_xml: its parameters are self, context, instance" in str(refused.value)
    assert "get_disk: no such function" in str(refused.value)
    assert before == [dict(vars(owner)) for owner in OWNERS]
    assert not xmlkit.nova.is_enabled()


def test_a_new_argument_that_has_to_be_given_is_refused() -> None:
    """An optional one is Nova's own matter."""

    class Owner:
        """In the place of Nova's."""

        def old(self, a: int, b: int = 1) -> None:
            """With one that may be left out."""

        def new(self, a: int, b: int) -> None:
            """With one more."""

    module = sys.modules[__name__]
    vars(module)["_Owner"] = Owner
    owner = f"{__name__}:_Owner"
    assert 1 == len(find([Seam(owner, "old", ("self", "a"), lambda was, _: was)], 1))
    with pytest.raises(SeamError, match="it needs b as well"):
        find([Seam(owner, "new", ("self", "a"), lambda was, _: was)], 1)


def test_what_somebody_else_has_replaced_is_not_taken_out(
    monkeypatch: pytest.MonkeyPatch, out: None
) -> None:
    """Else theirs would be lost, and ours would stay in it."""
    enable()
    ours = vars(guest.Guest)["get_disk"]
    guest.Guest.get_disk = lambda *_: None
    with pytest.raises(SeamError, match=r"Guest\.get_disk"):
        xmlkit.nova.disable()
    assert xmlkit.nova.is_enabled()
    guest.Guest.get_disk = ours


def test_one_warning_for_all_legacy_instances(
    nova_case: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture, out: None
) -> None:
    """Where Nova looks at all instances of its host when it starts. Only disks count: a config
    drive and a console's log stay in the directory for ever."""
    nova_case.flags(instances_path=str(tmp_path))
    others = [UUID[:-2] + f"{number:02}" for number in range(3)]
    for uuid, names in zip(others, (["disk"], ["disk.config", "console.log"], []), strict=True):
        (tmp_path / uuid).mkdir()
        for name in names:
            (tmp_path / uuid / name).touch()
    instances = [objects.Instance(uuid=uuid) for uuid in (*others, UUID)]
    enable()
    manager = mock.Mock(driver=mock.Mock(capabilities={}))
    with caplog.at_level("WARNING", "xmlkit"):
        if RELEASE == 33:
            ComputeManager._validate_pinning_configuration(manager, instances)
        else:
            driver.LibvirtDriver.process_instances_at_startup(mock.Mock(), None, instances)
    (said,) = (each.getMessage() for each in caplog.records if each.name.startswith("xmlkit"))
    assert said.startswith("1 instances")
    assert others[0] in said
    assert others[1] not in said


def test_a_legacy_backend_is_called_deprecated(
    nova_case: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture, out: None
) -> None:
    """Once, when Nova starts."""
    guests.prepare(nova_case, str(tmp_path))
    enable()
    with caplog.at_level("WARNING", "xmlkit"):
        guests.driver_of(nova_case, GUESTS["raw"])
    said = [each.getMessage() for each in caplog.records if each.name.startswith("xmlkit")]
    assert ["[libvirt] images_type = raw is deprecated"] == [
        each.partition(":")[0] for each in said
    ]


CODE = """
import sys
from nova.cmd import compute
from xmlkit.nova.compute import prepare
from xmlkit import nova as ours
import nova.conf
prepare(compute)
assert not ours.is_enabled()
compute.config.parse_args(["nova-compute", "--config-file", sys.argv[1]])
assert ours.is_enabled()
settings = nova.conf.CONF.libvirt
print(settings.images_type, settings.storage_transition)
"""


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("", "libvirt-storage True"),
        ("images_type = libvirt-storage", "libvirt-storage True"),
        ("images_type = qcow2\nstorage_transition = false", "qcow2 False"),
    ],
)
def test_nova_compute_reads_its_configuration_with_xmlkit_in_it(
    tmp_path: Path, said: str, expected: str
) -> None:
    """The new type is known and the default; what the operator says is what counts."""
    config = tmp_path / "nova.conf"
    config.write_text(f"[DEFAULT]\nstate_path = {tmp_path}\n[libvirt]\n{said}\n")
    run = [sys.executable, "-c", CODE, str(config)]
    done = subprocess.run(run, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert expected == done.stdout.strip().splitlines()[-1], done.stderr


def test_nova_compute_starts(tmp_path: Path) -> None:
    """The console script runs nova-compute as far as it comes without the rest of a cloud."""
    config = tmp_path / "nova.conf"
    config.write_text(
        f"[DEFAULT]\nstate_path = {tmp_path}\ntransport_url = fake:/\n"
        f"[oslo_concurrency]\nlock_path = {tmp_path}\n"
    )
    log = tmp_path / "log"
    script = Path(sys.executable).with_name("xmlkit-nova-compute")
    with log.open("wb") as file:
        process = subprocess.Popen(
            [script, "--config-file", config], stdout=file, stderr=file, env=environment()
        )
    try:
        deadline = time.monotonic() + 180
        while "nova-conductor" not in log.read_text():
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)
    finally:
        process.kill()
        process.wait()
    assert "Traceback" not in log.read_text().partition("nova-conductor")[0]
