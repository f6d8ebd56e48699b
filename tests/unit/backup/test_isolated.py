"""A file system is read by a process of its own: whatever becomes of that, the daemon has an answer and goes on."""

import os
import resource
import signal
import time
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from appliance.backup.entries import Entry, Skipped
from appliance.backup.filesystems import frames, isolated
from appliance.backup.filesystems.isolated import IsolatedFileSystem
from appliance.backup.filesystems.reader import NotReadable
from tests.unit.backup.support import run, which
from vlib_images.disk.raw import DiskImage
from vlib_images.disk.snapshot import NotKept


class Failing:
    """An image whose reads fail from one on."""

    def __init__(self, image: DiskImage, reads: int) -> None:
        self.size_bytes, self._image, self._reads = image.size_bytes, image, reads

    def read_into(self, buffer, offset: int) -> None:
        self._reads -= 1
        if self._reads < 0:
            raise OSError(5, "the snapshot is broken")
        self._image.read_into(buffer, offset)


@pytest.fixture
def image(tmp_path: Path):
    tree = tmp_path / "tree"
    for number in range(600):
        path = tree / f"{number % 7}" / f"file-{number}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(os.urandom(50))
    path = tmp_path / "disk.img"
    with path.open("wb") as file:
        file.truncate(32 << 20)
    run(which("mke2fs"), "-q", "-F", "-t", "ext4", "-d", tree, path)
    opened = DiskImage.open(path, read_only=True)
    yield opened
    opened.close()


@pytest.fixture
def files(image):
    made = IsolatedFileSystem(image, 0, image.size_bytes)
    yield made
    made.close()


def names(found) -> list[bytes]:
    return [one.name for one in found]


def test_it_is_walked_again_and_again_also_after_a_walk_left_half_way(files):
    first = names(files.walk())
    assert len(first) == 600 + 7 + 2
    walk = files.walk()
    next(walk)
    assert names(files.walk()) == first
    assert (files.kind, files.files) == ("ext2, ext3 or ext4", True)


