"""SIMH magnetic tape files (.tap), and E11's, which differ in one thing: SIMH pads records of odd length.

A file is a run of objects, each with a 4-byte little-endian word: a class (bits 31 to 28) and a length or value. A
record has its word before and after its data; a marker is one word. Sources: "SIMH Magtape Representation and
Handling", B. Supnik; J. D. Bryan's extension of it (sim_tape.h: classes of records and markers, half gaps).

| class | value | object |
|---|---|---|
| 0 | 0 | tape mark |
| 0 | length | data record |
| 8 | length | data record that was read with errors; length 0: nothing could be read |
| 1 to 6, 9 to D, E | length | private, reserved and description records: no data of the tape, passed over |
| 7 | any | private marker, passed over |
| F | FFFFFFFh, FFFFFFEh, other | end of medium, erase gap, reserved markers |
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from vlib_images.interchange.common import (
    BadRecord,
    EndOfMedium,
    InterchangeError,
    Notes,
    TapeObject,
    check_length,
    open_source,
    read_exactly,
)

TAPE_MARK: Final = 0
END_OF_MEDIUM: Final = 0xFFFFFFFF
ERASE_GAP: Final = 0xFFFFFFFE
HALF_GAP: Final = 0xFFFEFFFF
"""What is left of an erase gap where a record of 4n + 2 bytes was written over its first half."""
VALUE_MASK: Final = 0x0FFFFFFF
GOOD_DATA, PRIVATE_MARKER, BAD_DATA, DESCRIPTION, STANDARD_MARKER = 0x0, 0x7, 0x8, 0xE, 0xF


@dataclass(slots=True)
class _Tape:
    """A file that is read. padded: whether records of odd length are, None until the first of them."""

    file: BinaryIO
    padded: bool | None = None

    def word(self) -> int | None:
        """None at the end of the file. Raises InterchangeError where half a word is left."""
        where = self.where()
        word = self.file.read(4)
        if 0 < len(word) < 4:
            raise InterchangeError(f"{where}: half a length word at the end")
        return int.from_bytes(word, "little") if word else None

    def where(self) -> str:
        return f"{self.file.name}, offset {self.file.tell()}"

    def end_record(self, value: int, where: str) -> None:
        """Behind the data of a record: its padding, and its word again."""
        odd = value & 1
        tail = self.file.read(5)
        if odd and self.padded is None:
            self.padded = int.from_bytes(tail[1:5], "little") == value and len(tail) == 5
        skip = 1 if odd and self.padded else 0
        if len(tail) < skip + 4:
            raise InterchangeError(f"{self.file.name} ends in the middle of the record at {where}")
        if int.from_bytes(tail[skip : skip + 4], "little") != value:
            raise InterchangeError(f"{where}: the length behind the record is not the one before it")
        self.file.seek(skip + 4 - len(tail), 1)


def read_simh(source: Path, partition: int, notes: Notes) -> Iterator[TapeObject]:
    """Both kinds: which it is shows at the first record of odd length."""
    if partition:
        return
    with open_source(source) as file:
        tape = _Tape(file)
        while (value := tape.word()) != END_OF_MEDIUM:
            if value is None:
                return
            if value == HALF_GAP:
                file.seek(-2, 1)
            if value == TAPE_MARK:
                yield None
            elif value >> 28 in (GOOD_DATA, BAD_DATA):
                yield _data(tape, value, notes)
            else:
                _pass_over(tape, value, notes)
        if left := len(file.read(1 << 20)):
            notes.add(f"{'at least ' * (left == 1 << 20)}{left} bytes after the end of medium were passed over")
    yield EndOfMedium()


def _data(tape: _Tape, value: int, notes: Notes) -> bytes:
    where, length, bad = _here(tape), value & VALUE_MASK, value >> 28 == BAD_DATA
    if bad and not length:
        _end_of_nothing(tape, value, notes)
        return BadRecord()
    check_length(length, where)
    data = read_exactly(tape.file, length, "a record")
    tape.end_record(value, where)
    return BadRecord(data) if bad else data


def _end_of_nothing(tape: _Tape, value: int, notes: Notes) -> None:
    """A record without data has its word twice, as every record does; some programs write it once."""
    at = tape.file.tell()
    if tape.file.read(4) != value.to_bytes(4, "little"):
        tape.file.seek(at)
        notes.add("records without data that had their length once have it twice, as every record does, when exported")


def _pass_over(tape: _Tape, value: int, notes: Notes) -> None:
    kind = value >> 28
    if value in (ERASE_GAP, HALF_GAP):
        notes.add("erase gaps were passed over")
    elif kind == STANDARD_MARKER:
        notes.add("reserved markers were passed over")
    elif kind == PRIVATE_MARKER:
        notes.add("private markers were passed over")
    else:
        what = "tape description" if kind == DESCRIPTION else "private" if kind < PRIVATE_MARKER else "reserved"
        notes.add(f"{what} records (class {kind:X}h), which are no data of the tape, were passed over")
        where = _here(tape)
        tape.file.seek(value & VALUE_MASK, 1)
        tape.end_record(value, where)


def _here(tape: _Tape) -> str:
    """Where the word is that was just read."""
    return f"{tape.file.name}, offset {tape.file.tell() - 4}"


def write_simh(destination: Path, objects: Iterator[TapeObject], notes: Notes) -> None:
    """Records of odd length are padded."""
    _write(destination, objects, padded=True)


def write_e11(destination: Path, objects: Iterator[TapeObject], notes: Notes) -> None:
    """Records of odd length are not padded."""
    _write(destination, objects, padded=False)


def _write(destination: Path, objects: Iterator[TapeObject], *, padded: bool) -> None:
    with destination.open("xb") as file:
        for item in objects:
            if item is None:
                file.write(TAPE_MARK.to_bytes(4, "little"))
            elif isinstance(item, EndOfMedium):
                file.write(END_OF_MEDIUM.to_bytes(4, "little"))
            else:
                kind = BAD_DATA if isinstance(item, BadRecord) else GOOD_DATA
                word = (kind << 28 | len(item)).to_bytes(4, "little")
                file.write(word)
                file.write(item)
                file.write(bytes(len(item) % 2 if padded else 0) + word)
