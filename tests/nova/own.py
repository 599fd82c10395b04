"""Run unit tests of Nova's own with xmlkit in it and nothing on volumes: python own.py MODULE...

Prints one JSON object: how many ran, and each that did not pass. `--without` leaves xmlkit out.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import unittest

os.environ["OS_NOVA_DISABLE_EVENTLET_PATCHING"] = "true"

from lookups import Seen

from xmlkit.host import Host


def main(arguments: list[str]) -> int:
    """Run the modules."""
    import nova.tests.unit

    assert nova.tests.unit
    if "--without" not in arguments:
        from xmlkit.nova import enable

        # Nova's tests of its image cache manager look into it
        image_cache = not any(each.endswith("test_imagecache") for each in arguments)
        enable(pools={None: "nova-disks-pool"}, lookup=Seen(Host()), image_cache=image_cache)
    modules = [each for each in arguments if not each.startswith("-")]
    suite = unittest.defaultTestLoader.loadTestsFromNames(modules)
    logging.disable(logging.NOTSET)
    runner = unittest.TextTestRunner(stream=sys.stderr, verbosity=0)
    result = runner.run(suite)
    found = {
        "ran": result.testsRun,
        "failed": sorted(
            [str(case.id()), text] for case, text in (*result.failures, *result.errors)
        ),
        "skipped": len(result.skipped),
        "unexpected": sorted(str(case.id()) for case in result.unexpectedSuccesses),
    }
    print(json.dumps(found))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
