"""Benchmark: a disk made by our image backend, beside Nova's own on the same file system.

Rules
- One host, one run, in turn; the best of the rounds counts. Bases are there already, and their
  pages in memory: it is about what the backends do, not about Glance.
- create_image as Nova calls it, with all that it starts; resizing to the flavor's size is in it.
- `--quick`: fewer rounds. Exit code: 0 all goals reached, 1 one missed, 2 something is missing.

It needs a Nova: `make bench` runs it in tox's environment for that.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

os.environ["OS_NOVA_DISABLE_EVENTLET_PATCHING"] = "true"

GOAL = 1.1  # times Nova's own
MIB = 1 << 20
SPARSE, DENSE, FLAVOR = 1024 * MIB, 256 * MIB, 2048 * MIB


def main() -> int:
    """Run them all and print a table."""
    parser = argparse.ArgumentParser(description="Measure the image backend against Nova's own.")
    parser.add_argument("--quick", action="store_true", help="fewer rounds")
    rounds = 3 if parser.parse_args().quick else 10
    try:
        import nova.tests.unit
    except ImportError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 2
    assert nova.tests.unit
    from nova.virt.libvirt import imagebackend

    missed = False
    print(f"{'create_image':<52} {'xmlkit':>10} {'other':>10} {'ratio':>6} {'goal':>6}")
    with host() as found:
        for name, cow, theirs, dense in (
            ("an overlay, 1 GiB / Qcow2", True, imagebackend.Qcow2, False),
            ("a copy of 256 MiB / Flat", False, imagebackend.Flat, True),
            ("a copy of 1 GiB, sparse / Flat", False, imagebackend.Flat, False),
        ):
            found.case.flags(use_cow_images=cow)
            base = based(found, dense)
            best = measured(found, theirs, base, rounds)
            ratio = best[0] / best[1]
            missed |= ratio > GOAL
            print(
                f"{name:<52} {best[0] * 1000:7.1f} ms {best[1] * 1000:7.1f} ms {ratio:6.2f} "
                f"{GOAL:6.2f}{'  missed' if ratio > GOAL else ''}",
                flush=True,
            )
    return int(missed)


def based(found: Any, dense: bool) -> Path:
    """A base image: of noise, or of a guest and holes."""
    from novahost import guest

    base: Path = found.base.with_name("dense" if dense else "sparse")
    with base.open("wb") as file:
        file.write(guest())
        if dense:
            for _ in range(DENSE // MIB - 1):
                file.write(os.urandom(MIB))
        file.truncate(DENSE if dense else SPARSE)
        os.fsync(file.fileno())
    base.read_bytes()
    return base


def measured(found: Any, theirs: type, base: Path, rounds: int) -> tuple[float, float]:
    """Seconds of ours and of theirs, the best of the rounds."""
    from xmlkit.nova.storage import LibvirtStorage

    def ours(instance: Any) -> Any:
        return LibvirtStorage(instance, "disk")

    def other(instance: Any) -> Any:
        return theirs(instance, "disk")

    took: dict[Callable[[Any], Any], list[float]] = {ours: [], other: []}
    for _ in range(rounds):
        for make, seconds in took.items():
            instance = found.another()
            (found.instances / instance.uuid).mkdir()
            started = time.perf_counter()
            disk = make(instance)
            disk.create_image(nothing, str(base), FLAVOR, context=None, image_id="1")
            seconds.append(time.perf_counter() - started)
            assert disk.exists()
            os.unlink(disk.path)
    return min(took[ours]), min(took[other])


def nothing(**_: Any) -> None:
    """The base is there."""
    raise AssertionError("fetched")


@contextmanager
def host() -> Iterator[Any]:
    """A host of Nova's with our pools."""
    import libvirt
    from novahost import NovaHost, set_up

    from xmlkit.nova.store import prepare
    from xmlkit.testing import private_libvirtd

    libvirt.registerErrorHandler(lambda *_: None, None)
    with private_libvirtd() as libvirtd, set_up() as case:
        found = NovaHost(case, libvirt.open(libvirtd.uri), libvirtd.directory)
        prepare()
        yield found


if __name__ == "__main__":
    sys.exit(main())
