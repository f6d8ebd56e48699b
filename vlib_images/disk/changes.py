"""Which chunks of a disk have changed since which instant: what an increment has to copy.

An instant that is counted is a *mark*. For each chunk of 64 KiB the map holds a byte: after which mark it changed last.
So noting a change is storing a byte, and one map serves increments on any of the last marks. A map belongs to a
*generation*, a UUID. Wherever it is not sure that every change was noted, a new generation begins, and whoever asks on
the ground of an old one is told why only a full copy will do: never silently a bad increment.

The map outlives the process only by a clean stop. It is then a file, which names the image by what every change of it
would alter (inode, size, times of change). The next start removes the file, durably, before the first change can come.
"""

import json
import re
import stat
import struct
import uuid
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

from datamover.engine import crc32c
from vlib_images.atomic import sync_directory, write_atomically
from vlib_images.disk.image import Image
from vlib_images.disk.snapshot_store import CHUNK_BYTES
from vlib_images.plain_files import read_plain

MAGIC: Final = b"TBCHNG1\n"
MOST_MARKS: Final = 250  # that a byte tells apart
KEPT_MARKS: Final = 125  # when it can tell no more
_HEAD: Final = struct.Struct("<8sII")  # magic, length of the document, CRC32C of all that follows
_FILE_BYTES_MAX: Final = 1 << 30
_RUNS: Final = re.compile(b"\1+")


class NoIncrement(Exception):
    """Only a full copy will do; str() says why."""


class Mark(NamedTuple):
    """An instant of a disk. Only for the generation that it names."""

    generation: str
    number: int

    def __str__(self) -> str:
        return f"{self.generation}:{self.number}"

    @classmethod
    def parse(cls, text: str) -> "Mark":
        """Raises ValueError."""
        generation, _, number = text.partition(":")
        return cls(str(uuid.UUID(generation)), int(number))


class Frozen(NamedTuple):
    """A map as it was at an instant, which is `mark`."""

    mark: Mark
    base: int
    chunks: bytes
    size_bytes: int
    began_because: str

    def since(self, mark: Mark) -> Iterator[tuple[int, int]]:
        """(offset, length) in bytes of what changed between another mark and this one. Raises NoIncrement."""
        if mark.generation != self.mark.generation:
            raise NoIncrement(f"only a full copy will do: {self.began_because}")
        if not self.base < mark.number <= self.mark.number:
            raise NoIncrement("only a full copy will do: the changes since then are no longer told apart")
        return self._runs(mark.number - self.base)

    def _runs(self, least: int) -> Iterator[tuple[int, int]]:
        changed = self.chunks.translate(bytes(number >= least for number in range(256)))
        for run in _RUNS.finditer(changed):
            start = run.start() * CHUNK_BYTES
            yield start, min(run.end() * CHUNK_BYTES, self.size_bytes) - start


class ChangeMap:
    """Of one image. note() is a watcher of it (disk/watchers.py); mark() is for who keeps all writers away."""

    def __init__(self, size_bytes: int, began_because: str) -> None:
        self._begin(size_bytes, began_because)

    def _begin(self, size_bytes: int, began_because: str) -> None:
        self.size_bytes = size_bytes
        self.began_because = began_because
        self.generation = str(uuid.uuid4())
        self._base = 0  # the number of a mark is that of its byte and this
        self._now = 0  # the byte of what changes now: that of the last mark
        self._chunks = bytearray(-(-size_bytes // CHUNK_BYTES))
        self._outgrown = False

    def note(self, offset: int, length: int) -> None:
        """The bytes of that range are about to change."""
        first, last = offset // CHUNK_BYTES, (offset + length - 1) // CHUNK_BYTES
        if last >= len(self._chunks):
            self._outgrown = True
        elif first == last:
            self._chunks[first] = self._now
        elif first < last:
            self._chunks[first : last + 1] = bytes([self._now]) * (last + 1 - first)

    def renew(self, size_bytes: int, began_because: str) -> None:
        """A new generation: from now on only what comes after its first mark can be told."""
        self._begin(size_bytes, began_because)

    def mark(self, size_bytes: int) -> Frozen:
        """The instant is now: what changed before it, for any mark before it. size_bytes: of the image, now."""
        if self._outgrown or size_bytes != self.size_bytes:
            self._begin(size_bytes, "the disk has another size since then")
        if self._now == MOST_MARKS:
            self._forget_oldest(MOST_MARKS - KEPT_MARKS)
        changed = bytes(self._chunks)
        self._now += 1
        mark = Mark(self.generation, self._base + self._now)
        return Frozen(mark, self._base, changed, self.size_bytes, self.began_because)

    def _forget_oldest(self, count: int) -> None:
        table = bytes(max(0, number - count) for number in range(256))
        self._chunks[:] = self._chunks.translate(table)
        self._base += count
        self._now -= count

    # ---- across a clean stop -----------------------------------------------------------------------------------------

    def save(self, path: Path, image: Path) -> None:
        """After the image was synchronised and closed. Raises OSError; then there is no map."""
        if self._outgrown or (identity := identity_of(image)) is None:
            return
        document = json.dumps(
            {"generation": self.generation, "base": self._base, "now": self._now, "size_bytes": self.size_bytes,
             "began_because": self.began_because, "image": identity}
        ).encode()  # fmt: skip
        body = document + zlib.compress(self._chunks, 1)
        write_atomically(path, _HEAD.pack(MAGIC, len(document), crc32c(body)) + body)

    @classmethod
    def take_up(cls, path: Path, identity: list[int] | None, opened: Image) -> "ChangeMap | None":
        """The map that the last stop left of an image, which is open now; the file is gone when this returns. identity:
        what identity_of() said of the image before it was opened. None: there is none, or it cannot be relied on.
        Raises OSError where the file cannot be removed."""
        try:
            content = read_plain(path, _FILE_BYTES_MAX)
        except FileNotFoundError:
            return None
        except OSError:
            content = b""
        path.unlink()
        sync_directory(path.parent)
        try:
            found = _decoded(content)
        except (ValueError, KeyError, TypeError, zlib.error, struct.error):
            return None
        document, chunks = found
        if identity is None or document["image"] != identity or document["size_bytes"] != opened.size_bytes:
            return None
        made = cls(opened.size_bytes, document["began_because"])
        if len(chunks) != len(made._chunks):
            return None
        made.generation, made._base, made._now = document["generation"], document["base"], document["now"]
        made._chunks = bytearray(chunks)
        return made


def _decoded(content: bytes) -> tuple[dict[str, Any], bytes]:
    magic, length, check = _HEAD.unpack_from(content)
    body = content[_HEAD.size :]
    if magic != MAGIC or check != crc32c(body):
        raise ValueError("damaged")
    document = json.loads(body[:length])
    most = -(-int(document["size_bytes"]) // CHUNK_BYTES)
    return document, zlib.decompressobj().decompress(body[length:], most + 1)


def identity_of(image: Path) -> list[int] | None:
    """What every change of an image file alters. None: it is not there; or a block device, of which nothing is sure
    to."""
    try:
        status = image.stat()
    except OSError:
        return None
    if not stat.S_ISREG(status.st_mode):
        return None
    return [status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns]
