"""EXTENDED COPY beside cp, and beside the same backup made by a host, in one run:

    python -m tests.bench.copy_ratios [--directory DIR] [--gibibytes 4] [--rounds 3] [--without-guest]

A daemon of its own serves a disk full of noise, tapes and empty disks; the command goes over iSCSI. Everything is
written into files never written before; what is dirty is written before each way, and each is given memory that has
just been touched (warm_memory.py). What is compared follows one another in each round:

    cp --reflink=never      the disk's image to another file
    disk to tape            EXTENDED COPY, blocks of 256 KiB
    tape to disk            EXTENDED COPY
    by the host             two libiscsi sessions: READ(16) of the disk, WRITE(6) to the tape, eight under way in each
    by the host, in turn    the same, one command at a time, as dd and tar do it

and at the end dd in a Linux guest, from the disk to the tape. Rates are the medians of the rounds; processor seconds
are the daemon's.
"""

import argparse
import contextlib
import os
import statistics
import subprocess
import tempfile
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from datamover.initiator import InitiatorSession
from scsi_targets.client.copy_manager import CopyingUnit
from scsi_targets.client.disk import Disk
from scsi_targets.client.tape import Tape
from scsi_targets.t10 import copy_descriptors as copy
from scsi_targets.t10 import sbc, ssc
from tests.bench.warm_memory import warm_memory
from tests.support import packages
from tests.support.appliance import GUEST_SEES_HOST_AS, Appliance
from tests.support.appliance import Disk as DiskOptions

GIBIBYTE = 1 << 30
BLOCK = 256 << 10
SECTORS = BLOCK // 512
DEPTH = 8
PIECE = 0xFFFF // SECTORS * BLOCK  # of one segment: whole tape blocks
CP, TO_TAPE, TO_DISK = "cp", "disk to tape", "tape to disk"
BY_HOST, IN_TURN = "by the host", "by the host, in turn"
CARTRIDGES = 3  # of a round


@dataclass
class Measured:
    """Of one way, by round: bytes a second, and the daemon's processor seconds for a GiB."""

    rates: list[float] = field(default_factory=list)
    processor_seconds: list[float] = field(default_factory=list)

    @property
    def rate(self) -> float:
        return statistics.median(self.rates)

    @property
    def processor(self) -> float:
        return statistics.median(self.processor_seconds)


