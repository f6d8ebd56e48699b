"""Counts are written a little later, and are not lost when the library is closed."""

import threading

import pytest

from tests.support.database import new_database, open_again
from vlib_images.library.later import Later
from vlib_images.library.state import LibraryState


def test_counts_are_there_at_once_and_after_a_restart(tmp_path):
    state = LibraryState(new_database(tmp_path / "state"))
    drive = state.namespace("devices")
    for loads in range(100):
        drive.put_soon("drive0/life", {"loads": loads})
    assert drive.get("drive0/life") == {"loads": 99}
    state.flush()
    assert LibraryState(open_again(tmp_path / "state")).get("devices", "drive0/life") == {"loads": 99}


def test_who_counts_does_not_wait_for_the_disk():
    reached, go, written = threading.Event(), threading.Event(), []

    def write(documents):
        written.append(dict(documents))
        reached.set()
        assert go.wait(60)

    later = Later(write)
    later.put("a", 1)
    assert reached.wait(60)
    later.put("a", 2)  # while the first is being written
    later.put("b", 1)
    go.set()
    later.flush()
    assert written == [{"a": 1}, {"a": 2, "b": 1}]
    assert later.waiting() == {}


def test_what_cannot_be_written_is_tried_again():
    failing, written = [OSError("full")], []

    def write(documents):
        if failing:
            raise failing.pop()
        written.append(dict(documents))

    later = Later(write)
    later.put("a", 1)
    later.flush()
    assert later.waiting() == {"a": 1}
    later.put("b", 2)
    later.flush()
    assert written == [{"a": 1, "b": 2}] and later.waiting() == {}


def test_values_that_json_does_not_have_are_refused(tmp_path):
    state = LibraryState(new_database(tmp_path / "state"))
    with pytest.raises(TypeError):
        state.put_soon("devices", "drive0/life", {"loads": object()})


def test_counts_are_kept_while_the_system_has_no_thread(monkeypatch):
    written = []
    later = Later(lambda documents: written.append(dict(documents)))
    with monkeypatch.context() as none_left:
        none_left.setattr(threading.Thread, "start", no_thread)
        later.put("a", 1)
        later.flush()
        assert (written, later.waiting()) == ([{"a": 1}], {})
        later.put("b", 2)
    later.put("c", 3)
    later.flush()
    assert written == [{"a": 1}, {"b": 2, "c": 3}] and later.waiting() == {}


def no_thread(_thread):
    raise RuntimeError("can't start new thread")
