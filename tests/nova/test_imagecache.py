"""Nova's image cache manager, replaced: passes on real images, with a real libvirtd.

Rules
- A pass is asked for as Nova asks; of Nova's parts the database alone is not real.
- Nova's own tests (nova/tests/unit/virt/libvirt/test_imagecache.py, 34.0.0: 30) and ours:

| Nova's | here |
| --- | --- |
| get_cache_fname | test_an_image_has_novas_name |
| get_age_of_file, get_age_of_file_not_exists | test_the_ages_are_novas_options |
| list_base_images | test_images_are_told_by_their_names |
| store_swap_image, store_ephemeral_image | test_images_are_told_by_their_names |
| list_backing_images_small, list_backing_images_resized | test_a_backing_image_is_in_use |
| list_backing_images_instancename | test_a_directory_of_an_old_name_counts |
| list_backing_images_disk_notexist | test_a_disk_that_is_missing_stops_all_removing |
| find_base_file_nothing, find_base_file_all | test_an_image_in_use_protects_all_that_is_of_it |
| find_base_file_small, find_base_file_resized | test_an_image_in_use_protects_all_that_is_of_it |
| remove_base_file, remove_base_file_original | test_the_ages_are_novas_options |
| remove_base_file_dne, remove_base_file_oserror | test_what_cannot_be_removed_is_logged |
| mark_in_use | test_what_is_in_use_is_touched |
| verify_base_images | test_a_whole_pass |
| verify_base_images_no_base | test_without_a_cache_nothing_is_done |
| run_image_cache_manager_pass | test_the_compute_managers_pass |
| age_and_verify_swap_images | test_swap_and_ephemeral_images_are_held |
| age_and_verify_ephemeral_images | test_swap_and_ephemeral_images_are_held |
| lock_acquired_on_removing_old_enough_files | test_an_image_is_removed_under_novas_lock |
| get_disk_usage, get_disk_usage_cache_is_on_different_disk | test_novas_own_tests_pass |
| get_disk_usage_empty, get_disk_usage_cache_dir_missing | test_novas_own_tests_pass |
| get_disk_usage_io_error_while_reading | test_novas_own_tests_pass: Nova's own code |
"""

from __future__ import annotations

import json
import os
import time
import unittest
import uuid
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import nova.conf
import pytest
from cached import CachedHost
from nova import context, objects
from nova.compute import manager as compute_manager
from nova.tests import fixtures
from nova.tests.unit import fake_instance
from nova.tests.unit.virt.libvirt import test_imagecache as novas
from nova.virt.libvirt import imagecache as novas_imagecache
from oslo_concurrency import lockutils
from scene import POOL as DISKS
from scene import disk_xml

from xmlkit import journal, prune, state
from xmlkit.cache import name_of_image
from xmlkit.host import Host
from xmlkit.nova import disable, enable
from xmlkit.observe import host_uuid
from xmlkit.prune import POOL
from xmlkit.testing import Libvirtd

CONF = nova.conf.CONF
A, B, C, D = (name_of_image(letter) for letter in "abcd")


class Nothing:
    """What stands in libvirt's place where there is none."""

    def host(self, connect: Callable[[], Any], xml: str) -> Host:
        """No pools."""
        return Host()

    def path_of(self, connect: Callable[[], Any], volume: str) -> str | None:
        """No volumes."""
        return None

    def delete(
        self, connect: Callable[[], Any], uuid: str, only: Collection[str] | None = None
    ) -> None:
        """Nothing to delete."""


class Compute(CachedHost):
    """A compute host of Nova's, and what its database says."""

    def instance(self, image: str | None = None, **more: Any) -> Any:
        """An instance in the database, made of an image."""
        fields = {"image_ref": image, "host": CONF.host, "vm_state": "", "task_state": ""}
        own = {"uuid": str(uuid.uuid4())}
        made = fake_instance.fake_instance_obj(None, **(own | fields | more))
        for key in ("kernel_id", "ramdisk_id"):
            setattr(made, key, more.get(key))
        return made

    def update(self, *instances: Any, bdms: Any = None) -> Any:
        """A pass, and the manager after it."""
        manager = novas_imagecache.ImageCacheManager()
        with mock.patch.object(
            objects.block_device.BlockDeviceMappingList,
            "bdms_by_instance_uuid",
            return_value=bdms or {},
        ):
            manager.update(context.get_admin_context(), list(instances))
        return manager

    @property
    def names(self) -> set[str]:
        """What is in the cache, but for the image that is young."""
        return {path.name for path in self.cache.iterdir()} - {self.base.name}


