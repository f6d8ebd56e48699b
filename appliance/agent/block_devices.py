"""Where the blocks of a mounted device lie on disks: through partitions and dm-linear (LVM's plain volumes).

What is between a file system and a disk and does more than to add (RAID, encryption, thin volumes, snapshots, multipath
tables) is refused by name, since a block there is not a block of the disk.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

from appliance.agent.file_systems import NotMapped

SYSFS: Final = Path("/sys")
SECTOR: Final = 512  # sysfs and device mapper count in these, whatever the disk's blocks are


class DeviceRange(NamedTuple):
    """A run of a device and where it lies on a disk, all in bytes. disk: the kernel's name of it, "sdb"."""

    start: int
    length: int
    disk: str
    disk_offset: int


@dataclass(frozen=True, slots=True)
class Stack:
    """A block device as pieces of disks, in the order of the device. names: of what is on the way, the device first."""

    names: tuple[str, ...]
    pieces: tuple[DeviceRange, ...]

    @property
    def length_bytes(self) -> int:
        return self.pieces[-1].start + self.pieces[-1].length

    @property
    def disks(self) -> list[str]:
        """The disks under it, each once."""
        return list(dict.fromkeys(piece.disk for piece in self.pieces))

    def only_disk(self) -> str:
        """The one disk under it. Raises NotMapped where it is spread over several."""
        if len(self.disks) != 1:
            raise NotMapped(f"{self.names[0]} lies on {', '.join(self.disks)}; one spread over disks cannot be named")
        return self.disks[0]

    def locate(self, offset: int, length: int) -> Iterator[tuple[str, int, int]]:
        """(disk, offset on it, length) for each run of that range, in order. Raises NotMapped outside the device."""
        end = offset + length
        for piece in self.pieces:
            first, last = max(offset, piece.start), min(end, piece.start + piece.length)
            if first < last:
                if first != offset:
                    break
                yield piece.disk, piece.disk_offset + first - piece.start, last - first
                offset = last
        if offset != end:
            raise NotMapped(f"bytes {offset} to {end} are not on {self.names[0]}, which has {self.length_bytes}")


def _dmsetup_table(device: tuple[int, int]) -> str:
    command = ["dmsetup", "table", "--major", str(device[0]), "--minor", str(device[1])]
    try:
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=20).stdout
    except FileNotFoundError:
        raise NotMapped("dmsetup is missing, which tells what a device-mapper device is made of") from None
    except subprocess.CalledProcessError as error:
        raise NotMapped(
            f"dmsetup does not say what device {device[0]}:{device[1]} is: {error.stderr.strip()}"
        ) from None


@dataclass(frozen=True, slots=True)
class BlockDevices:
    """The devices of this machine. Tests give their own sysfs, and table: what `dmsetup table` says of a device."""

    sysfs: Path = SYSFS
    table: Callable[[tuple[int, int]], str] = _dmsetup_table

    def stack(self, device: tuple[int, int]) -> Stack:
        """What the device with these numbers is made of. Raises NotMapped, OSError."""
        path = self._path(device)
        name = path.name
        if (path / "partition").exists():
            whole, start = path.parent.name, int((path / "start").read_text()) * SECTOR
            below = self.stack(self._numbers(path.parent))
            return _moved((name, *below.names), 0, self._length(path), below, start, whole)
        if (path / "dm").is_dir():
            return self._mapped(path, device)
        if not (path / "device").exists():
            kind = "a loop device" if name.startswith("loop") else "a RAID" if name.startswith("md") else "no disk"
            raise NotMapped(f"{name} is {kind}, whose blocks are not those of a disk of the appliance")
        return Stack((name,), (DeviceRange(0, self._length(path), name, 0),))

    def identifier(self, disk: str) -> str:
        """What a disk says it is, "naa.6..." for one of the appliance. Raises NotMapped."""
        try:
            return (self.sysfs / "block" / disk / "device" / "wwid").read_text().strip()
        except OSError as error:
            raise NotMapped(f"{disk} does not say which disk it is: {error}") from None

    def _path(self, device: tuple[int, int]) -> Path:
        link = self.sysfs / "dev" / "block" / f"{device[0]}:{device[1]}"
        if not link.exists():
            raise NotMapped(f"there is no block device {device[0]}:{device[1]}; a network file system has none")
        return link.resolve()

    def _length(self, path: Path) -> int:
        return int((path / "size").read_text()) * SECTOR

    def _numbers(self, path: Path) -> tuple[int, int]:
        return _pair((path / "dev").read_text())

    def _mapped(self, path: Path, device: tuple[int, int]) -> Stack:
        name = (path / "dm" / "name").read_text().strip()
        names: list[str] = [name]
        pieces: list[DeviceRange] = []
        for line in self.table(device).splitlines():
            first, sectors, target, *arguments = line.split()
            if target != "linear":
                raise NotMapped(f"{name} is made by device mapper's {target}; only linear ones can be named")
            below = self.stack(self._numbers_of(arguments[0]))
            start, length = int(first) * SECTOR, int(sectors) * SECTOR
            part = _moved((name,), start, length, below, int(arguments[1]) * SECTOR, arguments[0])
            pieces += part.pieces
            names += [one for one in below.names if one not in names]
        if not pieces:
            raise NotMapped(f"{name} is made of nothing")
        return Stack(tuple(names), tuple(pieces))

    def _numbers_of(self, text: str) -> tuple[int, int]:
        """dmsetup names a device by its numbers, or by a path."""
        if ":" in text:
            return _pair(text)
        status = Path(text).stat()
        return os.major(status.st_rdev), os.minor(status.st_rdev)


def _pair(text: str) -> tuple[int, int]:
    major, _, minor = text.strip().partition(":")
    return int(major), int(minor)


def _moved(names: tuple[str, ...], start: int, length: int, below: Stack, offset: int, where: str) -> Stack:
    """A run of the device below, from `offset` on, at `start` of the one above."""
    pieces, at = [], start
    try:
        for disk, disk_offset, run in below.locate(offset, length):
            pieces.append(DeviceRange(at, run, disk, disk_offset))
            at += run
    except NotMapped:
        raise NotMapped(f"{names[0]} reaches beyond {where}, which it is made of") from None
    return Stack(names, tuple(pieces))
