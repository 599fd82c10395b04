"""Run unit tests of Nova's own with xmlkit in it and nothing on volumes: python own.py MODULE...

Prints one JSON object: how many ran, and each that did not pass. `--without` leaves xmlkit out.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import unittest
from collections.abc import Callable
from typing import Any

os.environ["OS_NOVA_DISABLE_EVENTLET_PATCHING"] = "true"

from xmlkit.host import Host


class Nothing:
    """A host without storage pools, asked in libvirt's place: Nova's false libvirt has none."""

    def host(self, connect: Callable[[], Any], xml: str) -> Host:
        """No pools."""
        return Host()

    def path_of(self, connect: Callable[[], Any], volume: str) -> str | None:
        """No volumes."""
        return None

    def delete(self, connect: Callable[[], Any], uuid: str) -> None:
        """Nothing to delete."""


def main(arguments: list[str]) -> int:
    """Run the modules."""
    import nova.tests.unit

    assert nova.tests.unit
    if "--without" not in arguments:
        from xmlkit.nova import enable

        enable(pools={None: "nova-disks-pool"}, lookup=Nothing())
    modules = [each for each in arguments if not each.startswith("-")]
    suite = unittest.defaultTestLoader.loadTestsFromNames(modules)
    logging.disable(logging.NOTSET)
    runner = unittest.TextTestRunner(stream=sys.stderr, verbosity=0)
    result = runner.run(suite)
    found = {
        "ran": result.testsRun,
        "failed": sorted(
            [str(case.id()), text]
            for case, text in (*result.failures, *result.errors)
            if isinstance(case, unittest.TestCase)
        ),
        "skipped": len(result.skipped),
        "unexpected": sorted(str(case.id()) for case in result.unexpectedSuccesses),
    }
    print(json.dumps(found))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
