"""Nova's image backend on libvirt's storage pools: `images_type = libvirt-storage`.

Laws
- A disk's format is what was declared when it was made, in disk.info, or what its domain says; an
  existing disk of which neither speaks is refused. A volume on a block device is raw.
- To all of Nova a disk is a path, file or block: the seam that writes the guest's XML makes it the
  volume that it is, where the host can have that.
- Nothing is overwritten, and what fails leaves no volume behind.
- libvirt makes and removes volumes. What it would read anew from bytes that a guest has written
  (the format, in resizing and copying) is never asked of it.
- Config drive, kernel and ramdisk stay files: what is no disk of the guest's own is no volume.
- What a resize has to give back the seams keep in `{uuid}_resize`, as Nova does.

Imported inside a Nova only. Source of what it has to do: nova.virt.libvirt.imagebackend, 34.0.0.
"""

from __future__ import annotations

import contextlib
import os
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import libvirt
import nova.conf
from nova import exception, utils
from nova.compute import task_states
from nova.virt import images
from nova.virt.disk import api as disk_api
from nova.virt.image import model
from nova.virt.libvirt import imagebackend
from nova.virt.libvirt import utils as libvirt_utils
from oslo_concurrency import processutils
from oslo_log import log
from oslo_utils import fileutils, strutils
from oslo_utils.imageutils import format_inspector

from xmlkit import actions, disk_info, leisure, names, volumes
from xmlkit.images import is_linked
from xmlkit.nova import store as stores
from xmlkit.nova.live import starts_unsettled
from xmlkit.nova.rbd import RbdStorage, delete_images
from xmlkit.nova.seams import Asked, Seam, bound
from xmlkit.nova.store import IMAGES_TYPE, Store, store
from xmlkit.volumes import Creation, Fill, Permissions, Target

__all__ = [
    "STORAGE",
    "Backend",
    "LibvirtStorage",
    "chosen_class",
    "delete_disks",
    "refuse_to_move",
    "settle",
    "unsettle",
]

# Pools that other hosts see as well, by their very type.
_SHARED = frozenset(("netfs", "rbd"))

_MODE = 0o644  # as Nova's own files: it looks at disks of running guests as its own user

# Formats of oslo's inspector that QEMU calls otherwise; what is none of QEMU's is raw to it.
_QEMU_FORMATS = {"qcow2": "qcow2", "vmdk": "vmdk", "vhd": "vpc", "vhdx": "vhdx", "vdi": "vdi"}

LOG = log.getLogger(__name__)
CONF = nova.conf.CONF


