"""The storage pools that hold the disks of a Nova host, as its configuration names them.

Laws
- Pools are taken as they are; only those that nobody has named and nobody has made are made.
- Of an instance are the volumes `{uuid}_*` of these pools, and of others those alone that its
  domain has for a disk.
- What would let no guest start, or lose a disk, is refused when Nova starts, and all of it is told.

Imported inside a Nova only.
"""

from __future__ import annotations

import contextlib
import glob
import os
from collections.abc import Callable, Collection, Iterator
from typing import Any, NamedTuple

import libvirt
import nova.conf
from lxml import etree
from nova import exception
from nova.virt.libvirt.storage import lvm
from oslo_config import cfg
from oslo_log import log

from xmlkit import actions, images, leisure, names, pools
from xmlkit.disks import Address, Disk, read_domain
from xmlkit.document import Document
from xmlkit.errors import XmlkitError
from xmlkit.host import Host, Pool, aa_helper_reads, parse_pool
from xmlkit.preflight import APPARMOR_HELPER
from xmlkit.volumes import Permissions

__all__ = [
    "IMAGES_TYPE",
    "Place",
    "StorageError",
    "Store",
    "bind",
    "delete_elsewhere",
    "delete_volumes",
    "is_bound",
    "is_with_instances",
    "local_gb_info",
    "may_be_shared",
    "prepare",
    "refuse_logical",
    "register_options",
    "store",
    "unbind",
]

IMAGES_TYPE = "libvirt-storage"

# Kind of disk -> pool, where the option says nothing; "disks" is for every kind without its own.
_POOLS = {"base": "nova-base-images-pool", "disks": "nova-disks-pool"}
_KINDS = ("root", "ephemeral", "swap")

# File systems that other hosts may have as well.
_SHARED_FILE_SYSTEMS = frozenset(
    (
        *("9p", "afs", "beegfs", "ceph", "cifs", "gfs2", "glusterfs", "gpfs", "lustre", "nfs"),
        *("nfs4", "ocfs2", "smb3", "virtiofs"),
        *("fuse.ceph", "fuse.glusterfs", "fuse.quobyte", "fuse.sshfs"),
    )
)

_GIB = 1 << 30

LOG = log.getLogger(__name__)
CONF = nova.conf.CONF


class StorageError(XmlkitError):
    """The pools of this host cannot be used as they are; the message says what to do."""


def register_options() -> None:
    """Let Nova's configuration know `[libvirt] storage_pools` and our images_type. Twice is once.

    It has to be done before the configuration is read.
    """
    option = cfg.DictOpt(
        "storage_pools",
        default={},
        help="The storage pools of images_type = libvirt-storage, by what lies in them: base (the "
        "image cache), disks, and root, ephemeral, swap where a kind of disk has a pool of its "
        "own; as in 'base:nova-base-images-pool,disks:nova-disks-pool,swap:fast'.",
    )
    CONF.register_opt(option, group="libvirt")
    for each in nova.conf.libvirt.libvirt_imagebackend_opts:
        if each.name == "images_type":
            each.type.choices.setdefault(IMAGES_TYPE, None)


class Place(NamedTuple):
    """A pool as libvirt describes it now, and libvirt-python's handle of it."""

    pool: Pool
    handle: Any
    xml: etree._Element


