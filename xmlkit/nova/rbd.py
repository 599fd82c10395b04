"""Nova's image backend on a libvirt pool of type rbd.

Laws
- Which cluster, pool and user, and the secret with its key, are the pool's word: one place for it.
- Its disks are network disks: libvirt lets no volume of such a pool be behind a volume disk.
- Images are made, cloned, grown and removed by librbd, as Nova does: libvirt's pool would have to
  read all images anew for each that was cloned, and can neither clone from Glance nor flatten.

Imported inside a Nova only. Source: nova.virt.libvirt.imagebackend.Rbd, 34.0.0.
"""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Any

import libvirt
from nova.storage import rbd_utils
from nova.virt.image import model
from nova.virt.libvirt import imagebackend

from xmlkit import names
from xmlkit.nova.store import Place, Store, store

__all__ = ["PoolDriver", "RbdStorage", "delete_images"]


class PoolDriver(rbd_utils.RBDDriver):
    """Nova's access to a Ceph pool, to that of a libvirt pool."""

    def __init__(self, place: Place) -> None:
        """place: a pool of type rbd. Raises RuntimeError without the libraries of Ceph."""
        self.place = place
        auth = place.xml.find("source/auth")
        super().__init__(
            pool=place.xml.findtext("source/name"),
            user=None if auth is None else auth.get("username"),
        )

    def get_mon_addrs(self, strip_brackets: bool = True) -> tuple[list[str], list[str]]:
        """Names and ports of the monitors; "6789" where the pool says none."""
        hosts, ports = [], []
        for host in self.place.xml.iterfind("source/host"):
            name = host.get("name", "").strip("[]")
            hosts.append(f"[{name}]" if ":" in name and not strip_brackets else name)
            ports.append(host.get("port") or "6789")
        return hosts, ports

    @property
    def secret(self) -> str | None:
        """The UUID of libvirt's secret with the key, None where none is asked for."""
        said = self.place.xml.find("source/auth/secret")
        if said is None:
            return None
        usage = said.get("usage")
        if said.get("uuid") is None and usage is not None:
            kind = libvirt.VIR_SECRET_USAGE_TYPE_CEPH
            return str(store().connect().secretLookupByUsage(kind, usage).UUIDString())
        return said.get("uuid")


class RbdStorage(imagebackend.Rbd):
    """A disk that is an image in the Ceph pool behind a libvirt pool."""

    def __init__(
        self,
        instance: Any = None,
        disk_name: str | None = None,
        path: str | None = None,
        disk_info_mapping: Any = None,
    ) -> None:
        """The disk `disk_name` of an instance, or the one at `path`, POOL/IMAGE; nothing is made.

        Raises StorageError for a pool that cannot be used, RuntimeError without librbd.
        """
        super().__init__(instance, disk_name, path, disk_info_mapping)
        self.driver = PoolDriver(store().place(Store.pool_name("root")))
        self.path = f"rbd:{self.driver.pool}/{self.rbd_name}"
        if self.driver.rbd_user:
            self.path += f":id={self.driver.rbd_user}"
        if self.driver.ceph_conf:
            self.path += f":conf={self.driver.ceph_conf}"

    def libvirt_info(self, *args: Any, **kwargs: Any) -> Any:
        """The disk for the guest's XML, a network disk with the pool's monitors and secret."""
        info = super().libvirt_info(*args, **kwargs)
        if (secret := self.driver.secret) is not None:
            info.auth_secret_type = "ceph"  # noqa: S105 -- it is a type
            info.auth_secret_uuid = secret
            info.auth_username = self.driver.rbd_user
        return info

    def get_model(self, connection: Any) -> Any:
        """The disk for libguestfs."""
        key = None
        if (secret := self.driver.secret) is not None:
            key = base64.b64encode(connection.secretLookupByUUIDString(secret).value())
        hosts, ports = self.driver.get_mon_addrs(strip_brackets=False)
        servers = [f"{host}:{port}" for host, port in zip(hosts, ports, strict=True)]
        return model.RBDImage(self.rbd_name, self.driver.pool, self.driver.rbd_user, key, servers)


def delete_images(uuid: str, chosen: Callable[[str], bool] = lambda name: True) -> None:
    """Remove the images of an instance, those that are chosen by Nova's names of the disks."""

    def is_chosen(image: str) -> bool:
        own = names.split_volume_name(image)
        return own is not None and own[0] == uuid and chosen(own[1])

    PoolDriver(store().place(Store.pool_name("root"))).cleanup_volumes(is_chosen)
