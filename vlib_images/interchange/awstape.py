"""AWSTAPE files, as P/390, Hercules and mainframe tools use them.

A chunk is a 6-byte header (length of this chunk, length of the one before, two bytes of flags; little endian) and its
data. A block is one chunk or more: a chunk has at most 65,535 bytes.
"""

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Final

from vlib_images.interchange.common import (
    InterchangeError,
    Notes,
    TapeObject,
    check_length,
    open_source,
    read_exactly,
    unmarked,
)

HEADER: Final = struct.Struct("<HHBB")
BEGINS: Final = 0x80
TAPE_MARK: Final = 0x40
ENDS: Final = 0x20
CHUNK_BYTES_MAX: Final = 65535


def read_awstape(source: Path, partition: int, notes: Notes) -> Iterator[TapeObject]:
    """The file ends the tape."""
    if partition:
        return
    parts: list[bytes] = []
    with open_source(source) as file:
        for where, flags, data in _chunks(file, source):
            if flags & TAPE_MARK:
                if parts or data:
                    raise InterchangeError(f"{where}: a tape mark in the middle of a block")
                yield None
                continue
            if bool(flags & BEGINS) == bool(parts):
                raise InterchangeError(f"{where}: a chunk that begins a block inside another, or none that does")
            parts.append(data)
            check_length(max(1, sum(map(len, parts))), where)  # a block without an end shall not fill the memory
            if flags & ENDS:
                block = b"".join(parts)
                check_length(len(block), where)
                yield block
                parts = []
    if parts:
        raise InterchangeError(f"{source} ends in the middle of a block")


def _chunks(file: BinaryIO, source: Path) -> Iterator[tuple[str, int, bytes]]:
    previous = 0
    while header := file.read(HEADER.size):
        where = f"{source}, offset {file.tell() - len(header)}"
        if len(header) < HEADER.size:
            raise InterchangeError(f"{where}: half a chunk header at the end")
        length, before, flags, unknown = HEADER.unpack(header)
        if before != previous:
            raise InterchangeError(f"{where}: the chunk before has {previous} bytes, the header says {before}")
        if flags & ~(BEGINS | TAPE_MARK | ENDS) or unknown:
            raise InterchangeError(f"{where}: flags {flags:02X}h {unknown:02X}h, as of a compressed tape (HET)")
        yield where, flags, read_exactly(file, length, "a chunk")
        previous = length


def write_awstape(destination: Path, objects: Iterator[TapeObject], notes: Notes) -> None:
    """Blocks of more than 65,535 bytes become several chunks."""
    previous = 0
    with destination.open("xb") as file:
        for item in unmarked(objects, notes, "AWSTAPE"):
            if item is None:
                file.write(HEADER.pack(0, previous, TAPE_MARK, 0))
                previous = 0
                continue
            for at in range(0, len(item), CHUNK_BYTES_MAX):
                chunk = item[at : at + CHUNK_BYTES_MAX]
                flags = (BEGINS if at == 0 else 0) | (ENDS if at + len(chunk) == len(item) else 0)
                file.write(HEADER.pack(len(chunk), previous, flags, 0))
                file.write(chunk)
                previous = len(chunk)
