"""How fast EXTENDED COPY moves data between a disk and a tape, without iSCSI:

    python -m tests.bench.extended_copy [--directory DIR] [--mebibytes 512] [--block 262144] [--hole]

Both are files in DIR, so what is measured is the page cache, the engine and this project. Each figure is the best of
three, with the processor seconds it took, which say more than the wall clock does where others share the machine.
"""

import argparse
import logging
import os
import tempfile
import time
from pathlib import Path

import structlog

from scsi_targets.devices.tape.models import drive_model
from scsi_targets.devices.tape.tape_drive import TapeDrive
from scsi_targets.devices.unit.view import View
from scsi_targets.t10 import copy_descriptors as copy
from tests.unit.devices.copying.support import block_to_stream, extended_copy, stream_to_block
from tests.unit.devices.disk.support import make_disk
from tests.unit.devices.support import ALPHA, TARGET
from tests.unit.devices.tape.support import make_cartridge

MEBIBYTE = 1 << 20


class Bench:
    """A disk full of noise, or with nothing in it (`hole`), and a drive with a cartridge that is large enough."""

    def __init__(self, directory: Path, mebibytes: int, *, hole: bool = False) -> None:
        self.length = mebibytes * MEBIBYTE
        self.disk = make_disk(directory, blocks=self.length // 512)
        for at in range(0, 0 if hole else self.length, MEBIBYTE):
            self.disk.medium.write(os.urandom(MEBIBYTE), at)
        self.tape = TapeDrive(drive_model("IBM ULT3580-TD8"), "TB00000001")
        self.cartridge = make_cartridge(directory, capacity_bytes=4 * self.length)
        self.tape.load(self.cartridge)
        units = [self.disk, self.tape]
        self.view = View(ALPHA.principal, TARGET, dict(enumerate(units)))
        self.view.nexus_established(ALPHA)
        for unit in units:
            while unit.take_unit_attention(ALPHA):
                pass

    def close(self) -> None:
        self.tape.close()
        self.disk.close()
        self.cartridge.close()

    def run(self, make_segment, block: int) -> tuple[float, float]:
        """(GB/s, GB per processor second) of copying the whole disk in one direction."""
        most = 0xFFFF - 0xFFFF % (block // 512)  # whole tape blocks in each segment
        blocks = self.length // 512
        segments = [make_segment(block, min(most, blocks - at), at) for at in range(0, blocks, most)]
        descriptors = [
            copy.identification_descriptor(unit.identity.naa, device_type=unit.device_type)
            for unit in (self.disk, self.tape)
        ]
        data = copy.parameter_list(descriptors, segments)
        self.cartridge.rewind()
        began, used = time.perf_counter(), time.process_time()
        response = extended_copy(self, data)
        seconds, processor_seconds = time.perf_counter() - began, time.process_time() - used
        assert response.status == 0, response.sense.hex()
        return self.length / seconds / 1e9, self.length / processor_seconds / 1e9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--directory", type=Path, default=None, help="where the files go (default: the temporary one)")
    parser.add_argument("--mebibytes", type=int, default=512)
    parser.add_argument("--block", type=int, action="append", help="tape block length; may be given several times")
    parser.add_argument("--hole", action="store_true", help="a disk that holds nothing, to a tape only")
    options = parser.parse_args()
    directions = [("disk to tape", block_to_stream), ("tape to disk", stream_to_block)][: 1 if options.hole else 2]
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    with tempfile.TemporaryDirectory(dir=options.directory) as directory:
        bench = Bench(Path(directory), options.mebibytes, hole=options.hole)
        for block in options.block or [65536, 262144, 1048576]:
            for name, make_segment in directions:
                best = max(bench.run(make_segment, block) for _ in range(3))
                print(f"{name}, blocks of {block:7d}: {best[0]:5.2f} GB/s, {best[1]:5.2f} GB per processor second")
        bench.close()


if __name__ == "__main__":
    main()
