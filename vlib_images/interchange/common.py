"""What the interchange formats share: a tape as a run of objects, and what could not be kept."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from vlib_images.plain_files import open_named, open_plain


class BadRecord(bytes):
    """A block that whoever made the image read with errors; empty: nothing of it could be read."""


class EndOfMedium:
    """A mark that says that the tape ends here. Formats without one have none."""


TapeObject = bytes | memoryview | EndOfMedium | None
"""A block, or None for a filemark. A view is valid until the next object is asked for."""

BLOCK_BYTES_MAX = (1 << 24) - 1


class InterchangeError(Exception):
    """The source is not of the format, damaged, or has what Tapebay cannot read; the message says where and what."""


@dataclass(slots=True)
class Notes:
    """What cannot be kept, or was found odd, in words; each said once, with how often."""

    counts: dict[str, int] = field(default_factory=dict)

    def add(self, what: str) -> None:
        self.counts[what] = self.counts.get(what, 0) + 1

    def __iter__(self) -> Iterator[str]:
        for what, count in self.counts.items():
            yield what if count == 1 else f"{what} ({count} times)"


@dataclass(slots=True)
class LeftOutRun:
    """`count` blocks, the first and the last of them by number, that one reason keeps out."""

    partition: int
    first: int
    last: int
    count: int
    reason: str

    def __str__(self) -> str:
        if self.count == 1:
            return f"block {self.first} of partition {self.partition} is left out: {self.reason}"
        which = f"blocks {self.first} to {self.last} of partition {self.partition}"
        filemarks = self.last - self.first + 1 - self.count
        return f"{which} are left out, each of the {self.count} blocks{' there' if filemarks else ''}: {self.reason}"


@dataclass(slots=True)
class LeftOut:
    """Blocks that cannot be exported. Filemarks between blocks do not end a run, a block that is exported does."""

    runs: list[LeftOutRun] = field(default_factory=list)
    _goes_on: bool = False

    def add(self, partition: int, block: int, reason: str) -> None:
        """The next block cannot be exported."""
        last = self.runs[-1] if self._goes_on else None
        if last is not None and last.reason == reason:
            last.last, last.count = block, last.count + 1
        else:
            self.runs.append(LeftOutRun(partition, block, block, 1, reason))
        self._goes_on = True

    def end_run(self) -> None:
        """The next block is exported."""
        self._goes_on = False


ForeignReader = Callable[[Path, int, Notes], Iterator[TapeObject]]
"""reader(source, partition, notes): the objects of one partition. Raises InterchangeError, OSError."""

ForeignWriter = Callable[[Path, Iterator[TapeObject], Notes], None]
"""writer(destination, objects, notes): makes the file or directory, which must not exist. Raises OSError."""


def unmarked(objects: Iterator[TapeObject], notes: Notes, format_name: str) -> Iterator[bytes | memoryview | None]:
    """For a format that has blocks and filemarks only: the marks of others are left out, and the notes say so."""
    for item in objects:
        if isinstance(item, BadRecord):
            kept = "their data is kept" if item else "they are left out"
            kind = "records that were read with errors" if item else "records of which nothing could be read"
            notes.add(f"{kind}: {kept}, {format_name} has no mark for them")
        if not isinstance(item, EndOfMedium) and item != b"":
            yield item


def open_source(source: Path) -> BinaryIO:
    """The file that an operator named. Raises InterchangeError for a pipe, device or directory; FileNotFoundError."""
    return _open(source, open_named, missing=FileNotFoundError)


def open_part(path: Path) -> BinaryIO:
    """A file of a directory to be imported, and of no other place: a link could lead anywhere, a pipe never ends.
    Raises InterchangeError."""
    return _open(path.parent.resolve() / path.name, lambda plain: open_plain(plain, only_name=True))


def _open(path: Path, opener: Callable[[Path], BinaryIO], missing: type[OSError] | tuple[()] = ()) -> BinaryIO:
    try:
        return opener(path)
    except missing:
        raise
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise InterchangeError(f"{path} cannot be read: {reason}") from error


def read_exactly(file: BinaryIO, length: int, what: str) -> bytes:
    """Raises InterchangeError where the file ends before."""
    data = file.read(length)
    if len(data) != length:
        raise InterchangeError(f"{file.name} ends in the middle of {what}, at offset {file.tell()}")
    return data


def check_length(length: int, where: str) -> None:
    """Raises InterchangeError unless a block can have this length."""
    if not 1 <= length <= BLOCK_BYTES_MAX:
        raise InterchangeError(f"{where}: a block of {length} bytes; a block has 1 to {BLOCK_BYTES_MAX}")
