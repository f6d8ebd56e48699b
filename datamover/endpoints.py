"""What a copy job moves bytes between. Nothing here knows a device's protocol: a disk is bytes at offsets, a tape is
blocks in order, and whatever fails raises TransferFailed with the device's own error as its cause.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import TYPE_CHECKING, NamedTuple, Protocol

from datamover.engine import DataBuffer
from datamover.file_run import CHECKSUM_BYTES, FileRun, FileSpan

if TYPE_CHECKING:
    from typing_extensions import Buffer


class TransferFailed(Exception):
    """A read or write that did not move all of its bytes. bytes_done: how many it did move, from the buffer's start."""

    def __init__(self, message: str, bytes_done: int = 0) -> None:
        super().__init__(message)
        self.bytes_done = bytes_done


class SinkFailed(TransferFailed):
    """The sink's failure, where it moved bytes together with the source."""


class RunMemory(NamedTuple):
    """What source and sink need to move bytes together: see FileRun."""

    checksums: memoryview
    one: DataBuffer
    other: DataBuffer


class Source(Protocol):
    """Bytes in order. Each read's length is a multiple of `granularity` bytes.

    device: what the bytes come from; a job that has written to it waits for its writes before it reads.
    read_ahead: whether it may be read while earlier segments are still being written.
    """

    granularity: int
    device: object
    read_ahead: bool

    def read(self, into: memoryview, /) -> Buffer | None:
        """Fills the whole buffer. Returns the CRC32C of each `checked_length` bytes of it, as native 32-bit numbers,
        where the device has verified the bytes by them. Raises TransferFailed."""

    @property
    def checked_length(self) -> int:
        """What such a checksum is of."""


class Sink(Protocol):
    """Takes bytes in order. Each write's length is a multiple of `granularity` bytes.

    checked_length: with each so many bytes, of which the granularity is a multiple, the sink wants their CRC32C; 0: it
    wants none."""

    granularity: int
    device: object
    checked_length: int

    def write(self, data: memoryview, checksums: Buffer, /) -> None:
        """Takes the whole buffer; checksums: of its pieces of checked_length bytes, as native 32-bit numbers, made when
        the bytes were read. Raises TransferFailed."""


class DiskEndpoint(Protocol):
    """Bytes at offsets. What it raises, beside OSError, is its own: a job reports every Exception as TransferFailed."""

    def read_into(self, buffer: Buffer, offset: int, /) -> None: ...
    def write(self, buffer: Buffer, offset: int, /) -> None: ...

    def file_span(self, offset: int, length: int, /) -> AbstractContextManager[FileSpan | None]:
        """Where such bytes can be read, from the first on as far as they are in one piece, for as long as the context
        lasts; None: not in a file. Raises a refusal."""


class TapeEndpoint(Protocol):
    """Blocks in order at a position that moves on. `fixed`: one transfer is several blocks, and what stops it is told
    in blocks; otherwise each block is a transfer, and told in bytes."""

    def read_blocks(self, into: Buffer, block_length: int, fixed: bool, /) -> Buffer | None:
        """Reads blocks of exactly `block_length` bytes until the buffer is full, and returns their CRC32C if it has
        verified them by it. When it is not full, what stopped it is raised, with `transferred` bytes read before."""

    def write_blocks(self, data: Buffer, block_length: int, fixed: bool, checksums: Buffer, /) -> None:
        """Writes the buffer as blocks, whose CRC32C `checksums` are; raises what stopped it, with `transferred` bytes
        written before."""

    def writes_files(self) -> bool:
        """Whether write_file() may do anything, as it looks now. Costs nothing."""

    def write_file(self, run: FileRun, /) -> int:
        """Blocks out of a file, of which nothing has to be told: how many were written. Raises a refusal."""


