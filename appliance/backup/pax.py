"""The headers of a POSIX pax archive (IEEE Std 1003.1-2017, pax), for contents that are elsewhere.

Sparse files are of GNU tar's format 1.0: the map of what is there stands before the data, in blocks of 512 bytes. A
member that goes on on the next volume has the headers that GNU tar's multi-volume archives have in pax format. Names of
any bytes are in the ustar header where they fit, and else in a record of bytes (hdrcharset=BINARY).
"""

from __future__ import annotations

import functools
import zlib
from typing import Final

from appliance.backup.entries import Entry, Kind

BLOCK: Final = 512
END: Final = bytes(2 * BLOCK)  # of an archive
_OCTAL_SIZE: Final = 8**11  # the first size and time that eleven octal digits do not hold
_OCTAL_ID: Final = 8**7
_NAME_BYTES, _PREFIX_BYTES = 100, 155
_AFTER_DEVICE_BYTES: Final = 512 - 345
_SPACES_SUM: Final = 8 * 0x20
_BINARY: Final = (b"hdrcharset", b"BINARY")
_ACLS: Final = {b"system.posix_acl_access": b"SCHILY.acl.access", b"system.posix_acl_default": b"SCHILY.acl.default"}
_SELINUX: Final = b"security.selinux"
_DUMPDIR: Final = b"GNU.dumpdir"  # GNU tar, incremental dumps: bytes, with NULs among them


def padding(length: int) -> bytes:
    """What fills the last block of so many bytes."""
    return bytes(-length % BLOCK)


def sparse_map(entry: Entry) -> bytes:
    """What stands before the data of a sparse file; b"" for others."""
    if not entry.sparse:
        return b""
    regions = [(extent.file_offset, extent.length) for extent in _regions(entry)]
    regions.append((entry.size, 0))  # GNU tar makes the hole at the end of it
    text = b"%d\n" % len(regions) + b"".join(b"%d\n%d\n" % region for region in regions)
    return text + padding(len(text))


def _regions(entry: Entry) -> list[_Region]:
    """Extents that follow each other in the file are one region, wherever on the disk they lie."""
    regions: list[_Region] = []
    for extent in entry.extents:
        if regions and regions[-1].file_offset + regions[-1].length == extent.file_offset:
            regions[-1].length += extent.length
        else:
            regions.append(_Region(extent.file_offset, extent.length))
    return regions


class _Region:
    def __init__(self, file_offset: int, length: int) -> None:
        self.file_offset = file_offset
        self.length = length


def header(entry: Entry, sparse_map: bytes = b"") -> bytes:
    """What stands before the member's content, which begins with the map of a sparse file. `entry.link` of a hard link
    is the name of the other member."""
    records: list[tuple[bytes, bytes]] = []
    name = entry.name + b"/" if entry.kind is Kind.DIRECTORY else entry.name
    size = entry.stored_bytes
    if sparse_map:
        size += len(sparse_map)
        records += [(b"GNU.sparse.major", b"1"), (b"GNU.sparse.minor", b"0"), (b"GNU.sparse.name", name)]
        records.append((b"GNU.sparse.realsize", b"%d" % entry.size))
        directory, _, last = name.rpartition(b"/")
        name = (directory + b"/" if directory else b"") + b"GNUSparseFile.0/" + last
    prefix, short = _split(name)
    if short is None and not sparse_map:
        records.append((b"path", name))
    if len(entry.link) > _NAME_BYTES:
        records.append((b"linkpath", entry.link))
    if entry.dumpdir:
        records.append((_DUMPDIR, entry.dumpdir))
    records += _numbers(entry, size)
    records += _attributes(entry)
    fields = _ustar(
        short if short is not None else name[-_NAME_BYTES:], prefix, entry.kind.value, entry.mode, entry.user,
        entry.group, size, entry.modified_ns // 1_000_000_000, entry.link, entry.device,
    )  # fmt: skip
    return _extended(records, b"x", short or b"") + fields


def _numbers(entry: Entry, size: int) -> list[tuple[bytes, bytes]]:
    records = []
    seconds, nanoseconds = divmod(entry.modified_ns, 1_000_000_000)
    if nanoseconds or not 0 <= seconds < _OCTAL_SIZE:
        records.append((b"mtime", _decimal(entry.modified_ns)))
    if size >= _OCTAL_SIZE:
        records.append((b"size", b"%d" % size))
    for key, number in ((b"uid", entry.user), (b"gid", entry.group)):
        if number >= _OCTAL_ID:
            records.append((key, b"%d" % number))
    return records


def _decimal(nanoseconds: int) -> bytes:
    sign = b"-" if nanoseconds < 0 else b""
    seconds, rest = divmod(abs(nanoseconds), 1_000_000_000)
    return sign + (b"%d.%09d" % (seconds, rest)).rstrip(b"0").rstrip(b".")


def _attributes(entry: Entry) -> list[tuple[bytes, bytes]]:
    records = []
    for name, value in sorted(entry.attributes.items()) if entry.attributes else ():
        if name in _ACLS:
            records.append((_ACLS[name], value))
        elif name == _SELINUX:
            records.append((b"RHT.security.selinux", value.rstrip(b"\0")))
        else:
            # GNU tar writes and reads these two so, as "=" ends a keyword.
            escaped = name.replace(b"%", b"%25").replace(b"=", b"%3D")
            records.append((b"SCHILY.xattr." + escaped, value))
    return records