def test_a_process_of_many_descriptors_reads_too(image):
    """A daemon has some for each session; select(2) knows none over 1023."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 4096), hard))
    try:
        with ExitStack() as opened:
            for _ in range(1024):
                opened.callback(os.close, os.dup(image.fileno()))
            with closing(IsolatedFileSystem(image, 0, image.size_bytes)) as files:
                assert len(names(files.walk())) == 600 + 7 + 2
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGSEGV])
def test_a_reader_that_crashes(files, sent):
    files._process.send_signal(sent)
    files._process.wait()
    with pytest.raises(NotReadable, match="as if it were damaged"):
        list(files.walk())
    assert names(files.walk())  # by another process


def test_a_reader_that_hangs(files, monkeypatch):
    monkeypatch.setattr(isolated, "SILENCE_SECONDS", 0.1)
    files._process.send_signal(signal.SIGSTOP)
    with pytest.raises(NotReadable, match="it is silent"):
        list(files.walk())


class Unwanted(Exception):
    """Nobody waits any more."""


def test_whoever_waits_for_a_silent_reader_may_go_at_once(image):
    asked = []

    def alive() -> None:
        asked.append(time.monotonic())
        if process is not None and len(asked) > 2:
            raise Unwanted

    process = None
    files = IsolatedFileSystem(image, 0, image.size_bytes, alive)
    asked.clear()  # while it started
    process = files._process
    process.send_signal(signal.SIGSTOP)
    with pytest.raises(Unwanted):
        list(files.walk())
    assert process.poll() is not None  # the process is gone, though it was asleep
    assert asked[-1] - asked[0] < isolated.SILENCE_SECONDS / 10


def test_a_reader_that_asks_and_does_not_listen(files, monkeypatch):
    """The answer does not fit into the pipe: the daemon must not wait for ever."""
    monkeypatch.setattr(isolated, "SILENCE_SECONDS", 0.3)
    files._process.send_signal(signal.SIGSTOP)
    read, write = os.pipe()
    os.write(write, frames.frame(frames.READ, frames.RANGE.pack(0, 4 << 20)))
    with os.fdopen(read, "rb", buffering=0) as pipe:
        monkeypatch.setattr(files._process, "stdout", pipe)
        with pytest.raises(NotReadable, match="it is silent"):
            list(files.walk())
    os.close(write)


@pytest.mark.parametrize(
    "said",
    [b"\xff" * 5, frames.frame(b"?", b"x"), frames.HEAD.pack(frames.LINES, 1 << 31), frames.frame(frames.END)[:3]],
)
def test_a_reader_that_talks_nonsense(files, monkeypatch, said):
    read, write = os.pipe()
    os.write(write, said)
    os.close(write)
    with os.fdopen(read, "rb", buffering=0) as pipe:
        monkeypatch.setattr(files._process, "stdout", pipe)
        with pytest.raises(NotReadable):
            list(files.walk())


def test_lines_that_lead_out_of_the_archive_or_off_the_disk_are_left_out(files):
    lines = [
        '{"name":"../../etc/passwd","kind":"file","mode":0,"user":0,"group":0,"modified_ns":0}',
        '{"name":"x","kind":"file","mode":0,"user":0,"group":0,"modified_ns":0,"size":5,"extents":[[0,1099511627776,5]]}',
    ]
    assert all(isinstance(files._checked(line), Skipped) for line in lines)


class PartlyKept:
    """A snapshot whose 64 KiB from somewhere on, all of them content of a file, were given back."""

    def __init__(self, image: DiskImage, gone: int) -> None:
        self.size_bytes, self._image, self._gone, self.refused = image.size_bytes, image, gone, 0

    def read_into(self, buffer, offset: int) -> None:
        if offset < self._gone + 65536 and offset + len(buffer) > self._gone:
            self.refused += 1
            raise NotKept("was given back")
        self._image.read_into(buffer, offset)


def test_what_was_given_back_is_read_over_by_what_reads_ahead(tmp_path):
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "large").write_bytes(os.urandom(1 << 20))
    path = tmp_path / "disk.img"
    with path.open("wb") as file:
        file.truncate(64 << 20)
    run(which("mke2fs"), "-q", "-F", "-t", "ext4", "-b", "1024", "-d", tree, path)
    image = DiskImage.open(path, read_only=True)
    whole = IsolatedFileSystem(image, 0, image.size_bytes)
    expected = list(whole.walk())
    whole.close()
    extents = [one for found in expected if isinstance(found, Entry) for one in found.extents]
    refused = 0
    for extent in extents:
        first = -(-extent.disk_offset // 65536) * 65536
        for gone in range(first, extent.disk_offset + extent.length - 65535, 65536):
            partly = PartlyKept(image, gone)
            files = IsolatedFileSystem(partly, 0, image.size_bytes)
            assert list(files.walk()) == expected
            files.close()
            refused += partly.refused
            if gone >= first + 2 * 65536:
                break
    image.close()
    assert refused


def test_metadata_that_was_given_back_is_no_file_system(image):
    with pytest.raises(NotReadable, match="given back"):
        list(IsolatedFileSystem(PartlyKept(image, 0), 0, image.size_bytes).walk())


@pytest.mark.parametrize("reads", [0, 3, 8])
def test_a_disk_that_cannot_be_read_any_more(image, reads):
    with pytest.raises(OSError, match="the snapshot is broken"):
        list(IsolatedFileSystem(Failing(image, reads), 0, image.size_bytes).walk())


def test_it_may_take_so_much_memory_and_no_more(image):
    files = IsolatedFileSystem(image, 0, image.size_bytes)
    limits = Path(f"/proc/{files._process.pid}/limits").read_text()
    assert any(line.startswith("Max address space") and str(2 << 30) in line for line in limits.splitlines())
    process = files._process
    files.close()
    assert process.poll() is not None


def test_nothing_is_left_behind_when_it_is_forgotten(image):
    files = IsolatedFileSystem(image, 0, image.size_bytes)
    process = files._process
    assert isinstance(next(files.walk()), Entry)
    del files
    assert process.poll() is not None
