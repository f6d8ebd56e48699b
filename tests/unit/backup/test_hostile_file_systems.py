"""Disks that were made, or damaged, such that whoever reads them is harmed: all of it has an end, and a name."""

import io
from pathlib import Path
from typing import Any

import pytest

from appliance.backup.entries import Entry, FileExtent, Kind, Skipped
from appliance.backup.filesystems import frames, worker
from appliance.backup.filesystems.isolated import IsolatedFileSystem
from appliance.backup.filesystems.reader import NotReadable, Reader
from appliance.backup.filesystems.sleuth import ExtFileSystem
from appliance.backup.listing import LIMIT_SIZE, ListRefused, from_line, name_in, to_line
from tests.unit.backup.support import Bench, archive_of, listed_by_gnu, members_of, run, which, write
from vlib_images.disk.raw import DiskImage

MEBIBYTE = 1 << 20


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    made = tmp_path / "tree"
    (made / "a/b").mkdir(parents=True)
    (made / "a/b/file").write_bytes(b"content")
    (made / "small").write_bytes(b"x" * 5000)
    return made


def ext4(path: Path, tree: Path, *commands: str) -> Path:
    """An image of it, changed by debugfs."""
    with path.open("wb") as image:
        image.truncate(32 * MEBIBYTE)
    run(which("mke2fs"), "-q", "-F", "-t", "ext4", "-b", "4096", "-d", tree, path)
    for command in commands:
        run(which("debugfs"), "-w", "-R", command, path)
    return path


def walked(path: Path) -> list[Entry | Skipped]:
    image = DiskImage.open(path, read_only=True)
    files = IsolatedFileSystem(image, 0, image.size_bytes)
    try:
        return list(files.walk())
    finally:
        files.close()
        image.close()


@pytest.mark.parametrize("command", ["link a a/b/again", "link a a/again", "link a/b other"])
def test_a_directory_that_is_in_itself_or_in_two_is_refused_by_name(tmp_path: Path, tree: Path, command: str) -> None:
    """With forty such, one in the other, there would be more files than atoms."""
    name = command.rpartition(" ")[2]
    with pytest.raises(NotReadable, match=f"directory ({name}|a/b) has two names, or contains itself"):
        walked(ext4(tmp_path / "disk.img", tree, command))


@pytest.mark.parametrize(
    "command, name",
    [
        ("set_inode_field small block[IND] 0xffffffff", b"small"),
        ("set_inode_field small block[2] 0xffff", b"small"),
        ("set_inode_field small size 0x7fffffffffffffff", b"small"),
        ("set_inode_field a/b/file file_acl 99999999", b"a/b/file"),
    ],
)
def test_a_damaged_file_is_left_out_by_name_or_refused(tmp_path: Path, tree: Path, command: str, name: bytes) -> None:
    image = ext4(tmp_path / "disk.img", tree, command)
    try:
        found = walked(image)
    except NotReadable as reason:
        assert "damaged" in str(reason) or "mend" in str(reason)
        return
    by_name = {one.name: one for one in found}
    assert {b"a", b"a/b", b"lost+found"} <= by_name.keys()
    one = by_name[name]
    if isinstance(one, Entry):
        assert all(extent.disk_offset + extent.length <= 32 * MEBIBYTE for extent in one.extents)


@pytest.mark.parametrize(
    "command",
    ["set_inode_field a/b block[0] 0", "set_inode_field a/b size 0x7fffffffffff", "set_inode_field a/b block[5] 1"],
)
def test_a_damaged_directory_is_named(tmp_path: Path, tree: Path, command: str) -> None:
    """Block 1 holds the descriptors of groups: what makes no sense there is no file, and none may be missing unsaid."""
    with pytest.raises(NotReadable, match=r"directory a/b: .*; mend the file system: e2fsck"):
        walked(ext4(tmp_path / "disk.img", tree, command))


class NothingOpens:
    """The Sleuth Kit's words where an inode makes no sense to it."""

    def __init__(self, files: Any) -> None:
        self.info = files.info

    def open_meta(self, number: int) -> None:
        raise OSError(f"FS_Info_open_meta: (tsk3.cpp:427) Unable to open file: {number}\nmore")


