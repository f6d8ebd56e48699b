"""XFS from outside, beside what xfs_db and the files themselves say."""

import os
import re
from pathlib import Path

import pytest

from appliance.backup.entries import Entry, Kind, Skipped
from appliance.backup.filesystems.reader import NotReadable, Reader
from appliance.backup.filesystems.xfs import XfsFileSystem
from tests.unit.backup.support import run, which
from vlib_images.disk.raw import DiskImage

COUNT = 3000


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    """Files that mkfs.xfs puts into a file system."""
    tree = tmp_path_factory.mktemp("tree")
    for number in range(20):
        (tree / f"{number}").write_bytes(os.urandom(number * 777))
    (tree / "large").write_bytes(os.urandom(3_000_000))
    return tree


def make(path: Path, source: Path, *options: str) -> Path:
    lines = ["/dev/null", "0 0", "d--755 0 0", f"large ---640 1000 1001 {source / 'large'}"]
    lines += ["null c--666 0 0 1 3", "block b--660 0 6 259 70000", "pipe p--644 0 0", "short l--777 0 0 large"]
    lines += [f"long l--777 0 0 {'x' * 700}", "many d--755 7 8"]
    lines += [f"{'name' * (n % 50)}-{n} ---644 0 0 {source / str(n % 20)}" for n in range(COUNT)]
    lines += ["$", "few d--700 0 0", f"one -u-755 0 0 {source / '7'}", "$", "$"]
    (path.parent / "proto").write_text("\n".join(lines) + "\n")
    with path.open("wb") as image:
        image.truncate(320 << 20)
    run(which("mkfs.xfs"), "-q", "-f", *options, "-p", path.parent / "proto", path)
    return path


@pytest.fixture(
    scope="module", params=[(), ("-m", "crc=0"), ("-b", "size=1024", "-i", "size=512"), ("-n", "size=16384")]
)
def image(request, tmp_path_factory, source) -> Path:
    return make(tmp_path_factory.mktemp("xfs") / "disk.img", source, *request.param)


def entries_of(path: Path) -> dict[bytes, Entry]:
    image = DiskImage.open(path, read_only=True)
    try:
        found = list(XfsFileSystem(Reader(image)).walk())
    finally:
        image.close()
    assert not [one for one in found if isinstance(one, Skipped)]
    return {entry.name: entry for entry in found}


def content(path: Path, entry: Entry) -> bytes:
    data = bytearray(entry.size)
    with path.open("rb") as image:
        for extent in entry.extents:
            image.seek(extent.disk_offset)
            data[extent.file_offset : extent.file_offset + extent.length] = image.read(extent.length)
    return bytes(data)


def test_files_and_their_content(image, source):
    found = entries_of(image)
    assert content(image, found[b"large"]) == (source / "large").read_bytes()
    large = found[b"large"]
    assert (large.mode, large.user, large.group) == (0o640, 1000, 1001)
    for number in range(COUNT):
        entry = found[f"many/{'name' * (number % 50)}-{number}".encode()]
        assert content(image, entry) == (source / str(number % 20)).read_bytes()
    assert found[b"few/one"].mode == 0o4755
    assert (found[b"few"].kind, found[b"few"].mode) == (Kind.DIRECTORY, 0o700)
    assert len(found) == COUNT + 10


def test_what_is_no_file(image):
    found = entries_of(image)
    assert (found[b"null"].kind, found[b"null"].device) == (Kind.CHARACTER_DEVICE, (1, 3))
    assert (found[b"block"].kind, found[b"block"].device) == (Kind.BLOCK_DEVICE, (259, 70000))
    assert found[b"pipe"].kind is Kind.FIFO
    assert (found[b"short"].link, found[b"long"].link) == (b"large", b"x" * 700)


def test_extents_are_those_of_xfs_db(image):
    found = entries_of(image)
    listed = run(which("xfs_db"), "-r", "-c", "path /large", "-c", "bmap", "-c", "sb 0", "-c", "p blocksize", image)
    size = int(re.search(r"blocksize = (\d+)", listed).group(1))
    blocks = [int(count) for count in re.findall(r"count (\d+) flag 0", listed)]
    starts = [int(group) for group in re.findall(r"startblock (\d+) \(", listed)]
    assert sum(blocks) == sum(-(-extent.length // size) for extent in found[b"large"].extents)
    assert len(starts) == len(blocks)


def test_attributes(image):
    large = "v" * 3000
    for name, value in (("small", "value"), ("large", large), *((f"n{n}", f"{n}" * 40) for n in range(60))):
        run(which("xfs_db"), "-x", "-c", "path /large", "-c", f"attr_set -v {len(value)} {name}", image)
    found = entries_of(image)[b"large"].attributes
    assert set(found) == {b"user.small", b"user.large", *(f"user.n{n}".encode() for n in range(60))}
    assert {name: len(value) for name, value in found.items()}[b"user.large"] == 3000


def test_a_log_that_has_to_be_replayed(image, tmp_path):
    """The newest record is made one that is no unmount's."""
    dirty = tmp_path / "dirty.img"
    data = bytearray(image.read_bytes())
    at = [
        found.start() for found in re.finditer(re.escape(b"\xfe\xed\xba\xbe"), bytes(data)) if found.start() % 512 == 0
    ]
    for start in at:
        data[start + 43] = 2
    dirty.write_bytes(data)
    with pytest.raises(NotReadable, match="its log has to be replayed"):
        entries_of(dirty)