class Bench:
    """The daemon, and what has been measured."""

    def __init__(self, folder: Path, size: int, rounds: int) -> None:
        self.folder, self.size, self.rounds = folder, size, rounds
        self.measured: dict[str, Measured] = {}
        restored = [DiskOptions(f"restored{number}", f"{size} B") for number in range(rounds)]
        self.appliance = Appliance(
            folder, disks=[DiskOptions("source", f"{size} B"), *restored], drives=1, cartridges=CARTRIDGES * rounds,
        )  # fmt: skip
        self.image = self.appliance.image("source")
        fill(self.image, size)

    @contextlib.contextmanager
    def timed(self, name: str, size: int) -> Iterator[None]:
        os.sync()
        with warm_memory(size + size // 8):
            used, began = processor_seconds(self.appliance.process_id), time.perf_counter()
            yield
            seconds = time.perf_counter() - began
        measured = self.measured.setdefault(name, Measured())
        measured.rates.append(size / seconds)
        measured.processor_seconds.append((processor_seconds(self.appliance.process_id) - used) / (size / GIBIBYTE))

    def round(self, number: int) -> None:
        self._cp()
        first = CARTRIDGES * number
        self._load(first)
        with self._session() as session:
            disk, tape = Disk(session, self.appliance.lun("source")), Tape(session, self.appliance.lun("drive0"))
            self._copy(TO_TAPE, disk, tape, copy.BlockToStream, source=0, destination=1)
            tape.rewind()
            restored = Disk(session, self.appliance.lun(f"restored{number}"))
            self._copy(TO_DISK, restored, tape, copy.StreamToBlock, source=1, destination=0)
            tape.rewind()
        image = self.appliance.image(f"restored{number}")
        subprocess.run(["cmp", self.image, image], check=True)
        give_back(image)
        self._forget(first)
        for cartridge, way in enumerate((self._by_host, self._in_turn), first + 1):
            self._load(cartridge)
            way()
            self._forget(cartridge)

    def _session(self) -> InitiatorSession:
        return InitiatorSession(self.appliance.portal, self.appliance.target_name)

    def _cp(self) -> None:
        copied = self.folder / "copied"
        with self.timed(CP, self.size):
            subprocess.run(["cp", "--reflink=never", "--sparse=never", self.image, copied], check=True)
        copied.unlink()

    def _copy(self, name: str, disk: Disk, tape: Tape, kind: type[copy.SegmentDescriptor], **ends: int) -> None:
        manager = CopyingUnit(tape.session, tape.lun, timeout_seconds=3600)
        segments = [
            kind.encode(
                **ends, stream_device_transfer_length=BLOCK, logical_block_address=at // 512,
                number_of_blocks=min(PIECE, self.size - at) // 512,
            )
            for at in range(0, self.size, PIECE)
        ]  # fmt: skip
        cscds = [disk.cscd(), tape.cscd()]
        manager.take_unit_attentions()
        with self.timed(name, self.size):
            manager.extended_copy(cscds, segments)

    def _by_host(self) -> None:
        with self._two_sessions() as (disk, tape):
            waiting: deque[object] = deque()
            with self.timed(BY_HOST, self.size):
                for data in disk.stream(self._reads(), BLOCK):
                    waiting.append(tape.session.submit(tape.lun, ssc.Write6.encode(transfer_length=BLOCK), data))
                    if len(waiting) >= DEPTH:
                        assert not tape.session.wait(waiting.popleft()).status
                while waiting:
                    assert not tape.session.wait(waiting.popleft()).status

    def _in_turn(self) -> None:
        with self._two_sessions() as (disk, tape), self.timed(IN_TURN, self.size):
            data = bytearray(BLOCK)
            for cdb in self._reads():
                disk.run(cdb, data_in=data)
                tape.run(ssc.Write6.encode(transfer_length=BLOCK), data)

    @contextlib.contextmanager
    def _two_sessions(self) -> Iterator[tuple[Disk, Tape]]:
        with self._session() as reading, self._session() as writing:
            disk, tape = Disk(reading, self.appliance.lun("source")), Tape(writing, self.appliance.lun("drive0"))
            disk.take_unit_attentions()
            tape.take_unit_attentions()
            yield disk, tape
            tape.rewind()

    def _reads(self) -> Iterator[bytes]:
        for at in range(0, self.size, BLOCK):
            yield sbc.Read16.encode(logical_block_address=at // 512, transfer_length=SECTORS)

    def _load(self, number: int) -> None:
        self.appliance.call("load", cartridge=f"TST{number + 1:03}L6", drive="drive:0")

    def _forget(self, number: int) -> None:
        """Its files take no memory from the next round."""
        self.appliance.call("unload", drive="drive:0", force=True)
        self.appliance.call("move", cartridge=f"TST{number + 1:03}L6", to="shelf", force=True)
        self.appliance.call("cartridge.delete", barcode=f"TST{number + 1:03}L6")


def in_the_guest(folder: Path, size: int) -> float:
    """dd's own figure, in bytes a second."""
    from tests.interop import session
    from tests.interop.guest import Step

    with Appliance(folder, disks=[DiskOptions("disk", f"{size} B")], advertise=GUEST_SEES_HOST_AS) as appliance:
        appliance.load()
        fill(appliance.image("disk"), size)
        command = "mt -f $TAPE0 setblk 0 && dd if=$DISK of=$TAPE0 bs=256k 2>&1"
        done = session.run_in_guest(appliance, [Step("ready", "sg_turs $TAPE0_SG; true"), Step("dd", command)])
    seconds = float(done["dd"].rpartition("copied, ")[2].split()[0])
    return size / seconds


def processor_seconds(process_id: int) -> float:
    fields = Path(f"/proc/{process_id}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def fill(path: Path, size: int) -> None:
    with path.open("r+b") as image:
        for _ in range(0, size, 1 << 24):
            image.write(os.urandom(1 << 24))


def give_back(path: Path) -> None:
    size = path.stat().st_size
    os.truncate(path, 0)
    os.truncate(path, size)


def report(measured: dict[str, Measured]) -> None:
    print("| way | GB/s | beside cp | daemon's processor seconds for a GiB |\n|---|---|---|---|")
    for name, found in measured.items():
        print(f"| {name} | {found.rate / 1e9:.2f} | {found.rate / measured[CP].rate:.2f} | {found.processor:.2f} |")
    for way in (BY_HOST, IN_TURN):
        times = measured[TO_TAPE].rate / measured[way].rate
        share = measured[TO_TAPE].processor / measured[way].processor
        print(f"disk to tape: {times:.1f} times as fast as {way}, for {share:.2f} of the target's processor seconds")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--directory", type=Path, default=None, help="where the files go (default: the temporary one)")
    parser.add_argument("--gibibytes", type=float, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--without-guest", action="store_true")
    options = parser.parse_args()
    packages.require("libiscsi7")
    with tempfile.TemporaryDirectory(dir=options.directory) as directory:
        bench = Bench(Path(directory), int(options.gibibytes * 1024) << 20, options.rounds)
        try:
            for number in range(options.rounds):
                bench.round(number)
        finally:
            bench.appliance.kill()
        report(bench.measured)
        if not options.without_guest:
            (Path(directory) / "guest").mkdir()
            guest = in_the_guest(Path(directory) / "guest", 256 << 20)
            times = bench.measured[TO_TAPE].rate / guest
            print(f"dd in the guest: {guest / 1e6:.0f} MB/s; disk to tape is {times:.0f} times as fast")


if __name__ == "__main__":
    main()
