"""A stream of several commands: the next is gathered while one copies, and sent only when that one has ended well."""

import threading

import pytest

from scsi_targets.client.copy_manager import CopyingUnit
from scsi_targets.client.disk import Disk
from scsi_targets.client.tape import Tape
from scsi_targets.client.tape_stream import StreamFailed, TapeStream
from scsi_targets.devices.unit.local_session import LocalSession
from scsi_targets.devices.unit.task import Nexus
from tests.support.waiting import eventually
from tests.unit.devices.copying.support import Site
from tests.unit.devices.support import TARGET

DISK, TAPE = 0, 1
JOB = Nexus("iqn.2026-01.io.tapebay:job", bytes(6), TARGET)
BLOCK = 65536


@pytest.fixture
def site(tmp_path):
    site = Site(tmp_path)
    yield site
    site.close()


@pytest.fixture
def gate(site, monkeypatch):
    """Writes to the tape wait for it."""
    gate, write_blocks = threading.Event(), site.tape.write_blocks

    def wait_and_write(*args, **more):
        assert gate.wait(60)
        return write_blocks(*args, **more)

    monkeypatch.setattr(site.tape, "write_blocks", wait_and_write)
    yield gate
    gate.set()


def make_stream(session, **more):
    return TapeStream(
        CopyingUnit(session, TAPE), Tape(session, TAPE), [Disk(session, DISK)], block_length=BLOCK,
        command_bytes=2 * BLOCK, **more,
    )  # fmt: skip


def states(site):
    return [record.status for record in site.tape.copy_manager.recent()]


def test_the_next_command_is_gathered_while_one_copies(site, gate):
    done = []
    with LocalSession(site.view, JOB) as session:
        stream = make_stream(session, sent=done.append)
        for number in range(4):
            stream.add_extent(0, number * BLOCK, BLOCK)
        assert (states(site), done, stream.whole_bytes) == ([None], [], 0)
        gate.set()
        stream.end()
        assert [sent.whole_bytes for sent in done] == [2 * BLOCK, 4 * BLOCK]
    assert b"".join(site.written()) == site.disk_data[: 4 * BLOCK]


def test_nothing_follows_upon_a_command_that_failed(site, gate, monkeypatch):
    """It would be written where the rest of that one belongs."""
    with LocalSession(site.view, JOB) as session:
        stream = make_stream(session)
        stream.add_extent(0, 0, BLOCK)
        stream.add_extent(0, len(site.disk_data) - 512, BLOCK)  # past the end of the disk
        with pytest.raises(StreamFailed) as failed:
            for number in range(4):
                stream.add_extent(0, number * BLOCK, BLOCK)
        assert (failed.value.piece, failed.value.whole_bytes) == (1, 0)
    assert states(site) == [2]
    assert site.written() == []


def test_it_tells_that_a_command_has_ended_before_the_next_is_full(site):
    done = []
    with LocalSession(site.view, JOB) as session:
        stream = make_stream(session, sent=done.append)
        stream.add_extent(0, 0, 2 * BLOCK)
        eventually(lambda: stream.add_data(b"begins the next") or done)
        assert [sent.whole_bytes for sent in done] == [2 * BLOCK]
        stream.end()


def test_whoever_gives_up_leaves_nothing_running(site, gate):
    site.tape.tasks.abort_patience_seconds = 60
    with LocalSession(site.view, JOB) as session:
        stream = make_stream(session)
        stream.add_extent(0, 0, 3 * BLOCK)
        eventually(lambda: states(site) == [None])
        threading.Timer(0.05, gate.set).start()  # the write at hand is done all the same
        session.abort_submitted()
        assert states(site) != [None]
        Tape(session, TAPE).rewind()  # the drive is free
