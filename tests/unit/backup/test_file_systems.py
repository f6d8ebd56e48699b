"""ext2 to ext4, NTFS, FAT and partition tables, made by their own tools: on tape, and read back by GNU tar, they are
what was put into them."""

import os
import stat
import struct
import subprocess
import uuid
import zlib
from pathlib import Path

import pytest

from appliance.backup.archive import Member
from appliance.backup.entries import Entry, Kind, Skipped
from appliance.backup.filesystems.reader import NotReadable
from appliance.backup.sources import Sources, StillDisk
from tests.unit.backup.support import Bench, archive_of, extracted, python_members, run, which, write

MEBIBYTE = 1 << 20
ODD = b"\xff\xfe line\nfeed"


@pytest.fixture
def make_bench(tmp_path):
    made = []

    def make(*images: Path, **options) -> Bench:
        made.append(Bench(tmp_path, *images, **options))
        return made[-1]

    yield make
    for bench in made:
        bench.close()


def sources_of(bench: Bench, *, raw: bool = False, block_length: int = 512) -> Sources:
    disks = [StillDisk(f"disk{n}", image, block_length) for n, image in enumerate(bench.images)]
    return Sources.found_on(disks, raw=raw)


def taken(sources: Sources) -> tuple[list[Member], list[Skipped]]:
    found = list(sources.members())
    return [one for one in found if isinstance(one, Member)], [one for one in found if isinstance(one, Skipped)]


def blank(path: Path, mebibytes: int) -> Path:
    with path.open("wb") as image:
        image.truncate(mebibytes * MEBIBYTE)
    return path


def debugfs(image: Path, *commands: str) -> None:
    script = image.with_suffix(".debugfs")
    script.write_text("".join(f"{command}\n" for command in commands))
    said = run(which("debugfs"), "-w", "-f", script, image)
    assert "not found" not in said, said


@pytest.fixture
def tree(tmp_path) -> Path:
    """Files of every kind that mke2fs -d takes."""
    root = tmp_path / "tree"
    (root / "folder").mkdir(parents=True)
    (root / "folder/file").write_bytes(os.urandom(300_000))
    (root / "folder/file").chmod(0o640)  # as the ACL that test_ext() gives it would have it
    (root / "empty").write_bytes(b"")
    (root / "tiny").write_bytes(b"tiny")
    Path(os.fsdecode(os.fsencode(root) + b"/" + ODD)).write_bytes(b"odd")
    with (root / "sparse").open("wb") as file:
        file.seek(3 * MEBIBYTE)
        file.write(os.urandom(20_000))
    (root / "short").symlink_to("folder/file")
    (root / "long").symlink_to("l" * 300)
    (root / "hard").hardlink_to(root / "tiny")
    (root / "setuid").write_bytes(b"x")
    (root / "setuid").chmod(0o4711)
    os.chown(root / "setuid", 70_000, 3_000_000)
    os.utime(root / "tiny", ns=(0, 1_234_567_890_123_456_789))
    os.mkfifo(root / "fifo")
    os.mknod(root / "device", 0o600 | stat.S_IFBLK, os.makedev(259, 70_000))
    return root


EXT = {
    "ext2": ("-t", "ext2", "-b", "1024"),
    "ext2 whose directories do not say what is in them": ("-t", "ext2", "-b", "1024", "-O", "^filetype"),
    "ext3": ("-t", "ext3", "-I", "128"),
    "ext4": ("-t", "ext4", "-b", "4096"),
    "ext4 with inline data": ("-t", "ext4", "-b", "4096", "-I", "256", "-O", "inline_data"),
    "ext4 with meta_bg": ("-t", "ext4", "-b", "1024", "-O", "meta_bg,^resize_inode"),
    "ext4 of 64 bits with large attributes": ("-t", "ext4", "-b", "4096", "-O", "64bit,ea_inode,metadata_csum"),
}