@pytest.fixture
def host(nova_case: Any, libvirtd: Libvirtd, monkeypatch: pytest.MonkeyPatch) -> Iterator[Compute]:
    made = Compute(libvirtd)
    nova_case.flags(instances_path=str(made.instances))
    nova_case.flags(connection_uri=libvirtd.uri, group="libvirt")
    nova_case.useFixture(fixtures.PrivsepFixture())
    monkeypatch.setenv("XMLKIT_STATE_DIR", str(libvirtd.directory / "state"))
    enable()
    yield made
    disable()


def moved(host: Compute, image: Path) -> str:
    """A legacy instance whose disk has moved to the pool, by its UUID."""
    return str(host.volume_guest("instance-00000001", image).UUIDString())


# The reason for it all.


def test_novas_own_manager_removes_the_image_under_a_disk_that_has_moved(
    nova_case: Any, libvirtd: Libvirtd
) -> None:
    """An instance made of a snapshot that is gone: its image is known by its overlay alone."""
    host = Compute(libvirtd)
    nova_case.flags(instances_path=str(host.instances))
    host.old(A)
    instance = host.instance("another", uuid=moved(host, host.cache / A))
    manager = novas_imagecache.ImageCacheManager()
    with mock.patch.object(
        objects.block_device.BlockDeviceMappingList, "bdms_by_instance_uuid", return_value={}
    ):
        manager.update(context.get_admin_context(), [instance])

    assert set() == host.names


def test_an_image_under_a_disk_that_has_moved_is_kept(host: Compute) -> None:
    """The same with ours; and what nothing stands on goes."""
    host.old(A)
    host.old(B)

    host.update(host.instance("another", uuid=moved(host, host.cache / A)))

    assert {A} == host.names


# Nova's cases.


def test_an_image_has_novas_name() -> None:
    """By any id, also of the days when it was a number."""
    for id in ("1", "fd0cb2f1-8375-44c9-b1f4-3e1f4c4a8ef0", "ä"):
        assert novas_imagecache.get_cache_fname(id) == name_of_image(id)


def test_images_are_told_by_their_names(host: Compute) -> None:
    """Nova's own list, but for a digest that is none."""
    names = {
        *("00000001", "ephemeral_20_abcdefg", "00000004", "swap_1000"),
        *("swap_", "swap_abc", "123_swap", "swap_129_", "ephemeral_", "ephemeral_123"),
        *("ephemeral_abc_40d1f2e", "123_ephemeral_40e1d2d", "ephemeral_129_"),
        *(f"{A}_sm", f"{B}_sm", A, C, f"{C}_5368709120", f"{C}_10737418240"),
    }
    for name in names:
        host.old(name, age=0)

    found = host.update()

    assert {A, C, host.base.name} == {os.path.basename(path) for path in found.originals}
    assert {A, C, f"{A}_sm", f"{B}_sm", f"{C}_5368709120", f"{C}_10737418240", host.base.name} == {
        os.path.basename(path) for path in found.unexplained_images
    }
    assert {"swap_1000"} == found.back_swap_images
    assert {"ephemeral_20_abcdefg"} == found.back_ephemeral_images
    assert names == host.names


@pytest.mark.parametrize("name", [f"{A}_sm", f"{A}_10737418240", A])
def test_a_backing_image_is_in_use(host: Compute, name: str) -> None:
    """Of a legacy instance that has a domain, whatever the database says of its image."""
    image = host.old(name)
    own = str(uuid.uuid4())
    host.define("guest", [disk_xml(host.over(host.instances / own / "disk", image))], own)

    found = host.update(host.instance("another", uuid=own))

    assert ([str(image)], {name}) == (found.active_base_files, host.names)