class LibvirtStorage(imagebackend.Image):
    """A disk that is a volume: qcow2 on its base image, or raw; raw in a pool of block devices."""

    def __init__(
        self,
        instance: Any = None,
        disk_name: str | None = None,
        path: str | None = None,
        disk_info_mapping: Any = None,
    ) -> None:
        """The disk `disk_name` of an instance, or the one at `path`; nothing is made.

        Raises StorageError for a pool that cannot be used, nova's InvalidDevicePath for a path that
        is no disk of the instance, InvalidDiskInfo for a disk of which nobody says the format.
        """
        self._store = store()
        if path:
            found = self._store.find(path)
            parts = names.split_volume_name(found[1]) if found else None
            if found is None or parts is None or parts[0] != instance.uuid:
                raise exception.InvalidDevicePath(path=path)
            self.place, self.volume = found
            self.disk_name = parts[1]
        else:
            self.disk_name = str(disk_name)
            kind = names.kind_of(self.disk_name) or "disks"
            self.place = self._store.place(self._store.pool_name(kind))
            self.volume = names.volume_name(instance.uuid, self.disk_name)
        self.uuid = instance.uuid
        files = self._store.host.can("image-volumes", self.place.pool.type)
        super().__init__(
            self.place.pool.path_of(self.volume),
            "file" if files else "block",
            "raw",
            is_block_dev=not files,
            disk_info_mapping=disk_info_mapping,
        )
        # all of a block device is allocated
        self.preallocate = not files or strutils.to_slug(CONF.preallocate_images) == "space"
        if self.preallocate:
            self.driver_io = "native"
        if files:
            directory = libvirt_utils.get_instance_path(instance)
            self.disk_info_path = os.path.join(directory, disk_info.NAME)
            self.driver_format = self._format()

    @classmethod
    def is_file_in_instance_path(cls) -> bool:
        """Whether who shares instances_path shares the disks: they are files below it."""
        place = store().place(Store.pool_name("root"))
        files = store().host.can("image-volumes", place.pool.type)
        return files and stores.is_with_instances(place.pool)

    @classmethod
    def is_shared_block_storage(cls) -> bool:
        """Whether the pool is other hosts' as well, by its type: nothing is to be copied there."""
        return store().place(Store.pool_name("root")).pool.type in _SHARED

    def exists(self) -> bool:
        """Whether there is such a volume; a file that was put there is found too."""
        return self._store.lookup(self.place, self.volume) is not None

    def cache(
        self,
        fetch_func: Callable[..., None],
        filename: str,
        size: int | None = None,
        *args: Any,
        **kwargs: Any,
    ) -> None:
        """Nova's own, which makes the disk from the base image `filename`.

        What is generated gets its name when it is whole: another disk that is made meanwhile takes
        a base that is there for one. What a fetch leaves unfinished is gone before another may
        begin. (A fetch itself needs the name: it may copy that from another host.)
        """
        generated = not {"ephemeral_size", "swap_mb"}.isdisjoint(kwargs)

        def fetch(target: str, *rest: Any, **more: Any) -> None:
            if target == self.path:
                fetch_func(*rest, target=target, **more)
                return
            made = f"{target}.part" if generated else target
            with fileutils.remove_path_on_error(made):
                fetch_func(*rest, target=made, **more)
                if generated:
                    os.rename(made, target)

        super().cache(fetch, filename, size, *args, **kwargs)

    def create_image(
        self,
        prepare_template: Callable[..., None],
        base: str,
        size: int | None,
        safe: bool = False,
        *args: Any,
        **kwargs: Any,
    ) -> None:
        """Make the disk unless it is there, and its base image where one is needed.

        base: path of the base image. size: bytes, None for the base image's. safe: the base is of
        Nova's own making. What Nova generates (swap, ephemeral) comes with ephemeral_size or
        swap_mb, what is an image with image_id; raw disks are generated in place.
        Raises nova's FlavorDiskSmallerThanImage, InvalidDiskInfo and ImageUnacceptable, and what
        libvirt refuses; then there is no volume.
        """
        generated = "ephemeral_size" in kwargs or "swap_mb" in kwargs
        in_place = "ephemeral_size" in kwargs or not self.is_block_dev
        if generated and size and self.driver_format == "raw" and in_place:
            if self.exists():
                self.resize_image(size)
                return
            with self._made(self._blank(self.volume, "raw", size)):
                prepare_template(*args, target=self.path, **kwargs)
            return
        if not os.path.exists(base):
            prepare_template(*args, target=base, **kwargs)
            self._register(base)
        format, base_size, cluster = _inspected(base, safe or generated)
        # the image cache sees by it that the base is in use
        imagebackend._update_utime_ignore_eacces(base)
        self.verify_base_size(base, size, base_size=base_size)
        if self.exists():
            return

        def make() -> None:
            if self.driver_format == "qcow2":
                with self._made(self._overlay(base, format, size, cluster)):
                    pass
            else:
                with self._made(self._blank(self.volume, "raw", max(size or 0, base_size))):
                    self._fill(base, format, grown=(size or 0) > base_size)

        name = self._get_lock_name(base)
        utils.synchronized(name, external=True, lock_path=self.lock_path)(make)()

    def resize_image(self, size: int) -> None:
        """Let the disk grow to `size` bytes, and the file system of a raw one that is nothing else.

        A smaller size changes nothing. A block device has got its size when it was made.
        Raises nova's ResizeError for a block device that is smaller.
        """
        now = self._size()
        if size <= now:
            return
        if self.is_block_dev:
            reason = f"libvirt cannot let {self.path} grow from {now} to {size} bytes"
            raise exception.ResizeError(reason=reason)
        # not virStorageVolResize: it would guess the format from the bytes
        disk_api.extend(model.LocalFileImage(self.path, self.driver_format), size)

    def snapshot_extract(self, target: str, out_format: str) -> None:
        """Write the disk's content to the file `target`, flat, read in its declared format.

        qcow2 is compressed if `[libvirt] snapshot_compression` says so. libvirt's own copy is not
        used: it guesses the source's format and never compresses.
        """
        if not self.is_block_dev:
            libvirt_utils.extract_snapshot(self.path, self.driver_format, target, out_format)
            return
        out_format = "raw" if out_format == "iso" else out_format
        compress = CONF.libvirt.snapshot_compression and out_format == "qcow2"
        images.convert_image(
            self.path, target, "raw", out_format, run_as_root=True, compress=compress
        )

    def flatten(self) -> None:
        """Copy into the disk what it has of its base image, so that it needs none."""
        if self.driver_format == "qcow2":
            processutils.execute("qemu-img", "rebase", "-f", "qcow2", "-b", "", self.path)

    def get_model(self, connection: Any) -> Any:
        """The disk for libguestfs."""
        if self.is_block_dev:
            return model.LocalBlockImage(self.path)
        return model.LocalFileImage(self.path, self.driver_format)

    def _can_fallocate(self) -> bool:
        """Whether the space of this disk can be reserved; it is tried on the disk itself."""
        if self.is_block_dev:
            return False
        _, err = processutils.trycmd("fallocate", "-n", "-l", "1", self.path)
        if err:
            LOG.warning("Unable to preallocate image at path: %(path)s", {"path": self.path})
        return not err

    def _format(self) -> str:
        """The declared format of the disk, and that which a new one gets."""
        said = disk_info.formats(self.disk_info_path).get(self.path)
        if said is None and os.path.lexists(self.path):
            disk = self._store.disk_of(self.uuid, self.place, self.volume, self.path)
            if disk is None:
                reason = (
                    f"nobody says the format of {self.path}, and it is not guessed: neither "
                    f"{self.disk_info_path} nor a domain of the instance"
                )
                raise exception.InvalidDiskInfo(reason=reason)
            said = disk.image_format
        said = said or ("qcow2" if CONF.use_cow_images else "raw")
        if said not in ("raw", "qcow2"):
            raise exception.InvalidDiskInfo(reason=f"{self.path} is said to be {said}")
        return said

    def _get_driver_format(self) -> str:
        return str(self.driver_format)

    def _size(self) -> int:
        """Bytes of the disk, read in its declared format."""
        if self.is_block_dev:
            return int(self._store.lookup(self.place, self.volume).info()[1])
        if self.driver_format == "raw":
            return os.stat(self.path).st_size
        return int(images.qemu_img_info(self.path, format=self.driver_format).virtual_size)

    def _target(self, format: str, cluster: int | None = None) -> Target:
        mine = Permissions(_MODE, os.geteuid(), os.getegid())
        return Target(
            format,
            cluster_size=cluster if self._store.host.can("volume-cluster-size") else None,
            permissions=None if self.is_block_dev else mine,
        )

    def _blank(self, name: str, format: str, size: int) -> Creation:
        return volumes.blank(self._store.host, self.place.pool, name, self._target(format), size)

    def _overlay(self, base: str, format: str, size: int | None, cluster: int | None) -> Creation:
        target = self._target("qcow2", cluster)
        return volumes.overlay(
            self._store.host, self.place.pool, self.volume, target, base, format, size
        )

    @contextlib.contextmanager
    def _made(self, creation: Creation) -> Iterator[Any]:
        """The volume, made, with its format on record; gone again if what is done within fails."""
        if not self.is_block_dev:
            os.makedirs(os.path.dirname(self.disk_info_path), exist_ok=True)
            # before it is there: nobody shall find a disk without a format
            self.resolve_driver_format()
        volume = actions.create_volume(self._store.connect(), creation)
        try:
            yield volume
        except BaseException:
            with contextlib.suppress(libvirt.libvirtError):
                volume.delete(0)
            raise

    def _fill(self, base: str, format: str, *, grown: bool) -> None:
        """The base image's content into the new raw volume, and the size that it shall have."""
        if self.is_block_dev:
            images.convert_image(base, self.path, format, "raw", run_as_root=True)
            if grown:
                disk_api.resize2fs(self.path, run_as_root=True)
            return
        size = os.stat(self.path).st_size
        if format == "raw":
            # blocks are shared where the file system can
            same = ("--reflink=auto", "--sparse=auto")
            processutils.execute("cp", *same, "--", base, self.path)
        else:
            actions.fill(Fill(base, format, self.path, "raw"))
        self.resize_image(size)

    def _register(self, base: str) -> None:
        """Let the base images' pool know of a new one; while it is busy, its next refresh will."""
        place = self._store.place(self._store.pool_name("base"))
        try:
            leisure.refresh(place.handle)
        except libvirt.libvirtError as error:
            LOG.warning("pool %s, for %s: %s", place.pool.name, base, error)


