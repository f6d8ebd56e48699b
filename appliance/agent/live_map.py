"""What an agent would send of the files below some paths: where each lies on its disk, or why it goes another way."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from appliance.agent.block_devices import BlockDevices
from appliance.agent.file_systems import NotMapped, mappable, mount_of
from appliance.agent.walk import Walk, mapper
from appliance.backup.entries import Entry, Kind, Skipped


def mapped(paths: Iterable[Path], exclude: Sequence[str] = ()) -> list[dict[str, Any]]:
    """A row for each file: path, kind, size in bytes, extents as (offset in the file, offset on the disk, length), and
    where, in words. A path that cannot be mapped at all is one row. Raises OSError."""
    return [row for path in paths for row in _mapped(path, exclude)]


def _mapped(path: Path, exclude: Sequence[str]) -> Iterator[dict[str, Any]]:
    try:
        mount = mappable(mount_of(path))
        stack = BlockDevices().stack(mount.device)
        disk = stack.only_disk()
    except NotMapped as reason:
        yield _row(os.fsencode(path), "", 0, (), f"not mapped: {reason}")
        return
    below = os.fsencode(path.resolve().relative_to(mount.point))
    walk = Walk(
        os.fsencode(mount.point), mapper(stack.locate, disk), os.fsencode(str(mount.point).strip("/")),
        [] if below == b"." else [below], [os.fsencode(pattern) for pattern in exclude],
    )  # fmt: skip
    for found in walk.entries():
        if isinstance(found, Skipped):
            yield _row(found.name, "", 0, (), f"not mapped: {found.reason}")
        else:
            yield _row(
                found.name, found.kind.name.lower().replace("_", " "), found.size, found.extents, _where(found, disk)
            )


def _where(entry: Entry, disk: str) -> str:
    if entry.content is not None:
        return f"sent in the list: {len(entry.content)} bytes that have no blocks of their own"
    if entry.kind is not Kind.FILE:
        return ""
    if not entry.extents:
        return "a hole" if entry.size else ""
    first, more = entry.extents[0], len(entry.extents) - 1
    return f"{disk} at {first.disk_offset}" + (f", and in {more} more places" if more else "")


def _row(name: bytes, kind: str, size: int, extents: Sequence[Any], where: str) -> dict[str, Any]:
    path = name.decode(errors="surrogateescape")
    return {"path": path, "kind": kind, "size": size, "extents": [list(extent) for extent in extents], "where": where}