def test_a_directory_of_an_old_name_counts(host: Compute) -> None:
    """Of an instance that has no domain here, and whose directory has no UUID for a name."""
    host.over(host.instances / "banana-42-hamster" / "disk", host.old(A))

    host.update()

    assert {A} == host.names


def test_a_disk_that_is_missing_stops_all_removing(host: Compute, nova_case: Any) -> None:
    """Nova raises; here the pass goes on, touches what is in use, removes nothing and says so."""
    host.old(A)
    host.old(B)
    own = str(uuid.uuid4())
    host.define("guest", [disk_xml(host.instances / own / "disk")], own)

    host.update(host.instance("a", uuid=own))

    assert {A, B} == host.names
    assert time.time() - (host.cache / A).stat().st_mtime < 3600
    assert time.time() - (host.cache / B).stat().st_mtime > 3600
    said = nova_case.stdlog.logger.output
    assert f"No image is removed from {host.cache}: each of 2 may be used by guest vda: " in said


def test_an_instance_that_is_being_resized_is_found(host: Compute) -> None:
    """Its domain still names the directory of before."""
    own = str(uuid.uuid4())
    disk = host.over(host.instances / own / "disk", host.old(A))
    (disk.parent / "disk.info").write_text(json.dumps({str(disk): "qcow2"}))
    host.define("guest", [disk_xml(disk)], own)
    disk.parent.rename(host.instances / f"{own}_resize")
    host.old(B)

    host.update(host.instance("another", uuid=own))

    assert {A} == host.names


def test_an_image_in_use_protects_all_that_is_of_it(host: Compute) -> None:
    """The original, what was resized from it, and the oldest form; not another image's."""
    for name in (A, f"{A}_sm", f"{A}_10737418240", B, f"{B}_1"):
        host.old(name)

    host.update(host.instance("a"))

    assert {A, f"{A}_sm", f"{A}_10737418240"} == host.names


def test_the_ages_are_novas_options(host: Compute, nova_case: Any) -> None:
    """A resized image after an hour, others after a day; and by nova.conf."""
    ages = {A: 3_700, f"{B}_1": 3_700, C: 90_000, f"{D}_1": 3_500, "swap_1": 3_700}
    for name, age in ages.items():
        host.old(name, age=age)

    host.update()
    assert {A, f"{D}_1", "swap_1"} == host.names

    nova_case.flags(
        remove_unused_resized_minimum_age_seconds=3_400,
        remove_unused_original_minimum_age_seconds=3_600,
        group="image_cache",
    )
    host.update()
    assert set() == host.names


def test_nothing_is_removed_if_nova_conf_says_so(host: Compute, nova_case: Any) -> None:
    """It is told all the same."""
    nova_case.flags(remove_unused_base_images=False, group="image_cache")
    image = host.old(A)

    assert str(image) in host.update().removable_base_files
    assert {A} == host.names


def test_what_cannot_be_removed_is_logged(host: Compute, nova_case: Any) -> None:
    """A directory with the name of an image is left alone, and what fails stops no other."""
    (host.cache / B).mkdir()
    host.old(A)
    host.old(C)
    with mock.patch.object(prune, "remove", side_effect=refusing(prune.remove, A)):
        host.update()

    assert {A, B} == host.names
    assert f"Image {host.cache / A} is kept: image-in-use" in nova_case.stdlog.logger.output


def refusing(function: Callable[..., Any], name: str) -> Callable[..., Any]:
    """As the function, but that one image is in use."""
    from xmlkit.prune import Pruned

    def called(connection: Any, cache: Any, base: Any, **options: Any) -> Any:
        if base.name == name:
            return Pruned(base, "kept", "image-in-use", "somebody has it open")
        return function(connection, cache, base, **options)

    return called


def test_what_is_in_use_is_touched(host: Compute) -> None:
    """So that it stays for a day after its last use."""
    by_disk, by_database, unused = (host.old(name) for name in (A, B, C))
    own = moved(host, by_disk)

    host.update(host.instance("b", uuid=own))

    now = time.time()
    assert now - by_disk.stat().st_mtime < 3600
    assert now - by_database.stat().st_mtime < 3600
    assert not unused.exists()