def settle(driver: Any) -> None:
    """Give a driver of Nova's that has just reached libvirt the pools in place of its directories.

    driver: nova.virt.libvirt.driver.LibvirtDriver, at the end of its init_host. Nothing is done for
    another images_type. Raises StorageError: the host is not ready.
    """
    if CONF.libvirt.images_type != IMAGES_TYPE:
        return
    stores.bind(lambda: driver._host.get_connection())
    stores.prepare()
    driver.image_backend = Backend(CONF.use_cow_images)
    driver._get_local_gb_info = stores.local_gb_info
    _settled.append(weakref.ref(driver))


_settled: list[weakref.ref[Any]] = []


def unsettle() -> None:
    """Give the drivers that were settled what Nova makes for them; there is no store any more.

    With images_type = libvirt-storage such a driver makes no disk: Nova does not know that type.
    """
    for each in _settled:
        driver = each()
        if driver is not None and isinstance(driver.image_backend, Backend):
            driver.image_backend = imagebackend.Backend(CONF.use_cow_images)
            del driver._get_local_gb_info
    _settled.clear()
    stores.unbind()


def delete_disks(instance: Any, chosen: Callable[[str], bool] = lambda name: True) -> None:
    """Remove the disks of an instance that has no guest any more; nothing unless they are ours.

    chosen: which, by Nova's name of the disk. Raises StorageError and what the storage raises: then
    something is left, and Nova deletes again.
    """
    if not stores.is_bound():
        return
    stores.delete_volumes(instance.uuid, chosen)
    if chosen_class() is RbdStorage:
        # what a resize is taken back to is in the image itself: Nova rolls back to it
        kept = instance.task_state == task_states.RESIZE_REVERTING
        delete_images(
            instance.uuid, lambda name: chosen(name) and (name == "disk.local" or not kept)
        )