class Store:
    """The storage pools of one host, as Nova's configuration names them.

    connect: gives libvirt-python's connection, as nova.virt.libvirt.host.Host.get_connection.
    """

    def __init__(self, connect: Callable[[], Any]) -> None:
        self.connect = connect
        self._host: Host | None = None

    @property
    def host(self) -> Host:
        """Version and security models; they stay while libvirtd does."""
        if self._host is None:
            connection = self.connect()
            capabilities = etree.fromstring(connection.getCapabilities().encode())
            self._host = Host(
                libversion=connection.getLibVersion(),
                driver=connection.getType().lower(),
                security_models=tuple(
                    each.text or "" for each in capabilities.iterfind("host/secmodel/model")
                ),
            )
        return self._host

    @staticmethod
    def pool_name(kind: str) -> str:
        """The name of the pool for "base", "root", "ephemeral" or "swap"."""
        said = {**_POOLS, **CONF.libvirt.storage_pools}
        return str(said.get(kind) or said["disks"])

    def names(self) -> tuple[str, ...]:
        """The names of the pools of disks, each once."""
        return tuple(dict.fromkeys(map(self.pool_name, _KINDS)))

    def place(self, name: str) -> Place:
        """The pool of that name. Raises StorageError if libvirt has none or it is not active."""
        try:
            handle = self.connect().storagePoolLookupByName(name)
            active = bool(handle.isActive())
            xml = etree.fromstring(handle.XMLDesc(0).encode())
        except libvirt.libvirtError as error:
            raise StorageError(f"pool {name}: {error.get_error_message()}") from None
        if not active:
            raise StorageError(f"pool {name} is not active: virsh pool-start {name}")
        return Place(parse_pool(xml), handle, xml)

    def find(self, path: str) -> tuple[Place, str] | None:
        """Pool of ours and volume that a path is; None for another path. By string, as libvirt."""
        for name in self.names():
            place = self.place(name)
            directory, _, volume = path.rpartition("/")
            if place.pool.type != "rbd" and directory == place.pool.path:
                return place, volume
        return None

    def lookup(self, place: Place, name: str) -> Any:
        """libvirt-python's volume, or None. A file that libvirt has not seen yet is looked for."""
        with contextlib.suppress(libvirt.libvirtError):
            return place.handle.storageVolLookupByName(name)
        path = place.pool.path_of(name)
        if path is None or not os.path.lexists(path):
            return None
        leisure.refresh(place.handle)
        with contextlib.suppress(libvirt.libvirtError):
            return place.handle.storageVolLookupByName(name)
        return None

    def disk_of(self, uuid: str, place: Place, volume: str, *paths: str) -> Disk | None:
        """The disk of an instance's domain that is this volume, or one of these paths."""
        try:
            domain = self.connect().lookupByUUIDString(uuid)
            text = domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)
        except libvirt.libvirtError:
            return None
        for disk in read_domain(Document.parse(text)).disks:
            at = disk.address
            if at.path in paths or (place.pool.name, volume) == (at.pool, at.volume):
                return disk
        return None

    def volumes_of(self, uuid: str) -> Iterator[tuple[Place, str]]:
        """Pool and name of each volume `{uuid}_*`, in all pools but rbd.

        Raises StorageError for a pool that cannot be looked into, and for what is no UUID.
        """
        if not names.UUID.fullmatch(uuid):
            raise StorageError(f"not the UUID of an instance: {uuid!r}")
        for name in self.names():
            place = self.place(name)
            if place.pool.type == "rbd":
                continue
            beginning = names.volume_name(uuid, "")
            found = set(place.handle.listVolumes())
            there = glob.glob(glob.escape(f"{place.pool.path}/{beginning}") + "*")
            if not found.issuperset(map(os.path.basename, there)):
                # Nova's own copying does not ask libvirt
                leisure.refresh(place.handle)
                found = set(place.handle.listVolumes())
            yield from ((place, each) for each in sorted(found) if each.startswith(beginning))


_bound: list[Store] = []


def bind(connect: Callable[[], Any]) -> Store:
    """Say how libvirt is reached: from now on the backends of this process use it."""
    _bound[:] = [Store(connect)]
    return _bound[0]


def unbind() -> None:
    """Forget how libvirt is reached."""
    _bound.clear()


def is_bound() -> bool:
    """Whether libvirt can be reached."""
    return bool(_bound)


def store() -> Store:
    """The pools that were bound. Raises StorageError if none were."""
    if not _bound:
        raise StorageError(f"images_type = {IMAGES_TYPE}, and xmlkit.nova has not been enabled")
    return _bound[0]


def prepare() -> None:
    """Have the pools ready when Nova starts, or say all that stands in the way.

    The base images' pool and the pool of all disks are made, as directories below instances_path,
    where they have their usual names and libvirt has none of that name. All are started if need be
    and will start with the host. Raises StorageError.
    """
    found = store()
    wrong = [*_wrong_options(found), *_wrong_pools(found)]
    if not wrong:
        wrong = [*_apparmor(found)]
    if wrong:
        raise StorageError(f"images_type = {IMAGES_TYPE} cannot be used:\n" + "\n".join(wrong))


def delete_volumes(uuid: str, chosen: Callable[[str], bool] = lambda name: True) -> tuple[str, ...]:
    """Remove the volumes of an instance that has no guest any more, from all pools of disks.

    chosen: which, by Nova's name of the disk, `disk.swap`; all unless given. What is on a block
    device is first overwritten as `[libvirt] volume_clear` says.
    Returns the names of those removed. Raises StorageError, libvirtError.
    """
    removed = []
    for place, volume in store().volumes_of(uuid):
        if not chosen(volume[len(uuid) + 1 :]):
            continue
        try:
            found = place.handle.storageVolLookupByName(volume)
            if not store().host.can("image-volumes", place.pool.type):
                lvm.clear_volume(found.path())
            found.delete(0)
        except libvirt.libvirtError as error:
            if error.get_error_code() != libvirt.VIR_ERR_NO_STORAGE_VOL:
                raise
        removed.append(volume)
    return tuple(removed)


