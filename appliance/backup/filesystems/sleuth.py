"""ext2 to ext4, NTFS and FAT, read by The Sleuth Kit (pytsk3): directories, and which blocks are a file's.

What that library does not tell is read here: extended attributes, device numbers and flags of ext inodes, and how far
an NTFS file has been written.
"""

from __future__ import annotations

import stat
from collections.abc import Iterator
from typing import Any, Final

import pytsk3

from appliance.backup.entries import Entry, FileExtent, Kind, Skipped, clipped
from appliance.backup.filesystems.ext_inodes import COMPRESSED, ENCRYPTED, INLINE_DATA, ExtInode, ExtInodes, check_names
from appliance.backup.filesystems.fat import check_entries
from appliance.backup.filesystems.ntfs import NtfsRecords
from appliance.backup.filesystems.reader import LIMIT_LINK_BYTES, NotReadable, Reader, bad_directory, check_walked_once
from appliance.backup.listing import LIMIT_ATTRIBUTES_BYTES

_UNALLOCATED: Final = int(pytsk3.TSK_FS_NAME_FLAG_UNALLOC)
_VIRTUAL: Final = (pytsk3.TSK_FS_META_TYPE_VIRT, pytsk3.TSK_FS_META_TYPE_VIRT_DIR)
_SPARSE_RUN, _FILLER_RUN = int(pytsk3.TSK_FS_ATTR_RUN_FLAG_SPARSE), int(pytsk3.TSK_FS_ATTR_RUN_FLAG_FILLER)
# Of an attribute (tsk_fs.h); pytsk3 has no names for them.
_RESIDENT, _ENCRYPTED, _COMPRESSED = 0x04, 0x10, 0x20
_NTFS_DATA, _NTFS_REPARSE, _NTFS_VOLUME_INFORMATION = 128, 192, 112
_NTFS_VOLUME: Final = 3  # the file that is about the file system
_VOLUME_LABEL: Final = b" (Volume Label Entry)"
_KINDS: Final = {
    stat.S_IFREG: Kind.FILE, stat.S_IFLNK: Kind.SYMBOLIC_LINK, stat.S_IFCHR: Kind.CHARACTER_DEVICE,
    stat.S_IFBLK: Kind.BLOCK_DEVICE, stat.S_IFIFO: Kind.FIFO, stat.S_IFDIR: Kind.DIRECTORY,
}  # fmt: skip


