"""SIMH magnetic tape files (.tap), and E11's, which differ in one thing: SIMH pads records of odd length.

A record is its length (4 bytes, little endian), the data, the length again. Source: "SIMH Magtape Representation and
Handling", B. Supnik.
"""

from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import BinaryIO, Final

from vlib_images.interchange.common import InterchangeError, Notes, TapeObject, check_length, open_source, read_exactly

TAPE_MARK: Final = 0
END_OF_MEDIUM: Final = 0xFFFFFFFF
ERASE_GAP: Final = 0xFFFFFFFE
HALF_GAP: Final = 0xFFFEFFFF
"""What is left of an erase gap where a record of 4n + 2 bytes was written over its first half."""
LENGTH_MASK: Final = 0x00FFFFFF
BAD_RECORD: Final = 0x80000000


def read_simh(source: Path, partition: int, notes: Notes) -> Iterator[TapeObject]:
    """Both kinds: which it is shows at the first record of odd length."""
    if partition:
        return
    with open_source(source) as file:
        padded: bool | None = None
        while word := file.read(4):
            where = f"{source}, offset {file.tell() - len(word)}"
            if len(word) < 4:
                raise InterchangeError(f"{where}: half a length word at the end")
            value = int.from_bytes(word, "little")
            if value == END_OF_MEDIUM:
                return
            if value == TAPE_MARK:
                yield None
            elif value == HALF_GAP:
                file.seek(-2, 1)
            elif value != ERASE_GAP:
                data, padded = _record(file, value, padded, where)
                if value & BAD_RECORD:
                    notes.add("records marked as read with errors; their data is kept, the mark is not")
                yield data


def _record(file: BinaryIO, value: int, padded: bool | None, where: str) -> tuple[bytes, bool | None]:
    length = value & LENGTH_MASK
    check_length(length, where)
    if value & ~LENGTH_MASK & ~BAD_RECORD:
        raise InterchangeError(f"{where}: {value:08X}h is no length of a data record")
    data = read_exactly(file, length, "a record")
    tail = file.read(5)
    if length % 2 and padded is None:
        padded = int.from_bytes(tail[1:5], "little") == value and len(tail) == 5
    skip = length % 2 if padded else 0
    if int.from_bytes(tail[skip : skip + 4], "little") != value or len(tail) < skip + 4:
        raise InterchangeError(f"{where}: the length behind the record is not the one before it")
    file.seek(skip + 4 - len(tail), 1)
    return data, padded


def write_simh(destination: Path, objects: Iterator[TapeObject], notes: Notes) -> None:
    """Records of odd length are padded."""
    _write(destination, objects, padded=True)


def write_e11(destination: Path, objects: Iterator[TapeObject], notes: Notes) -> None:
    """Records of odd length are not padded."""
    _write(destination, objects, padded=False)


def _write(destination: Path, objects: Iterator[TapeObject], *, padded: bool) -> None:
    with destination.open("xb") as file:
        for item in chain(objects, [b""]):  # nothing of length 0 is on a tape: it stands for the end
            if item is None:
                file.write(TAPE_MARK.to_bytes(4, "little"))
            elif not item:
                file.write(END_OF_MEDIUM.to_bytes(4, "little"))
            else:
                length = len(item).to_bytes(4, "little")
                file.write(length)
                file.write(item)
                file.write(bytes(len(item) % 2 if padded else 0) + length)
