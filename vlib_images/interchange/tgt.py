"""Tape images of tgt, the Linux SCSI target framework: a chain of 48-byte headers, each before its block, behind a
header for the beginning of the tape and 1,104 bytes of medium auxiliary memory. Big endian, but for the checksums.
"""

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Final

from datamover.engine import crc32c
from vlib_images.interchange.common import InterchangeError, Notes, TapeObject, check_length, open_source, read_exactly

HEADER: Final = struct.Struct(">IIIQQQQ")  # stored length, length, type, number, previous, this, next
HEADER_BYTES: Final = 48
CHECKSUM_BYTES: Final = 4

UNCOMPRESSED: Final = 0x02
BEGINNING_OF_TAPE: Final = 0x10
END_OF_DATA: Final = 0x20
FILEMARK: Final = 0x40


def read_tgt(source: Path, partition: int, notes: Notes) -> Iterator[TapeObject]:
    """Headers are checked by their CRC32C; tgt keeps none for the blocks."""
    if partition:
        return
    notes.add("attributes in the medium auxiliary memory of the image are not imported")
    with open_source(source) as file:
        kind, _, at = _header(file, 0)
        if kind != BEGINNING_OF_TAPE:
            raise InterchangeError(f"{source} is no tape image of tgt: it does not begin with a beginning of tape")
        while True:
            kind, stored, following = _header(file, at)
            if kind == END_OF_DATA:
                return
            if kind == FILEMARK:
                yield None
            elif kind == UNCOMPRESSED:
                check_length(stored, f"{source}, offset {at}")
                yield read_exactly(file, stored, "a block")
            else:
                raise InterchangeError(f"{source}, offset {at}: a block of type {kind:02X}h, which tgt never writes")
            if following <= at:
                raise InterchangeError(f"{source}, offset {at}: the chain of headers turns back")
            at = following


def _header(file: BinaryIO, at: int) -> tuple[int, int, int]:
    """(type, stored length, offset of the next header); the file is behind the header."""
    file.seek(at)
    data = read_exactly(file, HEADER_BYTES, "a header")
    if int.from_bytes(data[:CHECKSUM_BYTES], "little") != crc32c(data[CHECKSUM_BYTES:]):
        raise InterchangeError(f"{file.name}, offset {at}: the header does not match its checksum")
    stored, _, kind, _, _, _, following = HEADER.unpack_from(data, CHECKSUM_BYTES)
    return kind, stored, following