class _Image(pytsk3.Img_Info):  # type: ignore[misc]
    """What The Sleuth Kit reads from. An error is kept, as its own word for it says nothing."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self.failure: OSError | None = None
        super().__init__(url="", type=pytsk3.TSK_IMG_TYPE_EXTERNAL)

    def get_size(self) -> int:
        return self._reader.size_bytes

    def read(self, offset: int, size: int) -> bytes:
        try:
            return self._reader.read_ahead(offset, size)
        except OSError as error:
            self.failure = error
            return b""


class SleuthFileSystem:
    """One file system; walk() it once or more often, in the same order each time. Raises NotReadable, OSError."""

    # What no run says of is a hole; where it is not, the library has not understood the file.
    _filled_by_holes = False

    def __init__(self, reader: Reader, kind: int) -> None:
        """kind: as the library numbers them. Not told, it would look for the others too, all over the disk."""
        self._reader = reader
        self._image = _Image(reader)
        try:
            self._files = pytsk3.FS_Info(self._image, type=kind)
        except OSError as error:
            raise NotReadable(f"its file system cannot be read: {self._image.failure or _first_line(error)}") from None
        self._block_length = int(self._files.info.block_size)

    def walk(self) -> Iterator[Entry | Skipped]:
        """Every file, directories before what is in them; extents count from the beginning of the disk."""
        root = int(self._files.info.root_inum)
        try:
            top = self._open(root)
        except NotReadable as reason:
            raise bad_directory(b"", reason) from None
        yield from self._described(b".", top, root)
        waiting, walked = [(b"", self._directory(root, b""))], {root}
        while waiting:
            path, files = waiting[-1]
            file = next(files, None)
            if self._image.failure is not None:
                raise self._image.failure
            if file is None:
                waiting.pop()
                continue
            name, number = bytes(file.info.name.name), int(file.info.name.meta_addr)
            if name in (b".", b"..") or int(file.info.name.flags) & _UNALLOCATED or self._is_internal(file, name, path):
                continue
            for found in self._described(path + name, file, number):
                is_directory = isinstance(found, Entry) and found.kind is Kind.DIRECTORY
                yield found  # whoever takes it may give it another name
                if is_directory:
                    check_walked_once(walked, number, path + name)
                    waiting.append((path + name + b"/", self._directory(number, path + name)))

    def _open(self, number: int) -> Any:
        """A file by its number. Raises NotReadable; OSError where it is the disk that fails."""
        try:
            return self._files.open_meta(number)
        except OSError as error:
            raise self._image.failure or NotReadable(f"inode {number}: {_first_line(error)}") from None

    def _directory(self, number: int, path: bytes) -> Iterator[Any]:
        try:
            self._check_directory(number)
            return iter(self._files.open_dir(inode=number))
        except (OSError, NotReadable) as error:
            raise self._image.failure or bad_directory(path, _first_line(error)) from None

    def _check_directory(self, number: int) -> None:
        """The library leaves out what makes no sense in a directory, and says nothing of it. Raises NotReadable."""

    def _is_internal(self, file: Any, name: bytes, path: bytes) -> bool:
        """The library's own inventions, and the file system's own files."""
        meta = file.info.meta
        return meta is not None and (meta.type in _VIRTUAL or name.endswith(_VOLUME_LABEL))

    def _described(self, name: bytes, file: Any, number: int) -> Iterator[Entry | Skipped]:
        raise NotImplementedError

    def _extents(self, attribute: Any, size: int) -> list[FileExtent]:
        found, length = [], self._block_length
        for run in attribute:
            flags = int(run.flags)
            if flags & _FILLER_RUN and not self._filled_by_holes:
                raise NotReadable("the library cannot say where a part of it is")
            if not flags & (_SPARSE_RUN | _FILLER_RUN):
                disk_offset = self._reader.offset + int(run.addr) * length
                found.append(FileExtent(int(run.offset) * length, disk_offset, int(run.len) * length))
        return clipped(found, size)


class ExtFileSystem(SleuthFileSystem):
    """ext2, ext3, ext4."""

    _filled_by_holes = True

    def __init__(self, reader: Reader) -> None:
        self._inodes = ExtInodes(reader)
        super().__init__(reader, pytsk3.TSK_FS_TYPE_EXT_DETECT)
        self._first: dict[int, bytes] = {}  # the first name of a file with several

    def walk(self) -> Iterator[Entry | Skipped]:
        self._first.clear()
        return super().walk()

    def _described(self, name: bytes, file: Any, number: int) -> Iterator[Entry | Skipped]:
        try:
            inode = self._inodes.get(number)
            kind = _KINDS.get(stat.S_IFMT(inode.mode))
            if kind is None:
                yield Skipped(name, "a socket" if stat.S_ISSOCK(inode.mode) else "no kind of file that is known")
            elif inode.flags & ENCRYPTED:
                yield Skipped(name, "encrypted by the file system; only a host that has the key can read it")
            elif inode.flags & COMPRESSED:
                yield Skipped(name, "compressed by the file system")
            elif kind is not Kind.DIRECTORY and number in self._first:
                yield Entry(name, Kind.HARD_LINK, link=self._first[number], mode=inode.mode & 0o7777)
            else:
                entry = self._entry(name, file, kind, inode)
                if inode.links > 1 and kind is not Kind.DIRECTORY:
                    self._first[number] = name
                yield entry
        except NotReadable as reason:
            yield Skipped(name, str(reason))

    def _check_directory(self, number: int) -> None:
        inode = self._inodes.get(number)
        if inode.flags & INLINE_DATA:
            return
        for extent in self._extents_of(self._open(number), inode):
            for at in range(extent.disk_offset, extent.disk_offset + extent.length, self._block_length):
                check_names(self._reader.read(at - self._reader.offset, self._block_length))

    def _entry(self, name: bytes, file: Any, kind: Kind, inode: ExtInode) -> Entry:
        entry = Entry(name, kind, inode.mode & 0o7777, inode.user, inode.group, inode.modified_ns)
        if kind in (Kind.FILE, Kind.SYMBOLIC_LINK):
            self._fill(entry, file, inode)
        elif kind in (Kind.CHARACTER_DEVICE, Kind.BLOCK_DEVICE):
            entry.device = inode.device
        inode.attributes.pop(b"system.data", None)
        entry.attributes = inode.attributes
        for attribute, holder in inode.values_elsewhere.items():
            held = self._open(holder)
            size = int(held.info.meta.size)
            if size > LIMIT_ATTRIBUTES_BYTES:
                raise NotReadable(f"an attribute of {size} bytes; mend the file system: e2fsck")
            entry.attributes[attribute] = bytes(held.read_random(0, size))
        return entry

    def _fill(self, entry: Entry, file: Any, inode: ExtInode) -> None:
        if inode.flags & INLINE_DATA:
            content: bytes | None = inode.inline_content()
        elif entry.kind is Kind.SYMBOLIC_LINK and inode.size < len(inode.blocks):
            content = inode.blocks[: inode.size]
        else:
            content = None
        if entry.kind is Kind.SYMBOLIC_LINK:
            entry.link = content if content is not None else self._content(file, inode)
        else:
            entry.size, entry.content = inode.size, content
            if content is None:
                entry.extents = self._extents_of(file, inode)

    def _extents_of(self, file: Any, inode: ExtInode) -> list[FileExtent]:
        for attribute in file:
            return self._extents(attribute, inode.size)
        return []

    def _content(self, file: Any, inode: ExtInode) -> bytes:
        """Of a link that is too long for its inode."""
        if inode.size > LIMIT_LINK_BYTES:
            raise NotReadable(f"a link of {inode.size} bytes; mend the file system: e2fsck")
        found = b"".join(
            self._reader.read(extent.disk_offset - self._reader.offset, extent.length)
            for extent in self._extents_of(file, inode)
        )
        if len(found) != inode.size:
            raise NotReadable("a link that is not whole; mend the file system: e2fsck")
        return found


class DosFileSystem(SleuthFileSystem):
    """FAT and NTFS: no owners, no kinds but files and directories."""

    def __init__(self, reader: Reader) -> None:
        is_ntfs = reader.read(3, 4) == b"NTFS"
        super().__init__(reader, pytsk3.TSK_FS_TYPE_NTFS_DETECT if is_ntfs else pytsk3.TSK_FS_TYPE_FAT_DETECT)
        self._ntfs = NtfsRecords(self._files) if is_ntfs else None
        self._first: dict[int, bytes] = {}
        _check_dirty(reader, self._files, ntfs=self._ntfs is not None)

    def walk(self) -> Iterator[Entry | Skipped]:
        self._first.clear()
        return super().walk()

    def _check_directory(self, number: int) -> None:
        directory = self._open(number)
        if self._ntfs is not None:
            self._ntfs.check_index(directory)
            return
        extents = [e for attribute in directory for e in self._extents(attribute, int(attribute.info.size))]
        data = b"".join(self._reader.read(one.disk_offset - self._reader.offset, one.length) for one in extents)
        check_entries(data, is_root=number == int(self._files.info.root_inum))

    def _is_internal(self, file: Any, name: bytes, path: bytes) -> bool:
        own = self._ntfs is not None and not path and name.startswith(b"$") and int(file.info.name.meta_addr) < 24
        return own or super()._is_internal(file, name, path)

    def _described(self, name: bytes, file: Any, number: int) -> Iterator[Entry | Skipped]:
        meta = file.info.meta
        if meta is None:
            yield Skipped(name, "its directory entry leads nowhere; mend the file system")
            return
        directory = meta.type == pytsk3.TSK_FS_META_TYPE_DIR
        mode = (int(meta.mode) & 0o777) or (0o755 if directory else 0o644)
        modified_ns = int(meta.mtime) * 1_000_000_000 + int(meta.mtime_nano)
        if directory:
            yield Entry(name, Kind.DIRECTORY, mode, modified_ns=modified_ns)
        elif number in self._first:
            yield Entry(name, Kind.HARD_LINK, mode, link=self._first[number])
        else:
            yield from self._file(Entry(name, Kind.FILE, mode, modified_ns=modified_ns, size=int(meta.size)), file)
            if int(meta.nlink) > 1:
                self._first[number] = name

    def _file(self, entry: Entry, file: Any) -> Iterator[Entry | Skipped]:
        attributes, name = list(file), entry.name  # whoever takes the entry may give it another name
        if any(int(attribute.info.type) == _NTFS_REPARSE for attribute in attributes):
            yield Skipped(name, "a reparse point (a link, or data that another program keeps)")
            return
        for attribute in attributes:
            information = attribute.info
            if self._ntfs is not None and int(information.type) != _NTFS_DATA:
                continue
            if self._ntfs is not None and information.name:
                yield Skipped(name + b":" + bytes(information.name), "an alternate data stream")
                continue
            reason = self._take(entry, file, attribute)
            yield Skipped(name, reason) if reason else entry

    def _take(self, entry: Entry, file: Any, attribute: Any) -> str:
        """Where the content is; else why it cannot be had."""
        flags = int(attribute.info.flags)
        entry.size = int(attribute.info.size)
        if flags & _ENCRYPTED:
            return "encrypted by the file system; only a host that has the key can read it"
        if flags & _COMPRESSED:
            return "compressed by the file system"
        if flags & _RESIDENT:
            entry.content = bytes(file.read_random(0, entry.size)) if entry.size else b""
            return ""
        written = entry.size if self._ntfs is None else self._ntfs.initialized_size(int(file.info.meta.addr))
        if written is None:
            return "its record in the master file table cannot be read"
        entry.extents = self._extents(attribute, min(entry.size, written))
        return ""


def _check_dirty(reader: Reader, files: Any, *, ntfs: bool) -> None:
    if ntfs:
        volume = files.open_meta(_NTFS_VOLUME)
        number = next((int(a.info.id) for a in volume if int(a.info.type) == _NTFS_VOLUME_INFORMATION), -1)
        information = bytes(volume.read_random(0, 12, _NTFS_VOLUME_INFORMATION, number))
        dirty = bool(information[10] & 1)
    else:
        sector = reader.read(0, 512)
        wide = sector[82:85] == b"FAT"
        dirty = bool(sector[0x41 if wide else 0x25] & 1)
    if dirty:
        raise NotReadable("it was not unmounted cleanly: it is mounted now, or wants a check (chkdsk, fsck.fat)")


def _first_line(error: BaseException) -> str:
    return str(error).partition("\n")[0]
