"""One process for each library."""

import os
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
