"""The maps of changes of a library's disks: begun with the first snapshot that wants one, kept across clean stops."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Final

import structlog

from vlib_images.disk.changes import ChangeMap
from vlib_images.disk.raw import DiskImage
from vlib_images.disk.watchers import unwatch, watch

log = structlog.get_logger(__name__)

SUFFIX: Final = ".changes"
NOT_COUNTED: Final = "the disk's changes were not counted then, or the last daemon did not stop cleanly since"


class Changes:
    """By name of the disk. Whoever opens, closes or replaces a disk's image says so here; one at a time for a disk.

    directory: where maps are between a clean stop and the next start."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._maps: dict[str, tuple[ChangeMap, DiskImage]] = {}

    def opened(self, name: str, image: DiskImage, identity: list[int] | None) -> None:
        """A disk's image was opened, and nobody uses it yet. A map that the last stop left goes on. identity: what
        identity_of() said of it before."""
        try:
            found = ChangeMap.take_up(self._path(name), identity, image)
        except OSError as error:  # it may be there again at the next start, so nothing may ever be counted on it
            log.warning("a map of changes cannot be used; the next backup is a full one", disk=name, reason=str(error))
            return
        if found is not None:
            self._watch(name, image, found)

    def of(self, name: str, image: DiskImage) -> ChangeMap:
        """The map of a disk; a new one where there is none. Whoever asks keeps all writers away."""
        if name not in self._maps or self._maps[name][1] is not image:
            self.forget(name)
            self._watch(name, image, ChangeMap(image.size_bytes, NOT_COUNTED))
        return self._maps[name][0]

    def renew(self, name: str, because: str) -> None:
        """What is on a disk now has nothing to do with what was there: it was restored."""
        if name in self._maps:
            found, image = self._maps[name]
            found.renew(image.size_bytes, because)

    def closed(self, name: str) -> None:
        """A disk's image was synchronised and closed; its map outlives the process."""
        if name not in self._maps:
            return
        found, image = self._maps.pop(name)
        try:
            found.save(self._path(name), image.path)
        except OSError as error:
            log.warning("a map of changes is lost; the next backup is a full one", disk=name, reason=str(error))

    def forget(self, name: str) -> None:
        """A disk is gone, or has another image."""
        if name in self._maps:
            found, image = self._maps.pop(name)
            unwatch(image, found.note)
        with suppress(FileNotFoundError):
            self._path(name).unlink()

    def _watch(self, name: str, image: DiskImage, found: ChangeMap) -> None:
        self._maps[name] = found, image
        watch(image, found.note)

    def _path(self, name: str) -> Path:
        return self._directory / f"{name}{SUFFIX}"