@pytest.mark.parametrize("options", EXT.values(), ids=EXT)
def test_ext(tmp_path, tree, make_bench, options):
    """By debugfs: attributes, ACLs as the kernel has them, an unwritten extent, a socket."""
    image = blank(tmp_path / "ext.img", 64)
    run(which("mke2fs"), "-q", "-F", *options, "-d", tree, image)
    (tmp_path / "value").write_bytes(b"v\0w" * 200)
    acl = struct.pack("<IHHHHIHHHH", 1, 0x01, 6, 0x02, 4, 1234, 0x04, 4, 0x10, 4) + struct.pack("<HH", 0x20, 0)
    (tmp_path / "acl").write_bytes(acl)
    debugfs(
        image,
        f"ea_set -f {tmp_path / 'value'} folder/file user.large",
        "ea_set folder/file user.text some=text",
        f"ea_set -r -f {tmp_path / 'acl'} folder/file system.posix_acl_access"
        if "inline_data" not in options[-1]
        else "ea_set tiny user.x y",
    )
    bench = make_bench(image)
    members, skipped = taken(sources_of(bench))
    assert not skipped
    told = write(bench, members)
    archive = archive_of(bench.cartridges[0], tmp_path / "archive.tar")
    out = extracted(archive, tmp_path / "out") / "disk0"
    same_tree(tree, out)
    assert os.getxattr(out / "folder/file", "user.large") == b"v\0w" * 200
    assert os.getxattr(out / "folder/file", "user.text") == b"some=text"
    if "inline_data" not in options[-1]:
        restored = os.getxattr(out / "folder/file", "system.posix_acl_access")
        assert struct.pack("<HHI", 0x02, 4, 1234) in restored  # user 1234 may read
    assert len(told.whole) == len(members)
    run(which("bsdtar"), "-b", "512", "-tf", archive)
    assert python_members(archive)["disk0/setuid"] == b"x"


def same_tree(tree: Path, out: Path) -> None:
    """Kinds, contents, links, owners, rights, times and devices."""
    for path in (Path(folder, name) for folder, *both in os.walk(tree) for names in both for name in names):
        other = out / path.relative_to(tree)
        mine, theirs = path.lstat(), other.lstat()
        assert (mine.st_mode, mine.st_uid, mine.st_gid) == (theirs.st_mode, theirs.st_uid, theirs.st_gid), path
        assert mine.st_rdev == theirs.st_rdev
        if path.is_symlink():
            assert path.readlink() == other.readlink()
        elif path.is_file():
            assert path.read_bytes() == other.read_bytes(), path
            assert mine.st_nlink == theirs.st_nlink
    assert (out / "sparse").stat().st_blocks * 512 < MEBIBYTE


def test_times_of_ext4_have_nanoseconds(tmp_path, tree, make_bench):
    image = blank(tmp_path / "ext.img", 32)
    run(which("mke2fs"), "-q", "-F", "-t", "ext4", "-d", tree, image)
    debugfs(image, "set_inode_field empty mtime_extra 0x1d6f3454")
    found = {member.entry.name: member.entry for member in taken(sources_of(make_bench(image)))[0]}
    assert found[b"disk0/empty"].modified_ns % 1_000_000_000 == 0x1D6F3454 >> 2


def test_an_unwritten_extent_is_a_hole(tmp_path, tree, make_bench):
    image = blank(tmp_path / "ext.img", 32)
    run(which("mke2fs"), "-q", "-F", "-t", "ext4", "-b", "4096", "-d", tree, image)
    debugfs(image, "fallocate sparse 0 200")
    found = {member.entry.name: member.entry for member in taken(sources_of(make_bench(image)))[0]}
    assert found[b"disk0/sparse"].stored_bytes < 40_000


def test_what_is_left_out_is_named(tmp_path, tree, make_bench):
    image = blank(tmp_path / "ext.img", 32)
    run(which("mke2fs"), "-q", "-F", "-t", "ext4", "-d", tree, image)
    debugfs(image, "set_inode_field tiny flags 0x80800", "set_inode_field fifo mode 0140644")
    members, skipped = taken(sources_of(make_bench(image)))
    reasons = {one.name: one.reason for one in skipped}
    assert "encrypted" in reasons[b"disk0/hard"] or "encrypted" in reasons[b"disk0/tiny"]
    assert reasons[b"disk0/fifo"] == "a socket"
    assert b"disk0/empty" in {member.entry.name for member in members}