def chosen_class() -> Any:
    """LibvirtStorage, or RbdStorage where the root disks' pool is of type rbd."""
    # Nova asks for what the class supports before it can reach libvirt
    if stores.is_bound() and store().place(Store.pool_name("root")).pool.type == "rbd":
        return RbdStorage
    return LibvirtStorage


def refuse_to_move(instance: Any) -> None:
    """Raise nova's InstanceFaultRollback for an instance with disks on block devices.

    Nova's `migrate_disk_and_power_off` would refuse them for images_type = lvm: it copies files.
    """
    for place, volume in store().volumes_of(instance.uuid):
        if not store().host.can("image-volumes", place.pool.type):
            reason = f"{place.pool.name}/{volume} is a block device: such a disk is not migrated"
            error = exception.MigrationPreCheckError(reason=reason)
            raise exception.InstanceFaultRollback(error)


class Backend(imagebackend.Backend):
    """Nova's choice of a backend, decided for each disk: one that is not a volume yet stays.

    It takes the place of nova.virt.libvirt.imagebackend.Backend in a driver (`settle`).
    """

    def backend(self, image_type: str | None = None) -> Any:
        """The class of an images_type, Nova's own or ours; ours goes by the root disks' pool."""
        if (image_type or CONF.libvirt.images_type) != IMAGES_TYPE:
            return super().backend(image_type)
        return chosen_class()

    def by_name(
        self,
        instance: Any,
        name: str,
        image_type: str | None = None,
        disk_info_mapping: Any = None,
    ) -> Any:
        """The disk of that name: as it is if it is there, a volume if it is to be made."""
        chosen = image_type or CONF.libvirt.images_type
        if chosen == IMAGES_TYPE:
            # Nova makes names out of paths (_create_images_and_backing)
            own = names.split_volume_name(os.path.basename(name))
            name = own[1] if own and own[0] == instance.uuid else name
            chosen = _kept_type(instance, name) or IMAGES_TYPE
        return super().by_name(instance, name, chosen, disk_info_mapping)

    def by_libvirt_path(self, instance: Any, path: str, image_type: str | None = None) -> Any:
        """The disk at a path: ours where it is a volume of ours, whatever type Nova takes it for.

        Nova names the type by the path and the driver's format, so it never says ours.
        """
        if CONF.libvirt.images_type == IMAGES_TYPE:
            rbd = self.backend(IMAGES_TYPE) is RbdStorage
            if image_type == "rbd" if rbd else store().find(path) is not None:
                image_type = IMAGES_TYPE
            elif image_type in (None, IMAGES_TYPE):
                image_type = "default"
        return super().by_libvirt_path(instance, path, image_type)


