"""A host of Nova's with our image backend, for tests on real storage.

Who imports it has imported nova.tests.unit first of all: that chooses Nova's threads.
"""

from __future__ import annotations

import contextlib
import json
import os
import struct
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from lxml import etree
from nova import context, objects, test
from nova.tests import fixtures
from scene import DOMAIN, run

from xmlkit.nova import seams, store
from xmlkit.nova.storage import Backend
from xmlkit.nova.store import IMAGES_TYPE
from xmlkit.testing import boot_sector

MIB = 1 << 20
IMAGE = "0123456789abcdef0123456789abcdef01234567"  # of the base image's file
DISK = {"bus": "virtio", "dev": "vda", "type": "disk"}


def guest() -> bytes:
    """A guest that boots, on a disk with one partition: Nova takes no boot sector without."""
    sector = bytearray(boot_sector())
    sector[446:462] = struct.pack("<B3sB3sII", 0x80, bytes(3), 0x83, bytes(3), 1, 2047)
    return bytes(sector)


class _Case(test.NoDBTestCase):  # type: ignore[misc] # Nova has no types
    """Nova's test case with nothing to test: what it sets up and takes down is wanted."""

    REQUIRES_LOCKING = True

    def runTest(self) -> None:
        """There has to be one."""


@contextlib.contextmanager
def set_up() -> Iterator[Any]:
    """Nova as its own unit tests find it: `flags()`, `stub_out()`, `useFixture()`; no database."""
    case = _Case()
    case.setUp()
    try:
        yield case
        case.tearDown()
    finally:
        while case._cleanups:
            function, arguments, keywords = case._cleanups.pop()
            function(*arguments, **keywords)


class NovaHost:
    """A host of Nova's: instances_path, a libvirtd, the pools, and the backend on them."""

    def __init__(self, case: Any, connection: Any, directory: Path) -> None:
        self.case = case
        self.connection = connection
        self.instances = directory / uuid.uuid4().hex
        self.instances.mkdir(mode=0o755)
        store.register_options()
        case.useFixture(fixtures.PrivsepFixture())
        case.flags(instances_path=str(self.instances), use_cow_images=True)
        case.flags(images_type=IMAGES_TYPE, virt_type="qemu", group="libvirt")
        case.flags(lock_path=str(self.instances / "locks"), group="oslo_concurrency")
        self.store = store.bind(lambda: self.connection)
        self.backend = Backend(True)
        self.instance = self.another()
        self.fetched: list[str] = []

    @property
    def disks(self) -> Path:
        return self.instances / "disks"

    @property
    def base(self) -> Path:
        return self.instances / "_base" / IMAGE

    def another(self) -> Any:
        """An instance of which nothing is there yet."""
        return objects.Instance(id=1, uuid=str(uuid.uuid4()), ephemeral_key_uuid=None)

    def disk(self, name: str = "disk", **mapping: Any) -> Any:
        return self.backend.by_name(self.instance, name, disk_info_mapping={**DISK, **mapping})

    def fetch(
        self, content: int = 2 * MIB, format: str = "raw", options: str = ""
    ) -> Callable[..., None]:
        """What takes the place of Nova's download: a guest that boots, and counts."""

        def fetch(target: str, **_: Any) -> None:
            self.fetched.append(target)
            raw = Path(f"{target}.part")
            with raw.open("wb") as file:
                file.write(guest())
                file.truncate(content)
            if format == "raw":
                raw.rename(target)
                return
            words = ["-o", options] if options else []
            run("qemu-img", "convert", "-f", "raw", "-O", format, *words, raw, target)
            raw.unlink()

        return fetch

    def make(self, disk: Any, size: int | None = 4 * MIB, **fetch: Any) -> Any:
        """The disk, made from an image as Nova's driver has it made."""
        admin = context.get_admin_context()
        function = self.fetch(**fetch)
        disk.cache(fetch_func=function, context=admin, filename=IMAGE, size=size, image_id="1")
        return disk

    def path(self, name: str = "disk") -> Path:
        return self.disks / f"{self.instance.uuid}_{name}"

    def volumes(self) -> list[str]:
        """What libvirt lists, and what is in the directory: both have to be the same."""
        listed = sorted(self.connection.storagePoolLookupByName("nova-disks-pool").listVolumes())
        assert sorted(os.listdir(self.disks)) == listed
        return listed

    def close(self) -> None:
        for domain in self.connection.listAllDomains():
            if domain.isActive():
                domain.destroy()
            domain.undefine()
        for pool in self.connection.listAllStoragePools():
            if pool.isActive():
                pool.destroy()
            pool.undefine()
        self.connection.close()


def info(path: Path, format: str) -> dict[str, Any]:
    """What qemu-img says of an image, told its format."""
    text = run("qemu-img", "info", "-U", "--output=json", "-f", format, path)
    found: dict[str, Any] = json.loads(text)
    return found


def head(path: Path, format: str, target: Path) -> bytes:
    """The first sector of what the guest sees."""
    run("qemu-img", "convert", "-U", "-f", format, "-O", "raw", path, target)
    return target.read_bytes()[:512]


def domain(host: NovaHost, *disks: Any, log: object = "/dev/null") -> str:
    """A guest with these disks, as the seam writes its XML."""
    written = [etree.tostring(each.format_dom(), encoding="unicode") for each in disks]
    xml = DOMAIN.format(name="guest", uuid=host.instance.uuid, disks="".join(written), log=log)
    return str(seams.written(xml, seams.Libvirt(), host.store.connect))


def source(host: NovaHost, disk: Any) -> dict[str, str]:
    """What the guest's XML says of the place of a disk."""
    found = etree.fromstring(domain(host, disk)).find("devices/disk/source")
    return {} if found is None else {str(name): str(value) for name, value in found.attrib.items()}
