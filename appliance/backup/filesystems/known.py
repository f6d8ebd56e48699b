"""Which file system is on a disk or partition, and what reads it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, Protocol

from appliance.backup.entries import Entry, Skipped
from appliance.backup.filesystems.reader import NotReadable, Reader
from appliance.backup.filesystems.xfs import XfsFileSystem

_EXT_MAGIC: Final = (1080, b"\x53\xef")
# Signatures of what is saved as an image, because what is in it cannot be seen from outside.
_CLOSED: Final = (
    (0, b"LUKS\xba\xbe", "encrypted (LUKS)"), (3, b"-FVE-FS-", "encrypted (BitLocker)"),
    (512, b"LABELONE", "an LVM physical volume"), (4096, b"\xfc\x4e\x2b\xa9", "a member of a RAID (md)"),
    (65600, b"_BHRfS_M", "btrfs"), (4086, b"SWAPSPACE2", "swap"), (3, b"EXFAT   ", "exFAT"),
)  # fmt: skip


class FileSystem(Protocol):
    """What can be walked."""

    def walk(self) -> Iterator[Entry | Skipped]:
        """Every file, directories before what is in them; extents count from the beginning of the disk."""


def kind_of(reader: Reader) -> tuple[str, bool]:
    """What it is, in words; and whether its files can be seen."""
    head = reader.read_ahead(0, 66 << 10)
    if head[_EXT_MAGIC[0] :][:2] == _EXT_MAGIC[1]:
        return "ext2, ext3 or ext4", True
    if head[:4] == b"XFSB":
        return "XFS", True
    if head[3:11] == b"NTFS    ":
        return "NTFS", True
    for at, signature, words in _CLOSED:
        if head[at : at + len(signature)] == signature:
            return words, False
    if b"FAT" in (head[54:57], head[82:85]) and head[510:512] == b"\x55\xaa":
        return "FAT", True
    return "no file system that is known", False


def open_files(kind: str, reader: Reader) -> FileSystem:
    """What reads a file system of that kind. Raises NotReadable, OSError."""
    if kind == "XFS":
        return XfsFileSystem(reader)
    try:
        from appliance.backup.filesystems import sleuth
    except ImportError:
        message = "The Sleuth Kit for Python is needed for this file system: pip install 'tapebay[agent]'"
        raise NotReadable(message) from None
    return sleuth.DosFileSystem(reader) if kind in ("NTFS", "FAT") else sleuth.ExtFileSystem(reader)