def delete_elsewhere(connection: Any, uuid: str, places: Collection[str]) -> None:
    """Remove the volumes of an instance that is off from pools that are none of `places`.

    They are those that its domain has for a disk and that are named `{uuid}_NAME`: an operator has
    moved it there, or storage_pools has been changed since. Of a pool that other hosts may have
    nothing goes: Nova does not know it, and the instance may run there by now. Raises libvirt's
    errors: Nova deletes again, as long as the domain is there.
    """
    try:
        domain = connection.lookupByUUIDString(uuid)
        if domain.isActive():
            return
        text = domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)
    except libvirt.libvirtError as error:
        if error.get_error_code() in (libvirt.VIR_ERR_NO_DOMAIN, libvirt.VIR_ERR_INVALID_ARG):
            return
        raise
    for disk in read_domain(Document.parse(text)).disks:
        volume = _volume_at(connection, disk.address)
        name = volume.name() if volume is not None else ""
        own = names.split_volume_name(name)
        if own is None or own[0] != uuid or names.kind_of(own[1]) in (None, "config"):
            continue
        handle = volume.storagePoolLookupByVolume()
        pool = handle.name()
        if pool in places:
            continue
        if may_be_shared(parse_pool(etree.fromstring(handle.XMLDesc(0).encode()))):
            LOG.warning("Volume %s/%s stays: other hosts may have its pool", pool, name)
            continue
        if volume.info()[0] == libvirt.VIR_STORAGE_VOL_BLOCK:
            lvm.clear_volume(volume.path())
        volume.delete(0)
        LOG.info("Removed volume %s/%s of instance %s", pool, name, uuid)


def refuse_logical(connection: Any, uuid: str) -> None:
    """Raise nova's InstanceFaultRollback for a guest with a disk of Nova's own Lvm.

    Nova refuses to migrate it where images_type is lvm still; else it would take
    /dev/VG/{uuid}_disk for a file. Raises libvirt's errors.
    """
    try:
        text = connection.lookupByUUIDString(uuid).XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)
    except libvirt.libvirtError as error:
        if error.get_error_code() in (libvirt.VIR_ERR_NO_DOMAIN, libvirt.VIR_ERR_INVALID_ARG):
            return
        raise
    for disk in read_domain(Document.parse(text)).disks:
        path = disk.address.path or ""
        own = names.split_volume_name(os.path.basename(path))
        if disk.address.type == "block" and own is not None and own[0] == uuid:
            reason = f"{path} is a block device: such a disk is not migrated"
            refused = exception.MigrationPreCheckError(reason=reason)
            raise exception.InstanceFaultRollback(refused)


def _volume_at(connection: Any, address: Address) -> Any:
    """libvirt-python's volume that a disk is, also where the host's disks keep paths, or None."""
    try:
        if address.type == "volume":
            pool = connection.storagePoolLookupByName(address.pool)
            if not pool.isActive():
                LOG.warning("Volume %s stays: its pool is not active", address)
                return None
            return pool.storageVolLookupByName(address.volume)
        return connection.storageVolLookupByPath(address.path) if address.path else None
    except libvirt.libvirtError as error:
        gone = (libvirt.VIR_ERR_NO_STORAGE_POOL, libvirt.VIR_ERR_NO_STORAGE_VOL)
        if error.get_error_code() in gone:
            return None
        raise


def local_gb_info() -> dict[str, float]:
    """Size, used and free space of the pool of root disks in GiB, as the pool's refresh finds it.

    Nova's `_get_local_gb_info`. Raises StorageError.
    """
    place = store().place(Store.pool_name("root"))
    with contextlib.suppress(libvirt.libvirtError):
        # one that is busy says what it said last
        leisure.refresh(place.handle, seconds=1.0)
    _, capacity, _, available = place.handle.info()
    return {
        "total": capacity / _GIB,
        "free": available / _GIB,
        "used": (capacity - available) / _GIB,
    }


def _wrong_options(found: Store) -> Iterator[str]:
    for kind in CONF.libvirt.storage_pools.keys() - {"base", "disks", *_KINDS}:
        yield f"[libvirt] storage_pools: {kind!r} is none of base, disks, {', '.join(_KINDS)}"
    if CONF.ephemeral_storage_encryption.enabled:
        yield "[ephemeral_storage_encryption] enabled: LibvirtStorage does not encrypt disks"
    if CONF.libvirt.sparse_logical_volumes:
        yield "[libvirt] sparse_logical_volumes: libvirt's logical volumes are allocated in full"
    base = found.pool_name("base")
    if base in found.names():
        yield f"[libvirt] storage_pools: {base} cannot be for base images and for disks"