def _split(name: bytes) -> tuple[bytes, bytes | None]:
    """(prefix, name) of the ustar header; None where the name does not fit."""
    if len(name) <= _NAME_BYTES:
        return b"", name
    at = name.find(b"/", len(name) - _NAME_BYTES - 1, len(name) - 1)
    if 0 < at <= _PREFIX_BYTES:
        return name[:at], name[at + 1 :]
    return b"", None


def _record(key: bytes, value: bytes) -> bytes:
    rest = len(key) + len(value) + 3
    length = rest + len(str(rest))
    if rest + len(str(length)) != length:
        length += 1
    return b"%d %b=%b\n" % (length, key, value)


def _extended(records: list[tuple[bytes, bytes]], type_flag: bytes, name: bytes) -> bytes:
    """A header of records, "x" for the next member, "g" for all that follow; b"" for none."""
    if not records:
        return b""
    body = b"".join([_record(key, value) for key, value in records])
    if not body.isascii() and not all(_is_utf8(value) for key, value in records if _is_text(key)):
        body = _record(*_BINARY) + body
    head = _ustar(b"PaxHeaders.0/" + name[-80:], b"", type_flag, 0o644, 0, 0, len(body), 0, b"", (0, 0))
    return head + body + padding(len(body))


def _is_text(key: bytes) -> bool:
    return not key.startswith((b"SCHILY.xattr.", b"RHT.", _DUMPDIR))


def _is_utf8(value: bytes) -> bool:
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True


def _ustar(
    name: bytes, prefix: bytes, type_flag: bytes, mode: int, user: int, group: int, size: int, seconds: int,
    link: bytes, device: tuple[int, int],
) -> bytes:  # fmt: skip
    """A ustar header; what does not fit is in a record of the header before it."""
    times = (size if size < _OCTAL_SIZE else 0, seconds if 0 <= seconds < _OCTAL_SIZE else 0)
    head = b"%b%b%011o\0%011o\0" % (name.ljust(_NAME_BYTES, b"\0"), _owner(mode, user, group), *times)
    tail, tail_sum = _tail(type_flag, link[:_NAME_BYTES], device, prefix)
    return b"%b%06o\0 %b" % (head, _sum(head) + tail_sum, tail)


# Most files of a backup have their owner and mode in common, lead nowhere, and lie in the directory of the one before.
@functools.lru_cache
def _owner(mode: int, user: int, group: int) -> bytes:
    return b"%07o\0%07o\0%07o\0" % (
        mode & 0o7777, user if user < _OCTAL_ID else 0, group if group < _OCTAL_ID else 0,
    )  # fmt: skip


@functools.lru_cache
def _tail(type_flag: bytes, link: bytes, device: tuple[int, int], prefix: bytes) -> tuple[bytes, int]:
    """What comes after the checksum; and the sum of that, with the checksum's own bytes, which count as spaces."""
    tail = b"".join(
        (
            type_flag, link.ljust(_NAME_BYTES, b"\0"), b"ustar\x0000", bytes(64), b"%07o\0%07o\0" % device,
            prefix.ljust(_AFTER_DEVICE_BYTES, b"\0"),
        )
    )  # fmt: skip
    return tail, sum(tail) + _SPACES_SUM


def _sum(part: bytes) -> int:
    """Of the bytes of a part of a header, 256 at most. Adler-32's low half is one more than that (RFC 1950, 9), as long
    as it is less than 65521."""
    return (zlib.adler32(part) & 0xFFFF) - 1


# ---- volumes -------------------------------------------------------------------------------------------------------


def volume_header(comment: str) -> bytes:
    """What an archive begins with: a comment, for who looks at the bytes."""
    return _extended([(b"comment", comment.encode())], b"g", b"volume")


def continued_header(entry: Entry, done: int, comment: str, part: int) -> bytes:
    """What the next volume of a member begins with of which `done` bytes are on earlier ones (GNU tar, multi-volume in
    pax format). part: counted from 1, of the volumes that have a part of it."""
    whole = entry.stored_bytes + len(sparse_map(entry))
    left = whole - done
    directory, _, last = entry.name.rpartition(b"/")
    name = (directory + b"/" if directory else b"") + b"GNUFileParts.%d/" % part + last
    told = [
        (b"comment", comment.encode()),
        (b"GNU.volume.filename", entry.name),
        (b"GNU.volume.size", b"%d" % left),
        (b"GNU.volume.offset", b"%d" % (entry.size - left)),  # a sparse file's counts its holes, too
    ]
    prefix, short = _split(name)
    records = [(b"size", b"%d" % left)] if left >= _OCTAL_SIZE else []
    if short is None:
        records.append((b"path", name))
    seconds = entry.modified_ns // 1_000_000_000
    fields = _ustar(
        short if short is not None else name[-_NAME_BYTES:], prefix, Kind.FILE.value, 0o600, entry.user, entry.group,
        left, seconds, b"", (0, 0),
    )  # fmt: skip
    return _extended(told, b"g", b"volume") + _extended(records, b"x", short or b"") + fields
