"""Archives on tape: read by GNU tar, bsdtar and Python; closed before the file in progress where a tape is full;
resumed at each checkpoint; a file larger than a volume goes on on the next."""

import functools
import os
from pathlib import Path

import pytest

from appliance.backup.archive import Checkpoint
from appliance.backup.entries import Entry, FileExtent, Kind
from tests.unit.backup.support import (
    Bench,
    Told,
    archive_of,
    checksum_of,
    extracted,
    listed_by_gnu,
    members_of,
    python_members,
    run,
    which,
    write,
)

MEBIBYTE = 1 << 20


@pytest.fixture
def image(tmp_path) -> Path:
    path = tmp_path / "disk.img"
    path.write_bytes(os.urandom(20 * MEBIBYTE))
    return path


@pytest.fixture
def make_bench(tmp_path, image):
    made = []

    def make(**options) -> Bench:
        made.append(Bench(tmp_path, image, **options))
        return made[-1]

    yield make
    for bench in made:
        bench.close()


def file_at(name: str, offset: int, length: int, **more) -> Entry:
    return Entry(name.encode(), Kind.FILE, size=length, extents=[FileExtent(0, offset, length)], **more)


def files(count: int, length: int, seed: int = 0) -> list[Entry]:
    """Of different lengths, at different bytes of the disk."""
    return [
        file_at(f"file-{n:04}", (n * 7919 * 512 + seed) % (16 * MEBIBYTE), length + n * 37 % 4096) for n in range(count)
    ]


@functools.cache
def bytes_of(image: Path) -> bytes:
    return image.read_bytes()


def content(image: Path, entry: Entry) -> bytes:
    data = bytes_of(image)
    found = bytearray(entry.size)
    for extent in entry.extents:
        found[extent.file_offset : extent.file_offset + extent.length] = data[extent.disk_offset :][: extent.length]
    return bytes(found)


@pytest.mark.parametrize("block_length", [512, 4096])
def test_three_readers_list_and_extract_it(tmp_path, image, make_bench, block_length):
    bench = make_bench(block_length=block_length)
    entries = [*files(30, 5000), *files(3, 3 * MEBIBYTE, seed=11)]
    entries = [entry if n < 30 else file_at(f"large-{n}", n * 4096 + 7, entry.size) for n, entry in enumerate(entries)]
    told = write(bench, members_of(*entries))
    archive = archive_of(bench.cartridges[0], tmp_path / "archive.tar")
    names = [entry.name.decode() for entry in entries]
    assert listed_by_gnu(archive) == names
    assert run(which("bsdtar"), "-b", "512", "-tf", archive).splitlines() == names
    expected = {entry.name.decode(): content(image, entry) for entry in entries}
    assert python_members(archive) == expected
    found = extracted(archive, tmp_path / "gnu")
    assert {name: (found / name).read_bytes() for name in names} == expected
    (tmp_path / "bsd").mkdir()
    run(which("bsdtar"), "-b", "512", "-xf", archive, "-C", tmp_path / "bsd")
    assert {name: (tmp_path / "bsd" / name).read_bytes() for name in names} == expected
    assert [member.crc32c for member in told.whole] == [checksum_of(expected[name]) for name in names]


def test_sparse_files(tmp_path, image, make_bench):
    bench = make_bench()
    scattered = [FileExtent(512 * n, 1024 * n, 512) for n in range(0, 2000, 3)]
    entries = [
        Entry(b"hole at the end", Kind.FILE, size=5 * MEBIBYTE, extents=[FileExtent(0, 4096, 8192)]),
        Entry(b"holes", Kind.FILE, size=20_000, extents=[FileExtent(4096, 8192, 4096), FileExtent(16384, 65536, 3616)]),
        Entry(b"nothing", Kind.FILE, size=MEBIBYTE),
        Entry(b"d/" + b"x" * 120, Kind.FILE, size=MEBIBYTE, extents=scattered),
        Entry(b"empty", Kind.FILE),
    ]  # fmt: skip
    told = write(bench, members_of(*entries))
    archive = archive_of(bench.cartridges[0], tmp_path / "archive.tar")
    expected = {entry.name.decode(): content(image, entry) for entry in entries}
    assert python_members(archive) == expected
    found = extracted(archive, tmp_path / "gnu", "--sparse")
    assert {name: (found / name).read_bytes() for name in expected} == expected
    assert (found / "hole at the end").stat().st_blocks * 512 < MEBIBYTE
    (tmp_path / "bsd").mkdir()
    run(which("bsdtar"), "-b", "512", "-xf", archive, "-C", tmp_path / "bsd")
    assert {name: (tmp_path / "bsd" / name).read_bytes() for name in expected} == expected
    assert told.whole[1].crc32c == checksum_of(expected["holes"][4096:8192] + expected["holes"][16384:])


