"""What The Sleuth Kit does not tell of a FAT directory: that a part of it makes no sense, and is left out."""

from __future__ import annotations

from typing import Final

from appliance.backup.filesystems.reader import NotReadable

_ENTRY_BYTES: Final = 32
_ITSELF: Final = b".          "
_ATTRIBUTES_AT, _UNKNOWN_ATTRIBUTES = 11, 0xC0
_LONG_NAME: Final = 0x0F
_END, _KANJI, _FREE = 0x00, 0x05, 0xE5  # first bytes of a name


def check_entries(data: bytes, *, is_root: bool) -> None:
    """All of a directory, as Microsoft's FAT specification has it (6, "Directory Structure"): the first entry is the
    directory itself, but in the root, and behind the one that ends it there is none. Raises NotReadable."""
    if not is_root and data[: len(_ITSELF)] != _ITSELF:
        raise NotReadable("it does not begin with itself")
    ended = False
    for at in range(0, len(data) - _ENTRY_BYTES + 1, _ENTRY_BYTES):
        first = data[at]
        if first == _END:
            ended = True
        elif ended or (first != _FREE and not _makes_sense(data[at : at + _ENTRY_BYTES])):
            raise NotReadable("an entry of it is damaged")


def _makes_sense(entry: bytes) -> bool:
    if entry[_ATTRIBUTES_AT] & _UNKNOWN_ATTRIBUTES:
        return False
    if entry[_ATTRIBUTES_AT] == _LONG_NAME:
        return not any(entry[26:28])
    return (entry[0] >= 0x20 or entry[0] == _KANJI) and min(entry[1:11]) >= 0x20
