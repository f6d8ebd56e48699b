"""A cartridge in memory: the twin of a directory for tests, and the measure of what the contract says."""

import errno
import os
import weakref
from typing import Final

from vlib_images.cartridge.files import SegmentPlace
from vlib_images.errors import CartridgeDamaged

FREE_BYTES: Final = 1 << 40


class MemoryFiles:
    """Small files are bytes, segments are files that have no name anywhere (memfd_create(2)), so that the engine works
    on them as it does on any. All handles of one cartridge share it: hand the same MemoryFiles to whoever opens it."""

    def __init__(self, name: str = "memory") -> None:
        self.name = name
        self._made = False
        self._folders: dict[str, MemoryFiles] = {}
        self._files: dict[str, bytes] = {}
        self._segments: dict[str, _Memory] = {}
        self._locks: dict[str, list[_MemoryLock]] = {}

    def folder(self, name: str) -> "MemoryFiles":
        return self._folders.setdefault(name, MemoryFiles(f"{self.name}/{name}"))

    def exists(self) -> bool:
        return self._made

    def make(self) -> None:
        self._made = True

    def remove(self) -> None:
        self._made = bool(self.names())

    def names(self) -> list[str]:
        folders = [name for name, folder in self._folders.items() if folder.exists()]
        return [*folders, *self._files, *self._segments]

    def has(self, name: str) -> bool:
        return name in self.names()

    def read(self, name: str, most_bytes: int) -> bytes:
        if name in self._segments:
            return self._segments[name].read(most_bytes)
        content = self._files.get(name)
        if content is None:
            raise self._missing(name)
        if len(content) > most_bytes:
            raise CartridgeDamaged(f"{self.name}/{name} has {len(content)} bytes, more than {most_bytes}")
        return content

    def read_beginning(self, name: str, length_bytes: int) -> bytes:
        if name in self._segments:
            return self._segments[name].read(length_bytes)
        return self.read(name, len(self._files.get(name, b"")))[:length_bytes]

    def replace(self, name: str, content: bytes, *, spare: bool = False) -> None:
        self._files[name] = bytes(content)

    def unlink(self, name: str) -> None:
        if self._files.pop(name, None) is None and self._segments.pop(name, None) is None:
            raise self._missing(name)

    def synchronize(self) -> None:
        """Nothing outlives the process, so nothing is owed."""

    def synchronize_name(self) -> None:
        """As synchronize()."""

    def segment(self, name: str, *, new: bool = False) -> SegmentPlace:
        if new and name in self._segments:
            raise FileExistsError(errno.EEXIST, "File exists", f"{self.name}/{name}")
        if new:
            self._segments[name] = _Memory(name)
        if name not in self._segments:
            raise self._missing(name)
        return self._segments[name].descriptor

    def lock(self, name: str, *, shared: bool) -> "_MemoryLock":
        if name not in self._files:
            raise self._missing(name)
        held = [lock for lock in self._locks.get(name, []) if not lock.closed]
        if held and not (shared and all(lock.shared for lock in held)):
            raise BlockingIOError(errno.EAGAIN, "it is locked", f"{self.name}/{name}")
        lock = _MemoryLock(shared)
        self._locks[name] = [*held, lock]
        return lock

    def free_bytes(self) -> int:
        return FREE_BYTES

    def _missing(self, name: str) -> FileNotFoundError:
        return FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), f"{self.name}/{name}")


class _Memory:
    def __init__(self, name: str) -> None:
        self.descriptor = os.memfd_create(name)
        weakref.finalize(self, os.close, self.descriptor)

    def read(self, length_bytes: int) -> bytes:
        return os.pread(self.descriptor, length_bytes, 0)


class _MemoryLock:
    def __init__(self, shared: bool) -> None:
        self.shared = shared
        self.closed = False

    def close(self) -> None:
        self.closed = True