@pytest.mark.parametrize(
    "feature, reason", [("needs_recovery", "journal has to be replayed"), ("FEATURE_I20", "0x100000")]
)
def test_a_file_system_that_may_not_be_read_now(tmp_path, tree, make_bench, feature, reason):
    image = blank(tmp_path / "ext.img", 32)
    run(which("mke2fs"), "-q", "-F", "-t", "ext4", "-d", tree, image)
    debugfs(image, f"feature {feature}")
    bench = make_bench(image)
    with pytest.raises(NotReadable, match=reason):
        sources_of(bench)
    assert taken(sources_of(bench, raw=True))[0][0].entry.name == b"disk0.img"


def test_ntfs(tmp_path, make_bench):
    image = blank(tmp_path / "ntfs.img", 32)
    subprocess.run([which("mkntfs"), "-q", "-F", "-f", image], check=True, capture_output=True)
    files = {"A long name ä.bin": os.urandom(2_000_000), "resident.txt": b"few bytes", "odd": os.urandom(5001)}
    for name, data in files.items():
        (tmp_path / "file").write_bytes(data)
        run(which("ntfscp"), "-q", "-f", image, tmp_path / "file", name)
    (tmp_path / "file").write_bytes(b"hidden")
    run(which("ntfscp"), "-q", "-f", "-N", "stream", image, tmp_path / "file", "odd")
    bench = make_bench(image)
    members, skipped = taken(sources_of(bench))
    write(bench, members)
    found = python_members(archive_of(bench.cartridges[0], tmp_path / "archive.tar"))
    assert {name.removeprefix("disk0/"): data for name, data in found.items() if data} == files
    assert [(one.name, one.reason) for one in skipped] == [(b"disk0/odd:stream", "an alternate data stream")]


@pytest.mark.parametrize("bits", ["12", "16", "32"])
def test_fat(tmp_path, make_bench, bits):
    image = blank(tmp_path / "fat.img", {"12": 4, "16": 32, "32": 300}[bits])
    run(which("mkfs.fat"), "-F", bits, "-n", "LABEL", image)
    run(which("mmd"), "-i", image, "::folder")
    files = {"folder/A long näme.bin": os.urandom(700_001), "SHORT.TXT": b"short"}
    for name, data in files.items():
        (tmp_path / "file").write_bytes(data)
        run(which("mcopy"), "-i", image, tmp_path / "file", f"::{name}")
    bench = make_bench(image)
    members, skipped = taken(sources_of(bench))
    assert not skipped
    write(bench, members)
    found = python_members(archive_of(bench.cartridges[0], tmp_path / "archive.tar"))
    assert {name.removeprefix("disk0/"): data for name, data in found.items() if data} == files


# ---- partitions ----------------------------------------------------------------------------------------------------


def ext4_of(tmp_path: Path, name: str, content: bytes) -> bytes:
    tree = tmp_path / f"tree-{name}"
    tree.mkdir()
    (tree / name).write_bytes(content)
    image = blank(tmp_path / f"{name}.img", 4)
    run(which("mke2fs"), "-q", "-F", "-t", "ext4", "-b", "1024", "-d", tree, image)
    return image.read_bytes()


def gpt(parts: list[tuple[int, bytes]], blocks: int, size: int) -> bytearray:
    disk = bytearray(blocks * size)
    disk[446 + 4] = 0xEE
    struct.pack_into("<II", disk, 446 + 8, 1, blocks - 1)
    disk[510:512] = b"\x55\xaa"
    table = bytearray(128 * 128)
    for index, (first, data) in enumerate(parts):
        last = first + len(data) // size - 1
        struct.pack_into("<16s16sQQQ", table, index * 128, uuid.uuid4().bytes, uuid.uuid4().bytes, first, last, 0)
        disk[first * size : first * size + len(data)] = data
    entries = struct.pack("<II", 128, 128)
    header = bytearray(
        struct.pack("<8sIIIIQQQQ16sQ", b"EFI PART", 0x10000, 92, 0, 0, 1, blocks - 1, 40, blocks - 41, bytes(16), 2)
    )
    header += entries + struct.pack("<I", zlib.crc32(table))
    struct.pack_into("<I", header, 16, zlib.crc32(header))
    disk[size : size + len(header)] = header
    disk[2 * size : 2 * size + len(table)] = table
    return disk


