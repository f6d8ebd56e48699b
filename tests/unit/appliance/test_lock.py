"""One process for each library."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from appliance.failures import Failure, OperatorError
from appliance.library.lock import LibraryLock


def test_the_second_is_told_who_holds_the_library(tmp_path: Path) -> None:
    lock = LibraryLock(tmp_path / "lock")
    with pytest.raises(OperatorError, match=f"process {os.getpid()} ") as caught:
        LibraryLock(tmp_path / "lock")
    assert caught.value.failure is Failure.IN_USE
    lock.release()
    LibraryLock(tmp_path / "lock").release()


def test_a_dead_holder_holds_nothing(tmp_path: Path) -> None:
    child = os.fork()
    if child == 0:
        LibraryLock(tmp_path / "lock")
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    LibraryLock(tmp_path / "lock").release()
    assert (tmp_path / "lock").read_text() == f"{os.getpid()}\n"


@pytest.mark.parametrize("plant", [os.symlink, os.link], ids=["symlink", "hard link"])
def test_no_other_file_is_written_through_the_lock(tmp_path: Path, plant: Callable[[Path, Path], None]) -> None:
    precious = tmp_path / "precious"
    precious.write_text("precious")
    plant(precious, tmp_path / "lock")
    with pytest.raises(OperatorError, match="no plain file"):
        LibraryLock(tmp_path / "lock")
    assert precious.read_text() == "precious"


def test_a_pipe_is_no_lock(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "lock")
    with pytest.raises(OperatorError, match="no plain file"):
        LibraryLock(tmp_path / "lock")
