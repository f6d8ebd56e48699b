"""Many small files that become durable at once."""

import errno
import threading
from pathlib import Path

import pytest

from datamover.engine import storage_fault, storage_faults_clear, storage_trace
from tests.sim.storage_replay import read_trace
from vlib_images.atomic import sync_directory, synchronized_together, write_atomically


@pytest.fixture
def trace(tmp_path: Path):
    path = tmp_path / "trace"
    storage_trace(str(path))
    yield path
    storage_trace(None)
    storage_faults_clear()


def operations(trace: Path, root: Path) -> list[str]:
    return [step.operation for step in read_trace(trace, root) if step.operation not in ("open", "truncate")]


def test_nothing_waits_for_the_disk_before_the_end(tmp_path: Path, trace: Path) -> None:
    with synchronized_together(tmp_path):
        write_atomically(tmp_path / "a", b"1")
        sync_directory(tmp_path)
        assert operations(trace, tmp_path) == ["write", "rename"]
    assert operations(trace, tmp_path) == ["write", "rename", "sync_file_system"]
    write_atomically(tmp_path / "b", b"2")
    assert operations(trace, tmp_path)[3:] == ["write", "sync", "rename", "sync_directory"]


def test_other_threads_wait_as_ever(tmp_path: Path, trace: Path) -> None:
    with synchronized_together(tmp_path):
        other = threading.Thread(target=lambda: write_atomically(tmp_path / "a", b"1"))
        other.start()
        other.join()
    assert operations(trace, tmp_path) == ["write", "sync", "rename", "sync_directory", "sync_file_system"]


def test_a_failure_is_raised_and_ends_it(tmp_path: Path, trace: Path) -> None:
    storage_fault("sync_file_system", errno.EIO)
    with pytest.raises(OSError, match="Input/output"), synchronized_together(tmp_path):
        pass
    with pytest.raises(ZeroDivisionError), synchronized_together(tmp_path):
        raise ZeroDivisionError
    write_atomically(tmp_path / "b", b"2")
    assert operations(trace, tmp_path) == ["write", "sync", "rename", "sync_directory"]
