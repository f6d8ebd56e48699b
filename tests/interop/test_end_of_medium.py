"""A Linux guest fills a cartridge.

Early warning becomes ENOSPC, the last block reads back, the backup goes on on the next.
"""

import re

import pytest

from tests.interop.guest import Step
from tests.interop.session import run_in_guest
from tests.support import packages
from tests.support.appliance import Appliance

pytestmark = pytest.mark.guest
CAPACITY_MEBIBYTES = 64
BLOCKS_IN_MEBIBYTE = 4
WRITTEN = "sed -n 's/+0 records out//p' /tmp/said"


def test_a_full_cartridge_and_the_next_one(appliance: Appliance) -> None:
    packages.require("mt-st", "mtx")
    for slot, barcode in ((10, "SML001L6"), (11, "SML002L6")):
        appliance.call("cartridge.create", barcode=barcode, capacity=f"{CAPACITY_MEBIBYTES} MiB", place=f"slot:{slot}")
    done = run_in_guest(
        appliance,
        [
            Step("data", f"head -c {CAPACITY_MEBIBYTES + 16}M /dev/urandom >/tmp/data"),
            Step("load", "mtx -f $CHANGER load 10 0 && mtx -f $CHANGER load 11 1"),
            Step("fill", "dd if=/tmp/data of=$TAPE0 bs=256k 2>/tmp/said", status=1),
            Step("count", f"blocks=$({WRITTEN}); cat /tmp/said; echo $blocks blocks"),
            Step("read back", "mt -f $TAPE0 rewind && dd if=$TAPE0 of=/tmp/back bs=256k 2>/dev/null"),
            Step("same", "head -c $((blocks * 256))k /tmp/data | cmp - /tmp/back"),
            Step(
                "the last block", "mt -f $TAPE0 bsf 1 && mt -f $TAPE0 bsr 1 && dd if=$TAPE0 bs=256k count=1 >/tmp/last"
            ),
            Step("same last block", "tail -c 256k /tmp/back | cmp - /tmp/last"),
            Step("the rest on the next", "dd if=/tmp/data of=$TAPE1 bs=256k skip=$blocks 2>/dev/null"),
            Step("read the rest", "mt -f $TAPE1 rewind && dd if=$TAPE1 bs=256k 2>/dev/null >>/tmp/back"),
            Step("all of it", "cmp /tmp/data /tmp/back"),
        ],
    )
    assert "No space left on device" in done["count"]
    blocks = int(re.search(r"^(\d+) blocks$", done["count"], re.MULTILINE)[1])  # type: ignore[index]
    assert 0.8 * CAPACITY_MEBIBYTES < blocks / BLOCKS_IN_MEBIBYTE <= CAPACITY_MEBIBYTES
