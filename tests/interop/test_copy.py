"""sg_raw on a Linux guest sends EXTENDED COPY, and sg_xcopy writes its own.

The tape then has the disk's bytes, and none of them passed through the guest.
"""

import hashlib
import random
from pathlib import Path

import pytest

from datamover.initiator import InitiatorSession
from tests.interop.guest import Step
from tests.interop.session import run_in_guest
from tests.support import packages
from tests.support.appliance import Appliance
from tests.support.scsi import CopyEndpoint, Device, disk_to_tape, write_10

pytestmark = pytest.mark.guest
BLOCKS = 70_001  # more than one segment holds, and no whole number of tape blocks
TAPE_BLOCK = 64 << 10
SEED = 20260101


def copy_parameters(appliance: Appliance) -> bytes:
    """Ask the devices for their names, as a backup program would."""
    with InitiatorSession(appliance.portal, appliance.target_name) as session:
        disk = CopyEndpoint(Device(session, appliance.lun("disk")).designator(), 0x00, 512)
        tape = CopyEndpoint(Device(session, appliance.lun("drive0")).designator(), 0x01, TAPE_BLOCK)
    return disk_to_tape(disk, tape, BLOCKS)


def fill_disk(appliance: Appliance) -> bytes:
    data = random.Random(SEED).randbytes(BLOCKS * 512)
    with InitiatorSession(appliance.portal, appliance.target_name) as session:
        disk = Device(session, appliance.lun("disk"))
        for start in range(0, BLOCKS, 2048):
            piece = data[start * 512 : (start + 2048) * 512]
            disk.good(write_10(start, len(piece) // 512), piece)
    return data


@pytest.mark.parametrize("through", ["DISK_SG", "TAPE0_SG"])
def test_extended_copy_puts_the_disk_on_the_tape(appliance: Appliance, tmp_path: Path, through: str) -> None:
    packages.require("sg3-utils", "mt-st")
    appliance.load()
    data = fill_disk(appliance)
    parameters = tmp_path / "parameters"
    parameters.write_bytes(copy_parameters(appliance))
    length = parameters.stat().st_size
    cdb = f"83 00 00 00 00 00 00 00 00 00 {length.to_bytes(4, 'big').hex(' ')} 00 00"
    done = run_in_guest(
        appliance,
        [
            Step("first contact", "sg_turs $TAPE0_SG; sg_turs $TAPE0_SG"),
            Step("limits", f"sg_copy_results --params ${through}"),
            Step("third party copy page", f"sg_vpd --page=tpc ${through}"),
            Step("copy", f"sg_raw --timeout=120 --send={length} --infile=/mnt/share/parameters ${through} {cdb}"),
            Step("status", f"sg_copy_results --status --list_id=1 ${through}"),
            Step("filemark", "mt -f $TAPE0 weof 1 && mt -f $TAPE0 tell"),
            Step("read", "mt -f $TAPE0 rewind && dd if=$TAPE0 bs=64k 2>/dev/null | sha256sum"),
            Step("disk", f"head -c {BLOCKS * 512} $DISK | sha256sum"),
        ],
        files=[parameters],
    )
    wanted = hashlib.sha256(data).hexdigest()
    assert done["read"].split()[0] == wanted, done.transcript()
    assert done["disk"].split()[0] == wanted
    assert "Operation completed without errors" in done["status"]
    tape_blocks = -(-BLOCKS * 512 // TAPE_BLOCK)
    assert done["filemark"] == f"At block {tape_blocks + 1}.\n"


@pytest.mark.parametrize("sent_to", ["--on_src", "--on_dst"])
def test_sg_xcopy_copies_on_a_disk(appliance: Appliance, sent_to: str) -> None:
    """The list is of sg3_utils' making: what it reads of limits and designators decides what is in it."""
    packages.require("sg3-utils")
    data = fill_disk(appliance)
    skip, seek, count = 17, 80_000, 5_000
    copying = f"if=$DISK_SG of=$DISK_SG bs=512 skip={skip} seek={seek} count={count} bpt=2048 list_id=9 id_usage=hold"
    done = run_in_guest(
        appliance,
        [
            Step("copy", f"sg_xcopy {sent_to} {copying}"),
            Step("status", "sg_copy_results --status --list_id=9 $DISK_SG"),
            Step("read", f"dd if=$DISK bs=512 skip={seek} count={count} 2>/dev/null | sha256sum"),
        ],
    )
    assert "5000 blocks, 3 commands" in done["copy"], done.transcript()
    assert "Operation completed without errors" in done["status"]
    assert done["read"].split()[0] == hashlib.sha256(data[skip * 512 :][: count * 512]).hexdigest()


@pytest.mark.parametrize("sent_to", ["iflag", "oflag"])
def test_ddpt_copies_on_a_disk(appliance: Appliance, sent_to: str) -> None:
    """Another maker of lists, which asks for limits and designators itself. One command: from the second on ddpt 0.97
    sends the addresses of the first."""
    packages.require("ddpt", "sg3-utils")
    data = fill_disk(appliance)
    skip, seek, count = 31, 90_000, 4_000
    copying = f"if=$DISK_SG of=$DISK_SG bs=512 skip={skip} seek={seek} count={count} bpt=4096 list_id=21 id_usage=0"
    done = run_in_guest(
        appliance,
        [
            Step("copy", f"ddpt {sent_to}=xcopy {copying} 2>&1"),
            Step("status", "sg_copy_results --status --list_id=21 $DISK_SG"),
            Step("read", f"dd if=$DISK bs=512 skip={seek} count={count} 2>/dev/null | sha256sum"),
        ],
    )
    assert "1 xcopy command done" in done["copy"], done.transcript()
    assert "Operation completed without errors" in done["status"]
    assert done["read"].split()[0] == hashlib.sha256(data[skip * 512 :][: count * 512]).hexdigest(), done.transcript()
