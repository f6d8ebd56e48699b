"""How fast many small files go from a disk to a tape, from lists that are ready:

    python -m tests.bench.small_files [--directory DIR] [--files 40000] [--length 4096]

A file is its header (512 bytes, inline) and one extent, as in a tar stream; tape blocks of 256 KiB; each command holds
as many files as a list may have segments, and the next one is sent while the last drains. Planning is the processor
time from a command's arrival until it waits for its turn.
"""

import argparse
import logging
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import structlog

from scsi_targets.client.disk import Disk
from scsi_targets.client.tape import Tape
from scsi_targets.client.unit import CommandFailed
from scsi_targets.devices.copying import limits
from scsi_targets.devices.unit.local_session import LocalSession
from scsi_targets.devices.unit.task import Nexus
from scsi_targets.t10 import copy_descriptors as copy
from tests.bench.extended_copy import Bench
from tests.unit.devices.support import ALPHA, TARGET

HEADER_BYTES = 512
BLOCK_BYTES = 256 << 10
MOST_FILES = limits.MAXIMUM_SEGMENT_DESCRIPTORS // 2
IN_FLIGHT = 2
DISK, DRIVE = 0, 1


def lists(files: int, length: int, disk_bytes: int, cscds: list[bytes]) -> Iterator[bytes]:
    """Parameter lists for files that lie apart from one another."""
    stride = max(length, disk_bytes // files // 512 * 512)
    common = {"cat": 1, "destination": 1, "stream_device_transfer_length": BLOCK_BYTES}
    for first in range(0, files, MOST_FILES):
        segments, headers = [], bytearray()
        for number in range(first, min(first + MOST_FILES, files)):
            segments.append(
                copy.InlineToStream.encode(
                    **common, inline_data_offset=len(headers), inline_data_number_of_bytes=HEADER_BYTES
                )
            )
            headers += f"file {number}".encode().ljust(HEADER_BYTES, b"\0")
            at = number * stride % (disk_bytes - length)
            segments.append(
                copy.BlockToStream.encode(
                    **common, source=0, number_of_blocks=length // 512, logical_block_address=at // 512
                )
            )
        yield copy.parameter_list(cscds, segments, bytes(headers), list_identifier=1 + first // MOST_FILES % 255)


def run(bench: Bench, data: list[bytes]) -> tuple[float, float, float]:
    """Sends them: seconds from the first to the end of the last, processor seconds, seconds of planning."""
    planning, waiting = 0.0, []
    with LocalSession(bench.view, Nexus("iqn.2026-01.io.tapebay:bench", bytes(6), TARGET)) as session:
        Tape(session, DRIVE).rewind()
        began, used = time.perf_counter(), time.process_time()
        for one in data:
            arrived = time.thread_time()
            cdb = copy.ExtendedCopyLid1.encode(parameter_list_length=len(one))
            waiting.append((cdb, session.submit(DRIVE, cdb, one)))
            planning += time.thread_time() - arrived
            if len(waiting) >= IN_FLIGHT:
                finish(session, *waiting.pop(0))
        for cdb, command in waiting:
            finish(session, cdb, command)
        return time.perf_counter() - began, time.process_time() - used, planning


def finish(session: LocalSession, cdb: bytes, command) -> None:
    result = session.wait(command)
    if result.status:
        raise CommandFailed(DRIVE, cdb, result)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--directory", type=Path, default=None, help="where the files go (default: the temporary one)")
    parser.add_argument("--files", type=int, default=40_000)
    parser.add_argument("--length", type=int, default=4096)
    parser.add_argument("--profile", action="store_true", help="show where the processor time of one command goes")
    options = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    with tempfile.TemporaryDirectory(dir=options.directory) as directory:
        bench = Bench(Path(directory), max(64, options.files * options.length * 2 >> 20))
        with LocalSession(bench.view, ALPHA) as session:
            cscds = [Disk(session, DISK).cscd(), Tape(session, DRIVE).cscd()]
        data = list(lists(options.files, options.length, bench.length, cscds))
        if options.profile:
            profile(bench, data[0])
        else:
            for _ in range(3):
                seconds, processor, planning = run(bench, data)
                print(
                    f"{options.files / seconds:8.0f} files a second, {options.files / processor:8.0f} a processor "
                    f"second; planning {planning / options.files / 2 * 1e6:.1f} us a segment"
                )
        bench.close()


def profile(bench: Bench, data: bytes) -> None:
    """Planning and copying on this thread."""
    import cProfile
    import pstats

    from scsi_targets.devices.unit.logical_unit import LogicalUnit

    def defer(self, task, work):
        return work()

    LogicalUnit.defer = defer
    with cProfile.Profile() as measured:
        run(bench, [data])
    pstats.Stats(measured).sort_stats("tottime").print_stats(25)


if __name__ == "__main__":
    main()