class DiskExtent:
    """A range of a disk, from its start on: a source or a sink."""

    read_ahead = True
    checked_length = 0

    def __init__(self, disk: DiskEndpoint, offset: int, granularity: int = 1) -> None:
        """offset: in bytes, where the range begins."""
        self.device: object = disk
        self.granularity = granularity
        self._disk = disk
        self._at = offset

    def read(self, into: memoryview, /) -> None:
        try:
            self._disk.read_into(into, self._at)
        except Exception as error:
            raise TransferFailed(f"reading the disk at byte {self._at}: {error}") from error
        self._at += len(into)

    def write(self, data: memoryview, _checksums: Buffer, /) -> None:
        try:
            self._disk.write(data, self._at)
        except Exception as error:
            raise TransferFailed(f"writing the disk at byte {self._at}: {error}") from error
        self._at += len(data)

    @contextmanager
    def run(self, length: int) -> Iterator[FileSpan | None]:
        """Where the next bytes can be read. Raises TransferFailed."""
        with ExitStack() as stack:
            try:
                span = stack.enter_context(self._disk.file_span(self._at, length))
            except Exception as error:
                raise TransferFailed(f"reading the disk at byte {self._at}: {error}") from error
            yield span

    def went_on(self, count: int) -> int:
        """So many bytes of it were moved."""
        self._at += count
        return count


class TapeBlocks:
    """A tape at its position, in transfers of `granularity` bytes: each one block, or several of `block_length`."""

    read_ahead = False  # where a tape stands after a copy must not depend on how fast its reader was (SPC-5 6.4.5.4)

    def __init__(self, tape: TapeEndpoint, transfer_length: int, block_length: int | None = None) -> None:
        self.device: object = tape
        self.granularity = transfer_length
        self._tape = tape
        self._fixed = block_length is not None
        self.checked_length = block_length or transfer_length

    def read(self, into: memoryview, /) -> Buffer | None:
        try:
            return self._tape.read_blocks(into, self.checked_length, self._fixed)
        except Exception as error:
            raise TransferFailed(f"reading the tape: {error}", getattr(error, "transferred", 0)) from error

    def write(self, data: memoryview, checksums: Buffer, /) -> None:
        try:
            self._tape.write_blocks(data, self.checked_length, self._fixed, checksums)
        except Exception as error:
            raise TransferFailed(f"writing the tape: {error}", getattr(error, "transferred", 0)) from error

    def runs_from(self, source: Source, /) -> bool:
        """Whether take_run() may do anything, as it looks now; costs nothing. Where a transfer is several blocks, a run
        might end within one."""
        if not isinstance(source, DiskExtent) or self.checked_length % source.granularity:
            return False
        return self.checked_length == self.granularity and self._tape.writes_files()

    def take_run(self, source: Source, length: int, memory: RunMemory, /) -> int:
        """As many of a disk's next `length` bytes as can be moved smoothly without a buffer between the two, and as
        there is room for checksums; these are in `memory` then. What ends a run is found by the reads and writes that
        follow. Raises TransferFailed, SinkFailed: nothing was moved, as one of them refuses."""
        assert isinstance(source, DiskExtent)
        with source.run(length) as span:
            if span is None:
                return 0
            try:
                return source.went_on(self._tape.write_file(self._run(span, memory)) * self.checked_length)
            except Exception as error:
                raise SinkFailed(f"writing the tape: {error}") from error

    def _run(self, span: FileSpan, memory: RunMemory) -> FileRun:
        blocks = min(span.length // self.checked_length, len(memory.checksums) // CHECKSUM_BYTES)
        return FileRun(span.descriptor, span.offset, self.checked_length, blocks, *memory)


class InlineBytes:
    """Bytes that came with the order to copy."""

    granularity = 1
    read_ahead = True
    checked_length = 0

    def __init__(self, data: memoryview) -> None:
        self.device: object = self
        self._data = data

    def read(self, into: memoryview, /) -> None:
        into[:] = self._data[: len(into)]
        self._data = self._data[len(into) :]


class NoDevice(Exception):
    """A transfer with the null device."""


class NullDevice:
    """Nobody: good for as long as nothing has to be moved."""

    read_ahead = True
    checked_length = 0

    def __init__(self, granularity: int) -> None:
        self.granularity = granularity
        self.device: object = self

    def read(self, into: memoryview, /) -> None:
        raise TransferFailed("there is no device to read") from NoDevice()

    def write(self, data: memoryview, _checksums: Buffer, /) -> None:
        raise TransferFailed("there is no device to write") from NoDevice()