def test_a_whole_pass(host: Compute) -> None:
    """Nova's own case: kernel and ramdisk, resized and old ones, and files that are none of it."""
    one, kernel, ramdisk, unused = (name_of_image(id) for id in ("1", "21", "22", "42"))
    foreign = {"00000001", "ephemeral_0_20_None", "00000004"}
    resized = f"{one}_5368709120"
    for name in (one, kernel, ramdisk, unused, resized, f"{A}_sm", f"{B}_sm", *foreign):
        host.old(name)
    first, second = (
        host.instance("1"),
        host.instance("1", kernel_id="21", ramdisk_id="22"),
    )
    for number, instance in enumerate((first, second)):
        disk = host.over(host.instances / instance.uuid / "disk", host.cache / resized)
        host.define(f"instance-{number}", [disk_xml(disk)], instance.uuid)

    found = host.update(first, second)

    active = {os.path.basename(path) for path in found.active_base_files}
    removable = {os.path.basename(path) for path in found.removable_base_files}
    assert {one, kernel, ramdisk, resized} == active
    assert {unused, f"{A}_sm", f"{B}_sm", host.base.name} == removable
    assert active | foreign == host.names


def test_without_a_cache_nothing_is_done(host: Compute, nova_case: Any) -> None:
    """No pool is made of a directory that is not there."""
    nova_case.flags(instances_path="/nowhere/at/all")

    host.update()

    names = {pool.name() for pool in host.connection.listAllStoragePools()}
    assert {POOL, DISKS} == names


def test_the_compute_managers_pass(host: Compute) -> None:
    """By the periodic task: it hands over the instances of all hosts that share the directory."""
    host.old(A)
    host.old(B)
    manager = novas_imagecache.ImageCacheManager()
    compute = mock.Mock()
    compute.driver.capabilities = {"has_imagecache": True}
    compute.driver.manage_image_cache.side_effect = manager.update
    with (
        mock.patch.object(
            objects.InstanceList, "get_by_filters", return_value=[host.instance("a", host="other")]
        ) as asked,
        mock.patch.object(
            objects.block_device.BlockDeviceMappingList, "bdms_by_instance_uuid", return_value={}
        ),
    ):
        compute_manager.ComputeManager._run_image_cache_manager_pass(
            compute, context.get_admin_context()
        )

    assert {"host": [CONF.host], "deleted": False, "soft_deleted": True} == asked.call_args.args[1]
    assert {A} == host.names


def test_swap_and_ephemeral_images_are_held(host: Compute) -> None:
    """By the database: they are known by the flavors of the instances that were made with them."""
    for name in ("swap_128", "swap_256", "ephemeral_1_706d657", "ephemeral_456_40d1d2c"):
        host.old(name)
    instance = host.instance("a", os_type=None)
    manager = novas_imagecache.ImageCacheManager()
    running = {
        "used_images": {},
        "instance_names": set(),
        "used_swap_images": {"swap_128", "swap_512"},
        "used_ephemeral_images": {"ephemeral_1_706d657"},
    }
    with mock.patch.object(manager, "_list_running_instances", return_value=running):
        manager.update(None, [instance])

    assert {"swap_128", "ephemeral_1_706d657"} == host.names
    assert time.time() - (host.cache / "swap_128").stat().st_mtime < 3600


def test_an_image_is_removed_under_novas_lock(host: Compute) -> None:
    """In Nova's own directory, by its name; the file of the lock goes with the image."""
    host.old(A)
    host.old("swap_1")
    with mock.patch.object(lockutils, "lock", wraps=lockutils.lock) as lock:
        host.update()

    locks = host.instances / "locks"
    where = {"external": True, "lock_path": str(locks)}
    assert [mock.call(A, "nova-", **where), mock.call("swap_1", "nova-", **where)] == [
        call for call in lock.mock_calls if call.args
    ]
    assert {"nova-swap_1"} == {path.name for path in locks.iterdir()}
    assert set() == host.names


def test_each_of_novas_tests_has_its_counterpart() -> None:
    """In the table above, in both releases; and what stands there is a test of this file."""
    rows = [row.split("|")[1:3] for row in str(__doc__).splitlines() if row.startswith("| ")][2:]
    said = {name.strip() for theirs, _ in rows for name in theirs.split(",")}
    wanted = {
        name.removeprefix("test_")
        for each in (novas.GetCacheFnameTestCase, novas.ImageCacheManagerTestCase)
        for name in vars(each)
        if name.startswith("test_")
    }
    ours = {here.partition(":")[0].strip() for _, here in rows}
    assert (30, wanted) == (len(wanted), said)
    assert set() == ours - globals().keys()