def test_content_that_the_file_system_has_within_its_structures(tmp_path, make_bench):
    bench = make_bench()
    told = write(bench, members_of(Entry(b"small", Kind.FILE, size=5, content=b"12345"), file_at("after", 512, 100)))
    assert python_members(archive_of(bench.cartridges[0], tmp_path / "archive.tar"))["small"] == b"12345"
    assert told.whole[0].crc32c == checksum_of(b"12345")


def test_a_full_tape_is_closed_before_the_file_in_progress(tmp_path, image, make_bench):
    bench = make_bench(capacity_bytes=8 * MEBIBYTE)
    entries = [file_at(f"f{n}", n * 700_000 + n, 700_000 + n) for n in range(25)]
    told = write(bench, members_of(*entries), command_bytes=2 * MEBIBYTE)
    assert len(bench.cartridges) >= 3
    names = []
    for number, cartridge in enumerate(bench.cartridges):
        found = python_members(archive_of(cartridge, tmp_path / f"{number}.tar"))
        assert listed_by_gnu(tmp_path / f"{number}.tar") == list(found)
        names += found
        for name, data in found.items():
            assert data == content(image, entries[int(name[1:])])
    assert names == [entry.name.decode() for entry in entries]
    assert [member.number for member in told.whole] == list(range(25))
    assert [member.crc32c for member in told.whole] == [checksum_of(content(image, entry)) for entry in entries]


