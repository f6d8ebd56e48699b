"""What the walk says of files, on the file system of temporary files. FIEMAP answers are made up where it matters."""

import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from appliance.agent.file_systems import NotMapped
from appliance.agent.kernel import MappedExtent
from appliance.agent.mapping import extents_of
from appliance.agent.walk import READ_THROUGH_BYTES, Walk
from appliance.backup.entries import Entry, FileExtent, Kind, Skipped

LAST, UNKNOWN, ENCODED, INLINE, UNWRITTEN, SHARED = 0x1, 0x2, 0x8, 0x200, 0x800, 0x2000


def answers(*rows: MappedExtent) -> Callable[[int], Iterator[MappedExtent]]:
    return lambda _descriptor: iter(rows)


def one_disk(offset: int, length: int) -> list[tuple[str, int, int]]:
    return [("sda", offset + (1 << 20), length)]


def test_extents_are_cut_at_the_size_and_unwritten_ones_are_holes() -> None:
    rows = answers(
        MappedExtent(0, 4096, 8192, 0), MappedExtent(8192, 99 << 20, 4096, UNWRITTEN),
        MappedExtent(16384, 65536, 8192, SHARED | LAST),
    )  # fmt: skip
    found = extents_of(0, 20000, one_disk, "sda", rows)
    assert found == [FileExtent(0, 4096 + (1 << 20), 8192), FileExtent(16384, 65536 + (1 << 20), 20000 - 16384)]


@pytest.mark.parametrize(("flag", "why"), [(UNKNOWN, "UNKNOWN"), (ENCODED, "compressed"), (INLINE, "INLINE")])
def test_what_has_no_place_of_its_own_is_refused(flag: int, why: str) -> None:
    with pytest.raises(NotMapped, match=why):
        extents_of(0, 4096, one_disk, "sda", answers(MappedExtent(0, 0, 4096, flag | LAST)))


def test_a_file_on_two_disks_is_refused() -> None:
    runs = [("sda", 0, 4096), ("sdb", 0, 4096)]
    with pytest.raises(NotMapped, match="lies on sdb"):
        extents_of(0, 8192, lambda _offset, _length: runs, "sda", answers(MappedExtent(0, 0, 8192, LAST)))


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc" / "passwd").write_text("root")
    (tmp_path / "srv").mkdir()
    (tmp_path / "srv" / os.fsdecode(b"caf\xe9\n")).write_bytes(b"x" * 5000)
    (tmp_path / "srv" / "again").hardlink_to(tmp_path / "etc" / "passwd")
    (tmp_path / "srv" / "to").symlink_to("nowhere")
    (tmp_path / "srv" / "empty").touch()
    os.mkfifo(tmp_path / "srv" / "pipe")
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(tmp_path / "srv" / "socket"))
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "a.tmp").write_text("y")
    return tmp_path


def walked(top: Path, **choices: object) -> dict[bytes, Entry | Skipped]:
    places = lambda _descriptor, size: [FileExtent(0, 4096, size)]  # noqa: E731
    found = list(Walk(os.fsencode(top), places, **choices).entries())  # type: ignore[arg-type]
    assert len({each.name for each in found}) == len(found)
    return {each.name: each for each in found}


def test_what_there_is(tree: Path) -> None:
    found = walked(tree)
    assert list(found) == sorted(found, key=lambda name: (name != b".", name.split(b"/")))
    assert found[b"srv/socket"] == Skipped(b"srv/socket", "sockets are not saved")
    passwd, again = found[b"etc/passwd"], found[b"srv/again"]
    assert isinstance(passwd, Entry) and isinstance(again, Entry)
    assert (passwd.kind, passwd.size, passwd.extents) == (Kind.FILE, 4, [FileExtent(0, 4096, 4)])
    assert (again.kind, again.link, again.size) == (Kind.HARD_LINK, b"etc/passwd", 0)
    to, empty, pipe = found[b"srv/to"], found[b"srv/empty"], found[b"srv/pipe"]
    assert isinstance(to, Entry) and isinstance(empty, Entry) and isinstance(pipe, Entry)
    assert (to.kind, to.link, empty.extents, pipe.kind) == (Kind.SYMBOLIC_LINK, b"nowhere", (), Kind.FIFO)
    assert isinstance(found[b"srv/caf\xe9\n"], Entry)


def test_what_is_asked_for(tree: Path) -> None:
    assert set(walked(tree, only=[b"etc"])) == {b".", b"etc", b"etc/passwd"}
    assert set(walked(tree, only=[b"srv/to", b"cache"])) == {b".", b"srv", b"srv/to", b"cache", b"cache/a.tmp"}
    left = walked(tree, exclude=[b"*.tmp", b"srv/*", b"/etc"], prefix=b"host")
    assert set(left) == {b"host", b"host/srv", b"host/cache"}


def test_small_files_without_blocks_are_read_through_and_large_ones_named(tmp_path: Path) -> None:
    (tmp_path / "small").write_bytes(b"inline")
    (tmp_path / "large").write_bytes(bytes(READ_THROUGH_BYTES + 1))

    def nowhere(_descriptor: int, _size: int) -> list[FileExtent]:
        raise NotMapped("it is compressed (ENCODED)")

    found = {each.name: each for each in Walk(os.fsencode(tmp_path), nowhere).entries()}
    small = found[b"small"]
    assert isinstance(small, Entry) and small.content == b"inline"
    assert found[b"large"] == Skipped(b"large", "it is compressed (ENCODED)")


def test_access_control_lists_become_text() -> None:
    from appliance.backup.filesystems.posix_acl import of_attribute

    value = bytes.fromhex(
        "02000000 01000600 ffffffff 02000400 e8030000 04000400 ffffffff 10000400 ffffffff 20000000 ffffffff"
    )
    assert of_attribute(value) == b"user::rw-,user:1000:r--,group::r--,mask::r--,other::---"
