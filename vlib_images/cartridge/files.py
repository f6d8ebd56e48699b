"""The contract of a store of cartridges: what one cartridge asks of the place that its files are in.

A cartridge is a folder with a few small files, which are only ever replaced as a whole, and with a folder for each
partition, which holds segments beside such files. `DirectoryFiles` keeps them in a directory,
`memory_files.MemoryFiles` in memory. Methods raise OSError, as the file system does; FileNotFoundError where there is
no file of that name.
"""

import contextlib
import fcntl
import os
from pathlib import Path
from typing import IO, Protocol

from datamover.engine import storage_replace, storage_sync_directory, storage_unlink
from vlib_images.documents import DOCUMENT_BYTES_MAX, Document, decode_document, encode_document
from vlib_images.errors import CartridgeDamaged
from vlib_images.plain_files import is_folder, open_plain

SegmentPlace = str | int
"""Where the engine opens a segment: by its path, or by a descriptor, which stays its owner's."""


class Lock(Protocol):
    """Held until it is closed."""

    @property
    def closed(self) -> bool: ...

    def close(self) -> None: ...


class CartridgeFiles(Protocol):
    """One folder. name: for messages."""

    name: str

    def folder(self, name: str) -> "CartridgeFiles":
        """A folder in this one, which need not be there."""

    def exists(self) -> bool:
        """Whether the folder is there."""

    def make(self) -> None:
        """Make the folder, and what leads to it; one that is there stays as it is."""

    def remove(self) -> None:
        """Remove the folder, durably; it stays when something is in it."""

    def names(self) -> list[str]:
        """Of everything in the folder."""

    def has(self, name: str) -> bool:
        """Whether there is anything of that name."""

    def read(self, name: str, most_bytes: int) -> bytes:
        """All of a file. Raises CartridgeDamaged, and reads nothing, when it is longer than such a file can be."""

    def read_beginning(self, name: str, length_bytes: int) -> bytes:
        """The first bytes of a file, fewer where it has not so many."""

    def replace(self, name: str, content: bytes, *, spare: bool = False) -> None:
        """Replace a file, or make it, durably: a crash leaves the old one or the new one. spare: as far as the store
        can, keep the old one's room for the next time, so that it works in a full store too."""

    def unlink(self, name: str) -> None:
        """Delete a file; durable after synchronize()."""

    def synchronize(self) -> None:
        """What was made and deleted in the folder is durable when this returns."""

    def synchronize_name(self) -> None:
        """That the folder itself is there is durable when this returns."""

    def segment(self, name: str, *, new: bool = False) -> SegmentPlace:
        """Where the engine opens a segment. new: it makes it. Raises FileExistsError, FileNotFoundError where that is
        known already; else the engine does."""

    def lock(self, name: str, *, shared: bool) -> Lock:
        """Take the lock of that name, which is a file. Raises BlockingIOError when somebody else has it."""

    def free_bytes(self) -> int:
        """Room that is left in the store."""


class DirectoryFiles:
    """A directory of the local file system. Nothing outside it is reached through links in it: see plain_files."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.name = str(path)

    def folder(self, name: str) -> "DirectoryFiles":
        return DirectoryFiles(self.path / name)

    def exists(self) -> bool:
        return is_folder(self.path)

    def make(self) -> None:
        self.path.mkdir(parents=True, exist_ok=True)

    def remove(self) -> None:
        with contextlib.suppress(OSError):
            self.path.rmdir()
        storage_sync_directory(str(self.path.parent))

    def names(self) -> list[str]:
        return [path.name for path in self.path.iterdir()]

    def has(self, name: str) -> bool:
        return os.path.lexists(self.path / name)

    def read(self, name: str, most_bytes: int) -> bytes:
        with open_plain(self.path / name) as file:
            length = os.fstat(file.fileno()).st_size
            if length > most_bytes:
                message = f"{self.path / name} has {length} bytes, more than the {most_bytes} that it can have"
                raise CartridgeDamaged(message)
            return file.read(most_bytes)

    def read_beginning(self, name: str, length_bytes: int) -> bytes:
        with open_plain(self.path / name) as file:
            return file.read(length_bytes)

    def replace(self, name: str, content: bytes, *, spare: bool = False) -> None:
        storage_replace(self.name, name, content, spare)

    def unlink(self, name: str) -> None:
        storage_unlink(str(self.path / name))

    def synchronize(self) -> None:
        storage_sync_directory(self.name)

    def synchronize_name(self) -> None:
        storage_sync_directory(str(self.path.parent))

    def segment(self, name: str, *, new: bool = False) -> SegmentPlace:
        return str(self.path / name)

    def lock(self, name: str, *, shared: bool) -> IO[bytes]:
        file = open_plain(self.path / name, only_name=not shared)
        try:
            fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BaseException:
            file.close()
            raise
        return file

    def free_bytes(self) -> int:
        space = os.statvfs(self.path)
        return space.f_bavail * space.f_frsize


def write_document(files: CartridgeFiles, name: str, content: Document) -> None:
    """Replace a document, durably; a crash leaves the old content or the new. Raises OSError."""
    files.replace(name, encode_document(content), spare=True)


def read_document(files: CartridgeFiles, name: str) -> Document:
    """Raises CartridgeDamaged when the content does not match its checksum, OSError."""
    return decode_document(files.read(name, DOCUMENT_BYTES_MAX), f"{files.name}/{name}")


def files_of(place: Path | CartridgeFiles) -> CartridgeFiles:
    """The store of a cartridge that is given by its directory or is a store already."""
    return DirectoryFiles(place) if isinstance(place, Path) else place