@pytest.mark.parametrize("length", [600, 40_000])
def test_many_small_files_over_several_tapes(tmp_path, image, make_bench, length):
    bench = make_bench(capacity_bytes=4 * MEBIBYTE)
    entries = files(9 * MEBIBYTE // (length + 3000), length)
    told = write(bench, members_of(*entries), command_bytes=MEBIBYTE)
    found = {}
    for number, cartridge in enumerate(bench.cartridges):
        found |= python_members(archive_of(cartridge, tmp_path / f"{number}.tar"))
    assert len(bench.cartridges) >= 3
    assert found == {entry.name.decode(): content(image, entry) for entry in entries}
    assert [member.number for member in told.whole] == list(range(len(entries)))


def sparse_giant() -> Entry:
    extents = [FileExtent(n * MEBIBYTE, n * MEBIBYTE, MEBIBYTE - 4096) for n in range(12)]
    return Entry(b"d/giant", Kind.FILE, size=13 * MEBIBYTE, extents=extents)


@pytest.mark.parametrize(
    "giant", [file_at("d/giant", 513, 13 * MEBIBYTE + 100), sparse_giant()], ids=["plain", "sparse"]
)
def test_a_file_larger_than_a_volume_is_joined_by_gnu_tar(tmp_path, image, make_bench, giant):
    bench = make_bench(capacity_bytes=6 * MEBIBYTE)
    entries = [file_at("before", 0, 1000), giant, file_at("after", 4096, 70_000)]
    told = write(bench, members_of(*entries), command_bytes=MEBIBYTE)
    assert len(bench.cartridges) >= 4
    archives = [archive_of(c, tmp_path / f"{n}.tar") for n, c in enumerate(bench.cartridges)]
    assert list(python_members(archives[0])) == ["before"]
    volumes = [option for archive in archives[1:] for option in ("-f", archive)]
    out = tmp_path / "out"
    out.mkdir()
    run("tar", "-M", "-b", "512", "-x", *volumes, "-C", out)
    assert (out / "d/giant").read_bytes() == content(image, giant)
    assert (out / "after").read_bytes() == content(image, entries[2])
    stored = b"".join(content(image, giant)[e.file_offset : e.file_offset + e.length] for e in giant.extents)
    assert told.whole[1].crc32c == checksum_of(stored)
    assert [member.number for member in told.whole] == [0, 1, 2]


def test_writing_goes_on_at_each_checkpoint(tmp_path, image, make_bench):
    """However often it stops, the tape has the same bytes in the end, and each file the same checksum."""
    entries = [*files(100, 3000), file_at("large", 4711, 3 * MEBIBYTE), *files(20, 90_000, seed=512)]
    whole = make_bench()
    first = write(whole, members_of(*entries), checkpoint_bytes=MEBIBYTE, command_bytes=MEBIBYTE)
    expected = archive_of(whole.cartridges[0], tmp_path / "expected.tar").read_bytes()
    assert len(first.checkpoints) > 4
    sums = {member.number: member.crc32c for member in first.whole}
    for checkpoint in first.checkpoints:
        whole.tape.locate(checkpoint.bytes_on_tape // (256 << 10))
        told = write(whole, members_of(*entries), resumed=checkpoint, checkpoint_bytes=MEBIBYTE)
        assert archive_of(whole.cartridges[0], tmp_path / "again.tar").read_bytes() == expected
        assert {member.number: member.crc32c for member in told.whole}.items() <= sums.items()
        assert told.whole[-1].number == len(entries) - 1


def test_a_tape_that_is_full_after_a_checkpoint_was_resumed(tmp_path, image, make_bench):
    bench = make_bench(capacity_bytes=8 * MEBIBYTE)
    entries = [file_at(f"f{n}", n * 4096 + n, 700_000 + n) for n in range(15)]
    first = Told()
    write(bench, members_of(*entries[:8]), first, checkpoint_bytes=MEBIBYTE, command_bytes=MEBIBYTE)
    checkpoint = first.checkpoints[-1]
    bench.tape.locate(checkpoint.bytes_on_tape // (256 << 10))
    told = write(bench, members_of(*entries), resumed=checkpoint, command_bytes=MEBIBYTE)
    names = []
    for number, cartridge in enumerate(bench.cartridges):
        found = python_members(archive_of(cartridge, tmp_path / f"{number}.tar"))
        names += found
        assert all(data == content(image, entries[int(name[1:])]) for name, data in found.items())
    assert names == [entry.name.decode() for entry in entries]
    assert told.whole[-1].number == 14
    assert Checkpoint() != checkpoint


@pytest.mark.parametrize("length", [30, 99, 100, 101, 160, 255, 256, 300])
@pytest.mark.parametrize("byte", [b"x", b"\xff", b"\xc3\xa4"])
def test_names_of_any_length_and_any_bytes(tmp_path, make_bench, length, byte):
    bench = make_bench()
    flat = (byte * length)[:length]
    flat = flat if byte != b"\xc3\xa4" or length % 2 == 0 else flat[:-1] + b"x"
    name = b"/".join(flat[at : at + 60] for at in range(0, len(flat), 60)) + b"\n\x01"
    entries = [
        file_at("first", 0, 600),
        Entry(name, Kind.FILE, size=600, extents=[FileExtent(0, 512, 600)]),
        Entry(b"link", Kind.SYMBOLIC_LINK, link=name),
        Entry(b"hard", Kind.HARD_LINK, link=name),
    ]
    write(bench, members_of(*entries))
    archive = archive_of(bench.cartridges[0], tmp_path / "archive.tar")
    assert os.fsencode(list(python_members(archive))[1]) == name
    out = extracted(archive, tmp_path / "gnu")
    assert (os.fsencode(out) + b"/" + name) in {os.fsencode(path) for path in out.rglob("*")}
    assert os.fsencode((out / "link").readlink()) == name
    assert (out / "hard").stat().st_nlink == 2
    (tmp_path / "bsd").mkdir()
    run(which("bsdtar"), "-b", "512", "-xf", archive, "-C", tmp_path / "bsd")
    assert (tmp_path / "bsd/hard").stat().st_nlink == 2
    assert (tmp_path / "bsd" / os.fsdecode(name)).exists()