def test_a_root_that_cannot_be_opened_is_named(tmp_path: Path, tree: Path) -> None:
    image = DiskImage.open(ext4(tmp_path / "disk.img", tree), read_only=True)
    files = ExtFileSystem(Reader(image))
    files._files = NothingOpens(files._files)
    with pytest.raises(NotReadable, match=r"directory of the root: inode 2: FS_Info_open_meta: .*; mend"):
        list(files.walk())
    image.close()


def places(image: bytes, wanted: bytes) -> list[int]:
    """Where these bytes are."""
    found, at = [], image.find(wanted)
    while at >= 0:
        found.append(at)
        at = image.find(wanted, at + 1)
    return found


def flipped(path: Path, at: int) -> Path:
    with path.open("r+b") as image:
        image.seek(at)
        byte = image.read(1)[0]
        image.seek(at)
        image.write(bytes([byte ^ 1]))
    return path


def test_a_bit_of_an_ext4_inode(tmp_path: Path, tree: Path) -> None:
    """Its checksum says so: else the file would have the content of another."""
    image = ext4(tmp_path / "disk.img", tree)
    (found,) = (one for one in walked(image) if one.name == b"small")
    assert isinstance(found, Entry)
    block = found.extents[0].disk_offset // 4096
    (at,) = places(image.read_bytes(), (2).to_bytes(2, "little") + bytes(2) + block.to_bytes(4, "little"))
    by_name = {one.name: one for one in walked(flipped(image, at + 4))}
    assert isinstance(small := by_name[b"small"], Skipped)
    assert "the checksum of inode" in small.reason
    assert isinstance(by_name[b"a/b/file"], Entry)


def test_a_bit_of_an_ext4_directory(tmp_path: Path, tree: Path) -> None:
    image = ext4(tmp_path / "disk.img", tree)
    (at,) = places(image.read_bytes(), b"\x04\x01file")
    with pytest.raises(NotReadable, match="directory a/b: a block of it is damaged"):
        walked(flipped(image, at - 2))  # the length of the entry


def xfs(path: Path, tree: Path) -> Path:
    with path.open("wb") as image:
        image.truncate(320 * MEBIBYTE)
    prototype = path.with_suffix(".proto")
    files = "".join(f"a-file-with-a-long-name-{number} ---644 0 0 {tree}/small\n" for number in range(60))
    prototype.write_text(f"/\n0 0\nd--755 0 0\nfolder d--755 0 0\n{files}$\nsmall ---644 0 0 {tree}/small\n$\n$\n")
    run(which("mkfs.xfs"), "-q", "-f", "-p", prototype, path)
    return path


def test_a_bit_of_an_xfs_inode_or_directory(tmp_path: Path, tree: Path) -> None:
    clean = xfs(tmp_path / "disk.img", tree)
    names = {one.name for one in walked(clean) if isinstance(one, Entry)}
    assert len(names) == 63
    content, damaged = clean.read_bytes(), tmp_path / "damaged.img"
    (entry,) = places(content, b"a-file-with-a-long-name-17")
    damaged.write_bytes(content)
    with pytest.raises(NotReadable, match=r"directory folder: directory inode [0-9]+ is damaged"):
        walked(flipped(damaged, entry))
    damaged.write_bytes(content)
    inode = places(content, b"IN\x81\xa4")[-1]
    left_out = [one for one in walked(flipped(damaged, inode + 63)) if isinstance(one, Skipped)]  # its size
    assert ["the checksum of inode" in one.reason for one in left_out] == [True]


NONSENSE = (bytes(512), b"\xff" * 512, b"hello wo" * 64)


def fat(path: Path, tree: Path) -> Path:
    with path.open("wb") as image:
        image.truncate(16 * MEBIBYTE)
    run(which("mkfs.fat"), path)
    run(which("mmd"), "-i", path, "::dir")
    for number in range(40):
        run(which("mcopy"), "-i", path, tree / "small", f"::dir/file{number}.txt")
    return path


