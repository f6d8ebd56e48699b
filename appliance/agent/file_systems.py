"""Which file system a path is on: the kernel's own table, proc_pid_mountinfo(5)."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

MOUNT_INFO: Final = Path("/proc/self/mountinfo")
MAPPABLE: Final = {"ext2", "ext3", "ext4", "xfs"}
_OCTAL = re.compile(rb"\\([0-7]{3})")


class NotMapped(Exception):
    """Files whose blocks cannot be named to the appliance, and why; they go through the server instead."""


@dataclass(frozen=True, slots=True)
class MountedFileSystem:
    """A mounted file system. device: (major, minor) of its block device; options: as mounted, "rw" among them."""

    point: Path
    root: str
    device: tuple[int, int]
    file_system: str
    options: frozenset[str]


def mount_of(path: Path, table: Path = MOUNT_INFO) -> MountedFileSystem:
    """The one that `path` is on. Raises OSError, NotMapped."""
    real = path.resolve(strict=True)
    best: MountedFileSystem | None = None
    for mount in mounts(table):
        # the last of those at one point hides the others
        if real.is_relative_to(mount.point) and (best is None or mount.point.is_relative_to(best.point)):
            best = mount
    if best is None:
        raise NotMapped(f"{path} is on no file system that the kernel names")
    return best


def mounts(table: Path = MOUNT_INFO) -> list[MountedFileSystem]:
    """All of them, in the order they were mounted. Raises OSError."""
    found = []
    for line in table.read_bytes().splitlines():
        before, _, after = line.partition(b" - ")
        _, _, device, root, point, options, *_ = before.split(b" ")
        file_system, _, super_options = after.split(b" ")[:3]
        major, _, minor = device.decode().partition(":")
        both = frozenset((options + b"," + super_options).decode(errors="surrogateescape").split(","))
        row = MountedFileSystem(
            Path(os.fsdecode(_plain(point))), os.fsdecode(_plain(root)), (int(major), int(minor)),
            file_system.decode(), both,
        )  # fmt: skip
        found.append(row)
    return found


def mappable(mount: MountedFileSystem) -> MountedFileSystem:
    """The same. Raises NotMapped for a file system whose blocks mean something else than the files' bytes."""
    if mount.file_system not in MAPPABLE:
        raise NotMapped(f"{mount.point} is {mount.file_system}; the blocks of ext2, ext3, ext4 and XFS can be named")
    if mount.root != "/":
        raise NotMapped(f"{mount.point} shows a part of a file system (a bind mount); name its own mount point")
    return mount


def _plain(text: bytes) -> bytes:
    """Spaces, tabs, line ends and backslashes are written in octal."""
    return _OCTAL.sub(lambda match: bytes([int(match[1], 8)]), text)
