"""The process that reads one file system for the daemon (isolated.py says why): ... worker OFFSET SIZE DISK_SIZE

It has no file of the disk's: it asks for the bytes that it wants over its standard output, and gets them on its
standard input.
"""

from __future__ import annotations

import json
import resource
import sys
from typing import TYPE_CHECKING, BinaryIO, Final

from appliance.backup.entries import Skipped
from appliance.backup.filesystems import frames
from appliance.backup.filesystems.known import FileSystem, kind_of, open_files
from appliance.backup.filesystems.reader import ContentNotKept, NotReadable, Reader
from appliance.backup.listing import to_line

if TYPE_CHECKING:
    from typing_extensions import Buffer

LIMIT_MEMORY_BYTES: Final = 2 << 30


class _AskedDisk:
    """The image of the disk, which is the daemon's."""

    def __init__(self, size_bytes: int, asked: BinaryIO, answers: BinaryIO) -> None:
        self.size_bytes = size_bytes
        self._asked = asked
        self._answers = answers

    def read_into(self, buffer: Buffer, offset: int) -> None:
        """Raises OSError."""
        view = memoryview(buffer).cast("B")
        self._asked.write(frames.frame(frames.READ, frames.RANGE.pack(offset, len(view))))
        self._asked.flush()
        letter, body = frames.read_frame(self._answers.read)
        if letter == frames.NOT_KEPT:
            raise ContentNotKept(body.decode(errors="replace"))
        if letter != frames.DATA:
            raise OSError(body.decode(errors="replace"))
        view[:] = body


def main() -> None:
    """Answers WALK after WALK until its standard input ends."""
    resource.setrlimit(resource.RLIMIT_AS, (LIMIT_MEMORY_BYTES, LIMIT_MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    offset, size_bytes, disk_bytes = map(int, sys.argv[1:4])
    out, given = sys.stdout.buffer, sys.stdin.buffer
    reader = Reader(_AskedDisk(disk_bytes, out, given), offset, size_bytes)
    try:
        kind, open_to_see = kind_of(reader)
        files = open_files(kind, reader) if open_to_see else None
        _say(out, frames.KIND, json.dumps([kind, open_to_see]).encode())
        while files is not None and frames.read_frame(given.read)[0] == frames.WALK:
            _walk(files, out)
    except EOFError:
        return
    except (NotReadable, OSError, MemoryError) as reason:
        _say(out, frames.REFUSED, str(reason or "it takes more memory than a file system may").encode())


def _walk(files: FileSystem, out: BinaryIO) -> None:
    lines: list[str] = []
    room = frames.LINES_BYTES
    for found in files.walk():
        line = to_line(found)
        if len(line) > frames.LIMIT_LINE_BYTES:
            line = to_line(Skipped(found.name, "in too many pieces; defragment it, or save the disk with --raw"))
        lines.append(line)
        room -= len(line)
        if room < 0:
            _say(out, frames.LINES, "\n".join(lines).encode())
            lines, room = [], frames.LINES_BYTES
    if lines:
        _say(out, frames.LINES, "\n".join(lines).encode())
    _say(out, frames.END)


def _say(out: BinaryIO, letter: bytes, body: bytes = b"") -> None:
    out.write(frames.frame(letter, body))
    out.flush()


if __name__ == "__main__":
    main()
