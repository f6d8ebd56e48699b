"""Endpoints in memory: a disk of bytes, a tape of blocks and filemarks, both able to fail on demand."""

import threading

from datamover.engine import crc32c_blocks


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


class Stopped(Exception):
    """What the tape raises; `transferred` as the job expects it."""

    def __init__(self, what: str, transferred: int = 0) -> None:
        super().__init__(what)
        self.transferred = transferred


class MemoryTape:
    """Blocks, and None for a filemark. `gate`: when set, each write waits for it. writers: the threads that wrote."""

    def __init__(self, blocks: list[bytes | None] | None = None, capacity: int | None = None) -> None:
        self.blocks: list[bytes | None] = list(blocks or [])
        self.position = 0
        self.capacity = capacity
        self.gate: threading.Event | None = None
        self.writing = threading.Event()
        self.writers: set[int] = set()

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

    def write_filemark(self) -> None:
        del self.blocks[self.position :]
        self.blocks.append(None)
        self.position += 1

    @property
    def data(self) -> bytes:
        return b"".join(block for block in self.blocks if block is not None)