def _kept_type(instance: Any, name: str) -> str | None:
    """The images_type of a disk that is none of ours: no disk at all, or not a volume yet."""
    file = os.path.join(libvirt_utils.get_instance_path(instance), disk_info.NAME)
    if os.path.isabs(name):
        # a copy of a legacy disk that comes from another host; Nova has told its format there
        said = disk_info.formats(file).get(name)
        return said if said in ("raw", "qcow2") else "default"
    kind = names.kind_of(name)
    if kind in (None, "config"):
        return "raw"
    legacy = os.path.join(libvirt_utils.get_instance_path(instance), name)
    group = CONF.libvirt.images_volume_group
    logical = f"/dev/{group}/{names.volume_name(instance.uuid, name.replace('_', '__'))}"
    found = store()
    place = found.place(found.pool_name(str(kind)))
    volume = names.volume_name(instance.uuid, name)
    path = place.pool.path_of(volume)
    if path is None:
        return None
    if group and path != logical and os.path.exists(logical) and not os.path.lexists(path):
        return "lvm"
    if not os.path.lexists(legacy):
        return None
    disk = found.disk_of(instance.uuid, place, volume, legacy, path)
    # while it is moved both are there: the domain says which one counts, then the new one does, but
    # where nobody can tell how a live migration has ended
    if disk is not None:
        if disk.address.path != legacy:
            return None
    elif os.path.lexists(path) and not (
        starts_unsettled(str(instance.uuid)) and is_linked(legacy, path)
    ):
        return None
    said = disk_info.formats(file).get(legacy) or (disk and disk.image_format)
    return said if said in ("raw", "qcow2") else "default"


def _inspected(base: str, generated: bool) -> tuple[str, int, int | None]:
    """Format, size in bytes and cluster size of a base image, once it is found to be safe.

    The checks are Nova's own, of Qcow2.create_image and utils.create_image, 34.0.0: each time, for
    there may be more of them than when it was fetched. generated: Nova made it, and raw.
    Raises nova's InvalidDiskInfo, ImageUnacceptable.
    """
    if generated:
        format = "raw"
    elif CONF.workarounds.disable_deep_image_inspection:
        format = images.qemu_img_info(base).file_format
    else:
        inspector = images.get_image_format(base)
        try:
            inspector.safety_check()
        except format_inspector.SafetyCheckFailed as error:
            LOG.warning("Base image %s failed safety check: %s", base, error)
            raise exception.InvalidDiskInfo(reason="Base image failed safety check") from None
        format = _QEMU_FORMATS.get(str(inspector), "raw")
    if format == "raw":
        # to QEMU its size is that of the file, in whole sectors, and it has no header to look into
        return format, -(-os.stat(base).st_size // 512) * 512, None
    details = images.qemu_img_info(base, format=format)
    if format == "vmdk":
        images.check_vmdk_image("base", details)
    specific = (details.format_specific or {}).get("data") or {}
    if details.backing_file is not None or specific.get("data-file") is not None:
        LOG.warning("Base image %s failed safety check", base)
        raise exception.InvalidDiskInfo(reason="Base image failed safety check")
    if format != "qcow2":
        reason = f"{base} is {format}, and LibvirtStorage takes raw and qcow2: force_raw_images"
        raise exception.InvalidDiskInfo(reason=reason)
    return format, int(details.virtual_size), details.cluster_size


# The seams that the images_type needs; `settle` and `refuse_to_move` are called at those of
# instances.py.


def _choosing(original: Callable[..., Any], asked: Asked) -> Callable[..., Any]:
    """Nova's own Backend knows our type too: the driver asks it before it is settled."""

    def backend(self: Any, *args: Any, **kwargs: Any) -> Any:
        type_ = bound(original, self, *args, **kwargs)["image_type"]
        if (type_ or CONF.libvirt.images_type) == IMAGES_TYPE:
            return chosen_class()
        return original(self, *args, **kwargs)

    return backend


def _unrescuing(original: Callable[..., Any], asked: Asked) -> Callable[..., Any]:
    """The disks that were there for the rescue alone go, as Nova has it of files and of LVM."""

    def unrescue(self: Any, *args: Any, **kwargs: Any) -> Any:
        instance = bound(original, self, *args, **kwargs)["instance"]
        found = original(self, *args, **kwargs)
        delete_disks(instance, lambda name: name.endswith(".rescue"))
        return found

    return unrescue


STORAGE = (
    Seam("nova.virt.libvirt.imagebackend:Backend", "backend", ("self", "image_type"), _choosing),
    Seam(
        "nova.virt.libvirt.driver:LibvirtDriver",
        "unrescue",
        ("self", "context", "instance"),
        _unrescuing,
    ),
)