def test_novas_own_tests_pass() -> None:
    """And all its others with something in libvirt's place, as of what is still Nova's."""
    suite = unittest.defaultTestLoader.loadTestsFromModule(novas)
    result = unittest.TestResult()
    enable(lookup=Nothing())
    try:
        suite.run(result)
    finally:
        disable()

    assert (30, [], []) == (result.testsRun, result.failures, result.errors)


# The pool, and what stands in the way.


def test_the_cache_becomes_a_pool_and_keeps_its_owner(host: Compute) -> None:
    """One that starts with the host; its directory stays as Nova made it."""
    pool = host.connection.storagePoolLookupByName(POOL)
    pool.destroy()
    pool.undefine()
    os.chown(host.cache, 65534, 65534)
    host.cache.chmod(0o750)
    host.old(A)

    host.update()

    pool = host.connection.storagePoolLookupByName(POOL)
    status = host.cache.stat()
    assert (1, 1, 1) == (pool.isActive(), pool.isPersistent(), pool.autostart())
    assert (65534, 65534, 0o40750) == (status.st_uid, status.st_gid, status.st_mode)
    assert set() == host.names


def test_a_pool_of_another_name_or_one_that_is_off_is_taken(host: Compute) -> None:
    """libvirt has one pool a directory."""
    pool = host.connection.storagePoolLookupByName(POOL)
    pool.destroy()
    pool.undefine()
    host.pool("images", host.cache).destroy()
    host.old(A)

    host.update()

    assert set() == host.names
    assert {"images", DISKS} == {each.name() for each in host.connection.listAllStoragePools()}


@pytest.mark.parametrize("how", ["locked", "written", "pending", "no-libvirt"])
def test_what_stands_in_the_way_is_logged_and_removes_nothing(
    host: Compute, nova_case: Any, how: str
) -> None:
    """Another xmlkit at work, a transition that is open, or no libvirt: the next pass will see."""
    host.old(A)
    if how == "no-libvirt":
        nova_case.flags(connection_uri="qemu+unix:///system?socket=/nowhere", group="libvirt")
        host.update()
        words = "is left as it is: cannot connect"
    elif how == "locked":
        with state.lock(state.directory()):
            host.update()
        words = "No image of the cache is removed now: process"
    elif how == "written":
        with state.host_lock(host_uuid(host.connection)):  # with another state directory
            host.update()
        words = "No image of the cache is removed now: process"
    else:
        with mock.patch.object(journal, "read_all", return_value=([mock.Mock(id="x")], [])):
            state.directory()
            host.update()
        words = "No image of the cache is removed now: transition x has not come to an end"

    assert {A} == host.names
    assert words in nova_case.stdlog.logger.output


@pytest.mark.parametrize("is_pool", [True, False])
def test_a_link_to_the_cache_is_told(host: Compute, nova_case: Any, is_pool: bool) -> None:
    """Links are not followed: as long as there is one, nothing is removed."""
    link = host.libvirtd.directory / "nova"
    link.symlink_to(host.instances)
    nova_case.flags(instances_path=str(link))
    host.old(A)
    if not is_pool:
        pool = host.connection.storagePoolLookupByName(POOL)
        pool.destroy()
        pool.undefine()

    host.update()

    assert {A} == host.names
    said = nova_case.stdlog.logger.output
    assert f"{link}/_base is left as it is: {link} is a symbolic link" in said


def test_no_process_is_started_for_an_image(host: Compute) -> None:
    """Nova's own starts qemu-img for each instance."""
    for number in range(3):
        host.volume_guest(f"guest-{number}", host.old(A))

    with (
        mock.patch("subprocess.Popen", side_effect=AssertionError),
        mock.patch("os.posix_spawn", side_effect=AssertionError),
        mock.patch("os.fork", side_effect=AssertionError),
    ):
        host.update()

    assert {A} == host.names
