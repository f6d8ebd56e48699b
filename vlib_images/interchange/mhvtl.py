"""Cartridges of mhVTL: one directory with, for each partition, the blocks (data), one 512-byte header for each block or
filemark (indx), and the filemarks' numbers (meta). Older versions have one partition and no numbers behind the names.

Numbers are in the order of the machine that wrote them, little endian in practice.
"""

import os
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Final

from datamover.engine import crc32c, lzo_decompress
from vlib_images.interchange.common import InterchangeError, Notes, TapeObject, check_length, open_part, read_exactly

INDEX_BYTES: Final = 512
INDEX: Final = struct.Struct("<qIIIIII")  # data offset, type, flags, number, length, stored length, CRC32C

DATA: Final = 11
FILEMARK: Final = 3

ZLIB: Final = 0x01
ENCRYPTED: Final = 0x02
LZO: Final = 0x04
HAS_CRC: Final = 0x08


def partition_files(source: Path, partition: int) -> tuple[Path, Path] | None:
    """(data, indx) of a partition, None when there is none."""
    names = [(f"data.{partition}", f"indx.{partition}")] + ([("data", "indx")] if partition == 0 else [])
    for data, index in names:
        if os.path.lexists(source / data) and os.path.lexists(source / index):
            return source / data, source / index
    return None


def read_mhvtl(source: Path, partition: int, notes: Notes) -> Iterator[TapeObject]:
    """Every block's length and, where there is one, CRC32C is checked."""
    files = partition_files(source, partition)
    if files is None:
        if partition == 0:
            raise InterchangeError(f"{source} has no files data and indx, or data.0 and indx.0")
        return
    if partition == 0:
        notes.add("attributes in the medium auxiliary memory (file mam) are not imported")
    data_path, index_path = files
    with open_part(data_path) as data, open_part(index_path) as index:
        if os.fstat(index.fileno()).st_size % INDEX_BYTES:
            raise InterchangeError(f"{index_path} does not consist of entries of {INDEX_BYTES} bytes")
        number = 0
        while entry := index.read(INDEX_BYTES):
            offset, kind, flags, said, length, stored, crc = INDEX.unpack_from(entry)
            where = f"{index_path}, entry {number}"
            if said != number or kind not in (DATA, FILEMARK):
                raise InterchangeError(f"{where}: kind {kind}, number {said}: not a format that Tapebay knows")
            yield None if kind == FILEMARK else _block(data, offset, flags, length, stored, crc, where, notes)
            number += 1


def _block(
    data: BinaryIO, offset: int, flags: int, length: int, stored: int, crc: int, where: str, notes: Notes
) -> bytes:
    check_length(length, where)
    check_length(stored, where)
    if flags & ENCRYPTED:
        notes.add("blocks that mhVTL calls encrypted; it stores them in clear, and so they are imported")
    if offset < 0:
        raise InterchangeError(f"{where}: offset {offset}")
    data.seek(offset)
    block = read_exactly(data, stored, f"the block of {where}")
    try:
        if flags & LZO:
            block = lzo_decompress(block, length)
        elif flags & ZLIB:
            block = zlib.decompressobj().decompress(block, length + 1)
    except (ValueError, zlib.error) as error:
        raise InterchangeError(f"{where}: {error}") from error
    if len(block) != length:
        raise InterchangeError(f"{where}: {len(block)} bytes where {length} should be")
    if flags & HAS_CRC and crc32c(block) != crc:
        raise InterchangeError(f"{where}: the block does not match its checksum")
    return block
