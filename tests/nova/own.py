"""Run unit tests of Nova's own with xmlkit in it and nothing on volumes: python own.py MODULE...

Prints one JSON object: how many ran, and each that did not pass. `--without` leaves xmlkit out,
`--without-class=NAME` the tests of a class.
"""

from __future__ import annotations

import faulthandler
import json
import sys
import unittest
from collections.abc import Iterator
from typing import Any

from lookups import Seen

from xmlkit.host import Host

# A test that hangs shows where, and the others are not waited for
HANGS = 900


def cases(suite: Any) -> Iterator[Any]:
    """Each test of a suite, however deep."""
    if not isinstance(suite, unittest.TestSuite):
        yield suite
        return
    for each in suite:
        yield from cases(each)


def main(arguments: list[str]) -> int:
    """Run the modules."""
    faulthandler.dump_traceback_later(HANGS, exit=True)
    import nova.tests.unit

    assert nova.tests.unit
    if "--without" not in arguments:
        from xmlkit.nova import enable

        # Nova's tests of its image cache manager look into it
        image_cache = not any(each.endswith("test_imagecache") for each in arguments)
        enable(pools={None: "nova-disks-pool"}, lookup=Seen(Host()), image_cache=image_cache)
    modules = [each for each in arguments if not each.startswith("-")]
    found = list(cases(unittest.defaultTestLoader.loadTestsFromNames(modules)))
    for each in arguments:
        name = each.removeprefix("--without-class=")
        if name != each:
            found = [case for case in found if not case.id().startswith(f"{name}.")]
    suite = unittest.TestSuite(found)
    runner = unittest.TextTestRunner(stream=sys.stderr, verbosity=0)
    result = runner.run(suite)
    report = {
        "ran": result.testsRun,
        "failed": sorted(
            [str(case.id()), text] for case, text in (*result.failures, *result.errors)
        ),
        "skipped": len(result.skipped),
        "unexpected": sorted(str(case.id()) for case in result.unexpectedSuccesses),
    }
    print(json.dumps(report))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