@pytest.mark.parametrize("size", [512, 4096])
def test_guid_partitions(tmp_path, make_bench, size):
    parts = [(1024, ext4_of(tmp_path, "one", b"1")), (16384, ext4_of(tmp_path, "two", b"2")), (30000, os.urandom(8192))]
    image = tmp_path / "disk.img"
    image.write_bytes(gpt(parts, 40_000, size))
    bench = make_bench(image, block_length=size)
    sources = sources_of(bench, block_length=size)
    write(bench, taken(sources)[0])
    found = python_members(archive_of(bench.cartridges[0], tmp_path / "archive.tar"))
    assert (found["disk0/p1/one"], found["disk0/p2/two"]) == (b"1", b"2")
    assert found["disk0/p3.img"] == parts[2][1]
    assert [part.kind for part in sources.parts][2] == "image: no file system that is known"


def test_a_damaged_guid_table_is_said(tmp_path, make_bench):
    disk = gpt([(1024, bytes(512))], 4000, 512)
    disk[2 * 512 + 5] ^= 1
    (tmp_path / "disk.img").write_bytes(disk)
    with pytest.raises(NotReadable, match="partition table is damaged"):
        sources_of(make_bench(tmp_path / "disk.img"))


def test_primary_and_logical_partitions(tmp_path, make_bench):
    one, two, three = (ext4_of(tmp_path, name, name.encode()) for name in ("one", "two", "three"))
    disk, size = bytearray(30 * MEBIBYTE), len(one) // 512
    places = {"one": 2048, "extended": 16384, "two": 16384 + 64, "second": 32768, "three": 32768 + 64}

    def entry(at: int, index: int, kind: int, first: int, count: int) -> None:
        struct.pack_into("<B3xB3xII", disk, at * 512 + 446 + 16 * index, 0, kind, first, count)
        disk[at * 512 + 510 : at * 512 + 512] = b"\x55\xaa"

    entry(0, 0, 0x83, places["one"], size)
    entry(0, 1, 0x05, places["extended"], 40000)
    entry(places["extended"], 0, 0x83, 64, size)
    entry(places["extended"], 1, 0x05, places["second"] - places["extended"], size + 64)
    entry(places["second"], 0, 0x83, 64, size)
    for name, data in (("one", one), ("two", two), ("three", three)):
        disk[places[name] * 512 : places[name] * 512 + len(data)] = data
    (tmp_path / "disk.img").write_bytes(disk)
    bench = make_bench(tmp_path / "disk.img")
    write(bench, taken(sources_of(bench))[0])
    found = python_members(archive_of(bench.cartridges[0], tmp_path / "archive.tar"))
    assert {name for name, data in found.items() if data} == {"disk0/p1/one", "disk0/p5/two", "disk0/p6/three"}


def test_no_file_system_is_an_image_without_its_holes(tmp_path, make_bench):
    image = blank(tmp_path / "raw.img", 32)
    with image.open("r+b") as file:
        for at in (0, 9 * MEBIBYTE, 32 * MEBIBYTE - 70_000):
            file.seek(at)
            file.write(os.urandom(70_000))
    bench = make_bench(image)
    (member,), _ = taken(sources_of(bench))
    assert member.entry.stored_bytes < MEBIBYTE
    write(bench, [member])
    archive = archive_of(bench.cartridges[0], tmp_path / "archive.tar")
    assert python_members(archive)["disk0.img"] == image.read_bytes()
    assert archive.stat().st_size < 2 * MEBIBYTE


def test_an_encrypted_disk_is_an_image_and_says_so(tmp_path, make_bench):
    image = blank(tmp_path / "luks.img", 4)
    with image.open("r+b") as file:
        file.write(b"LUKS\xba\xbe" + os.urandom(100_000))
    sources = sources_of(make_bench(image))
    assert [part.kind for part in sources.parts] == ["image: encrypted (LUKS)"]


def test_the_same_disk_gives_the_same_members(tmp_path, tree, make_bench):
    image = blank(tmp_path / "ext.img", 32)
    run(which("mke2fs"), "-q", "-F", "-t", "ext4", "-d", tree, image)
    sources = sources_of(make_bench(image))
    first = sources.totals()
    assert sources.totals().digest == first.digest
    assert first.files == len(taken(sources)[0])
    assert {Kind.FILE, Kind.HARD_LINK, Kind.FIFO, Kind.BLOCK_DEVICE} <= {m.entry.kind for m in taken(sources)[0]}
    assert isinstance(taken(sources)[0][0].entry, Entry)
