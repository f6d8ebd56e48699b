"""How many Python frames a command passes from LogicalUnit.execute() to its response: `python -m tests.bench.frames`.

Python runs once per SCSI command, and what it runs is what a small block costs. Each command is counted the second time
it is sent, when everything that is decided once has been decided. `--show COMMAND` lists the frames."""

from __future__ import annotations

import argparse
import gc
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import FrameType

from scsi_targets.devices.disk.block_device import BlockDevice
from scsi_targets.devices.tape.models import drive_model
from scsi_targets.devices.tape.tape_drive import TapeDrive
from scsi_targets.devices.unit.identity import Identity
from scsi_targets.devices.unit.logical_unit import LogicalUnit
from scsi_targets.devices.unit.task import Nexus, Task
from scsi_targets.t10 import sbc, spc, ssc
from vlib_images.cartridge.cartridge import Cartridge
from vlib_images.cartridge.medium import MEDIA
from vlib_images.disk.changes import ChangeMap
from vlib_images.disk.raw import DiskImage
from vlib_images.disk.watchers import watch

NEXUS = Nexus("iqn.2026-11.bench:host", bytes(6), "iqn.2026-11.bench:target")
BLOCK = 64 << 10
ROOT = Path(__file__).parents[2]


def frames(work: Callable[[], None]) -> list[str]:
    """`file:function` of every Python function of this project that `work` calls, in order."""
    called: list[str] = []

    def note(frame: FrameType, event: str, _: object) -> None:
        code = frame.f_code
        if event == "call" and code.co_filename.startswith(str(ROOT)) and not code.co_filename.endswith("frames.py"):
            called.append(f"{Path(code.co_filename).relative_to(ROOT)}:{code.co_qualname}")

    gc.collect()
    gc.disable()  # what was left before is not finalised here
    sys.setprofile(note)
    try:
        work()
    finally:
        sys.setprofile(None)
        gc.enable()
    return called


def send(unit: LogicalUnit, cdb: bytes, data: bytes | None = None) -> None:
    response = unit.execute(Task(NEXUS, 0, cdb.ljust(16, b"\0"), data_out=data, data_in_limit=BLOCK))
    assert response is not None, cdb.hex()
    assert response.status == 0, (cdb.hex(), response.sense.hex())


def counted(directory: Path) -> dict[str, list[str]]:
    """The frames of each command."""
    drive = TapeDrive(drive_model("IBM ULT3580-TD8"), "BENCH00001")
    disk = BlockDevice(Identity("TAPEBAY", "DISK", "0001", "bench"), DiskImage.create(directory / "disk", 64 * BLOCK))
    drive.load(Cartridge.create(directory / "tape", barcode="BEN001L8", medium=MEDIA["LTO-8"]))
    for unit in (drive, disk):
        unit.nexus_established(NEXUS)
        while unit.take_unit_attention(NEXUS):
            pass
    tape_write = ssc.Write6.encode(transfer_length=BLOCK)
    rewind, tape_read = ssc.Rewind.encode(), ssc.Read6.encode(transfer_length=BLOCK)
    disk_write = sbc.Write10.encode(transfer_length=BLOCK // 512)
    disk_read = sbc.Read10.encode(transfer_length=BLOCK // 512)
    data, found = bytes(BLOCK), {}

    def measure(name: str, unit: LogicalUnit, cdb: bytes, data: bytes | None = None) -> None:
        send(unit, cdb, data)
        found[name] = frames(lambda: send(unit, cdb, data))

    measure("WRITE(6), tape", drive, tape_write, data)
    send(drive, rewind)
    measure("READ(6), tape", drive, tape_read)
    measure("READ(10), disk", disk, disk_read)
    measure("WRITE(10), disk", disk, disk_write, data)
    watch(disk.medium, ChangeMap(64 * BLOCK, "measured").note)
    measure("WRITE(10), counted", disk, disk_write, data)
    measure("TEST UNIT READY, tape", drive, spc.TestUnitReady.encode())
    measure("TEST UNIT READY, disk", disk, spc.TestUnitReady.encode())
    drive.close()
    disk.close()
    return found


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--show", metavar="COMMAND", default="", help="list the frames of commands that begin so")
    shown = arguments.parse_args().show
    with tempfile.TemporaryDirectory() as directory:
        for name, called in counted(Path(directory)).items():
            files = {each.split(":")[0] for each in called}
            print(f"{name:24} {len(called):3} frames in {len(files):2} files")
            if shown and name.startswith(shown):
                print(*(f"    {each}" for each in called), sep="\n")


if __name__ == "__main__":
    main()
