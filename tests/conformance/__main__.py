"""One invocation of the suite as a table:  python -m tests.conformance disk [REGULAR-EXPRESSION]"""

import re
import sys
import tempfile
from collections import Counter
from pathlib import Path

from tests.conformance import suite
from tests.conformance.invocations import INVOCATIONS, selected
from tests.support.appliance import Appliance


def main(name: str, pattern: str = "") -> None:
    invocation = next(each for each in INVOCATIONS if each.name == name)
    count: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        preload = suite.build_shim(Path(folder)) if invocation.needs_shim else None
        disks = [invocation.disk] if invocation.disk else []
        with Appliance.with_loaded_drive(Path(folder), disks=disks, portals=invocation.paths) as appliance:
            urls = [appliance.url(invocation.device, path) for path in range(invocation.paths)]
            for test in selected(invocation):
                if re.search(pattern, test):
                    report = suite.run(
                        test,
                        urls,
                        sanitize=invocation.sanitize,
                        preload=preload,
                        timeout_seconds=invocation.timeout_seconds,
                    )
                    count[report.verdict] += 1
                    print(f"{test:45} {report.verdict:8} {' | '.join(report.reasons)[:200]}", flush=True)
    print(", ".join(f"{number} {verdict}" for verdict, number in count.items()))


if __name__ == "__main__":
    main(*sys.argv[1:])