def _wrong_pools(found: Store) -> Iterator[str]:
    directory = os.path.join(CONF.instances_path, CONF.image_cache.subdirectory_name)
    usual = {_POOLS["base"]: directory, _POOLS["disks"]: f"{CONF.instances_path}/disks"}
    types = set()
    for name in (found.pool_name("base"), *found.names()):
        try:
            pool = _started(found, name, usual.get(name))
        except XmlkitError as error:
            yield str(error)
            continue
        if name == found.pool_name("base"):
            if not found.host.can("image-volumes", pool.type) or pool.path != directory:
                yield f"pool {name} is {pool.path or pool.type}, not the image cache {directory}"
        elif pool.type == "disk" or not found.host.can("create-volumes", pool.type):
            yield f"pool {name}: the volumes of a {pool.type} pool cannot be named as Nova's disks"
        else:
            types.add(pool.type)
            yield from _shared_unsaid(pool)
    if "rbd" in types and not CONF.force_raw_images:
        yield "[DEFAULT] force_raw_images is off: rbd pools take raw images alone"
    for type_ in sorted(types & {"rbd", "netfs"} if len(types) > 1 else ()):
        # Nova asks once for all disks whether other hosts have them
        yield f"[libvirt] storage_pools: all pools of disks are of type {type_}, or none"


def _shared_unsaid(pool: Pool) -> Iterator[str]:
    """A pool of which Nova would think that no other host has it: it would delete what both use."""
    if pool.type not in ("dir", "fs"):
        return
    try:
        kind = _shared_by(pool)
    except XmlkitError as error:
        yield f"pool {pool.name}: {error}"
        return
    if kind:
        yield (
            f"pool {pool.name} lies on {kind}, which other hosts may share, and not on that of "
            f"{CONF.instances_path}: make it a pool of type netfs, or put it below there"
        )


def may_be_shared(pool: Pool) -> bool:
    """Whether other hosts may have a pool, and Nova does not know it by its instances_path."""
    if pool.type not in ("dir", "fs"):
        return pool.type not in ("logical", "disk")
    try:
        return bool(_shared_by(pool))
    except (XmlkitError, OSError):
        return True


def _shared_by(pool: Pool) -> str:
    """The file system by which other hosts may have a directory, if it is not instances_path's.

    Raises XmlkitError, OSError.
    """
    kind = images.file_system(os.path.realpath(pool.path)).type
    return "" if kind not in _SHARED_FILE_SYSTEMS or is_with_instances(pool) else kind


def is_with_instances(pool: Pool) -> bool:
    """Whether who has instances_path has the pool's directory: it is below, and not another mount.

    Raises OSError.
    """
    below = f"{pool.path}/".startswith(f"{CONF.instances_path.rstrip('/')}/")
    return below and os.stat(pool.path).st_dev == os.stat(CONF.instances_path).st_dev


def _started(found: Store, name: str, directory: str | None) -> Pool:
    """The pool, active; made over a directory if libvirt has none of that name."""
    connection = found.connect()
    try:
        handle = connection.storagePoolLookupByName(name)
    except libvirt.libvirtError as error:
        if error.get_error_code() != libvirt.VIR_ERR_NO_STORAGE_POOL or directory is None:
            raise StorageError(f"pool {name}: {error.get_error_message()}") from None
        mine = Permissions(0o755, os.geteuid(), os.getegid())
        document = pools.pool(name, "dir", target=directory, permissions=mine)
        actions.create_pool(connection, document)
        return found.place(name).pool
    try:
        if not handle.isActive():
            handle.create(0)
        if not handle.autostart():
            handle.setAutostart(True)
    except libvirt.libvirtError as error:
        raise StorageError(f"pool {name}: {error.get_error_message()}") from None
    return found.place(name).pool


def _apparmor(found: Store) -> Iterator[str]:
    """The lines that the profile of virt-aa-helper lacks: without them no overlay has a base."""
    if found.host.can("volume-disk-security"):
        return
    try:
        with open(APPARMOR_HELPER) as file:
            said = {" ".join(line.split()) for line in file}
    except FileNotFoundError:
        said = set()
    for name in (found.pool_name("base"), *found.names()):
        pool = found.place(name).pool
        if not found.host.can("image-volumes", pool.type) or aa_helper_reads(f"{pool.path}/0"):
            continue
        if said.isdisjoint({f"{pool.path}/* r,", f"{pool.path}/** r,"}):
            yield (
                f"AppArmor: virt-aa-helper may not read {pool.path}: add '{pool.path}/* r,' to "
                f"{APPARMOR_HELPER}, and load it: apparmor_parser -r "
                "/etc/apparmor.d/usr.lib.libvirt.virt-aa-helper"
            )