def test_a_sector_of_a_fat_directory(tmp_path: Path, tree: Path) -> None:
    clean = fat(tmp_path / "disk.img", tree)
    assert len(walked(clean)) == 42
    content, damaged = clean.read_bytes(), tmp_path / "damaged.img"
    (at,) = places(content, b".          \x10")
    for sector in (at, at + 512):
        for nonsense in NONSENSE:
            damaged.write_bytes(content[:sector] + nonsense + content[sector + 512 :])
            with pytest.raises(NotReadable, match=r"directory dir: (it does not begin with|an entry of it is dam)"):
                walked(damaged)


def test_a_sector_of_an_ntfs_directory(tmp_path: Path, tree: Path) -> None:
    clean = tmp_path / "disk.img"
    with clean.open("wb") as image:
        image.truncate(24 * MEBIBYTE)
    run(which("mkntfs"), "-F", "-Q", clean)
    for number in range(40):
        run(which("ntfscp"), "-f", clean, tree / "small", f"/file-with-a-long-name-{number}")
    assert len(walked(clean)) == 41
    content, damaged = clean.read_bytes(), tmp_path / "damaged.img"
    at = places(content, b"INDX")[-1]
    for nonsense in NONSENSE:
        damaged.write_bytes(content[:at] + nonsense + content[at + 512 :])
        with pytest.raises(NotReadable, match="directory of the root: a block of its index is damaged"):
            walked(damaged)


def test_directories_one_in_the_other_deeper_than_any_name(tmp_path: Path, tree: Path) -> None:
    levels = 2100
    commands = tmp_path / "commands"
    commands.write_text("mkdir d\ncd d\n" * levels + f"write {tree}/small file\n")
    image = ext4(tmp_path / "disk.img", tree, "features")
    run(which("debugfs"), "-w", "-f", commands, image)
    found = walked(image)
    entries = [one.name for one in found if isinstance(one, Entry)]
    left_out = [one for one in found if isinstance(one, Skipped)]
    assert b"/".join([b"d"] * 2048) in entries  # of 4095 bytes
    assert len(left_out) == levels - 2048 + 1
    assert all(one.name.startswith(b"d/d/d") and one.name.endswith(b"...") for one in left_out)
    assert left_out[0].reason.startswith("a name of 4097 bytes, longer than the 4096 that programs take")


class OneFile:
    """A file system of one file."""

    def __init__(self, entry: Entry) -> None:
        self._entry = entry

    def walk(self):
        yield self._entry


@pytest.mark.parametrize("pieces, whole", [(400_000, True), (2_000_000, False)])
def test_a_file_in_very_many_pieces(pieces: int, whole: bool) -> None:
    """A line of it is long, and one of these must not end the reading of all others."""
    entry = Entry(b"image", Kind.FILE, size=pieces * 4096)
    entry.extents = [FileExtent(4096 * n, 8192 * n, 4096) for n in range(pieces)]
    out = io.BytesIO()
    worker._walk(OneFile(entry), out)
    out.seek(0)
    letter, body = frames.read_frame(out.read)
    found = from_line(body.decode(), 1 << 62)
    assert letter == frames.LINES
    assert found == (
        entry if whole else Skipped(b"image", "in too many pieces; defragment it, or save the disk with --raw")
    )


def test_the_largest_and_the_oldest_file_that_linux_knows(tmp_path: Path) -> None:
    entry = Entry(b"hole\n", Kind.FILE, size=LIMIT_SIZE, modified_ns=-(1 << 31) * 1_000_000_000 - 1)
    again = from_line(to_line(entry), 1 << 40)
    assert isinstance(again, Entry)
    assert (again.size, again.modified_ns) == (entry.size, entry.modified_ns)
    bench = Bench(tmp_path)
    write(bench, members_of(again))
    archive = archive_of(bench.cartridges[0], tmp_path / "archive.tar")
    bench.close()
    assert listed_by_gnu(archive) == ["hole\\n"]
    (line,) = run("tar", "-b", "512", "--utc", "-tvf", archive).splitlines()
    assert str(LIMIT_SIZE) in line
    assert "1901-12-13" in line


def test_what_makes_no_sense_keeps_its_name() -> None:
    line = to_line(Entry(b"very large", Kind.FILE, size=LIMIT_SIZE + 1))
    with pytest.raises(ListRefused, match="size is"):
        from_line(line, 1 << 40)
    assert name_in(line) == b"very large"
    assert name_in('{"name":"../up"}') == name_in("[]") == name_in("{") == b""
