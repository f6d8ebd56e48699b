"""Endpoints in memory: a disk of bytes, a tape of blocks and filemarks, both able to fail on demand. And a disk in a
file, for runs."""

import os
import threading
from contextlib import contextmanager
from pathlib import Path

from datamover.engine import crc32c_blocks
from datamover.file_run import FileSpan


class MemoryDisk:
    """A disk whose reads and writes fail at an offset."""

    def __init__(self, data: bytes) -> None:
        self.data = bytearray(data)
        self.fail_at: int | None = None
        self.largest = 0
        self.read_bytes = 0

    def _check(self, offset: int, length: int) -> None:
        self.largest = max(self.largest, length)
        if self.fail_at is not None and offset <= self.fail_at < offset + length:
            raise OSError(5, f"bad sector at {self.fail_at}")
        assert 0 <= offset <= offset + length <= len(self.data)

    def read_into(self, buffer, offset: int) -> None:
        view = memoryview(buffer)
        self._check(offset, len(view))
        view[:] = self.data[offset : offset + len(view)]
        self.read_bytes += len(view)

    def write(self, buffer, offset: int) -> None:
        view = memoryview(buffer)
        self._check(offset, len(view))
        self.data[offset : offset + len(view)] = view


class FileDisk:
    """A disk in a file. refusal: what file_span() raises. within: no span is longer; 0: there are none. spans: which
    were asked for."""

    def __init__(self, path: Path, data: bytes) -> None:
        path.write_bytes(data)
        self._descriptor = os.open(path, os.O_RDWR)
        self.refusal: Exception | None = None
        self.within = 1 << 62
        self.spans: list[tuple[int, int]] = []

    @property
    def data(self) -> bytes:
        return os.pread(self._descriptor, os.fstat(self._descriptor).st_size, 0)

    def read_into(self, buffer, offset: int) -> None:
        assert os.preadv(self._descriptor, [buffer], offset) == len(buffer)

    def write(self, buffer, offset: int) -> None:
        assert os.pwrite(self._descriptor, buffer, offset) == len(buffer)

    @contextmanager
    def file_span(self, offset: int, length: int):
        if self.refusal is not None:
            raise self.refusal
        self.spans.append((offset, length))
        yield FileSpan(self._descriptor, offset, min(length, self.within)) if self.within else None

    def close(self) -> None:
        os.close(self._descriptor)


class Stopped(Exception):
    """What the tape raises; `transferred` as the job expects it."""

    def __init__(self, what: str, transferred: int = 0) -> None:
        super().__init__(what)
        self.transferred = transferred


class MemoryTape:
    """Blocks, and None for a filemark. `gate`: when set, each write waits for it. writers: the threads that wrote.
    run_blocks: the most of a run; 0: there are none. runs: how many blocks each moved. refusal: what a run raises."""

    def __init__(self, blocks: list[bytes | None] | None = None, capacity: int | None = None) -> None:
        self.blocks: list[bytes | None] = list(blocks or [])
        self.position = 0
        self.capacity = capacity
        self.gate: threading.Event | None = None
        self.writing = threading.Event()
        self.writers: set[int] = set()
        self.run_blocks = 0
        self.runs: list[int] = []
        self.refusal: Exception | None = None

    def read_blocks(self, into, block_length: int, fixed: bool = False) -> bytes:
        view = memoryview(into)
        assert len(view) % block_length == 0
        for done in range(0, len(view), block_length):
            block = self.blocks[self.position] if self.position < len(self.blocks) else b""
            self.position += 1
            if block is None:
                raise Stopped("filemark", done)
            if len(block) != block_length:
                raise Stopped(f"a block of {len(block)} bytes", done)
            view[done : done + block_length] = block
        return crc32c_blocks(view, 0, block_length, 0, 0)[2]

    def write_blocks(self, data, block_length: int, fixed: bool, checksums) -> None:
        view = memoryview(data)
        assert checksums == crc32c_blocks(view, 0, block_length, 0, 0)[2]
        assert len(view) % block_length == 0
        self.writers.add(threading.get_ident())
        self.writing.set()
        if self.gate is not None:
            assert self.gate.wait(60)
        del self.blocks[self.position :]
        for done in range(0, len(view), block_length):
            if self.capacity is not None and self.position >= self.capacity:
                raise Stopped("end of tape", done)
            self.blocks.append(bytes(view[done : done + block_length]))
            self.position += 1

    def writes_files(self) -> bool:
        return bool(self.run_blocks)

    def write_file(self, run) -> int:
        if self.refusal is not None:
            raise self.refusal
        buffer = bytearray(min(run.blocks, self.run_blocks) * run.block_length)
        read = os.preadv(run.descriptor, [buffer], run.offset) if buffer else 0
        blocks = [bytes(buffer[at : at + run.block_length]) for at in range(0, read, run.block_length)]
        run.checksums[: 4 * len(blocks)] = crc32c_blocks(b"".join(blocks), 0, run.block_length, 0, 0)[2]
        self.blocks[self.position :] = blocks
        self.position += len(blocks)
        self.runs.append(len(blocks))
        return len(blocks)

    def write_filemark(self) -> None:
        del self.blocks[self.position :]
        self.blocks.append(None)
        self.position += 1

    @property
    def data(self) -> bytes:
        return b"".join(block for block in self.blocks if block is not None)
