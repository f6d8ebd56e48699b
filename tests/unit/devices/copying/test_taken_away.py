"""The operator takes the cartridge away by force while a copy uses it: whoever sent the copy is told so."""

import threading

import pytest

from datamover.pace import Pace
from scsi_targets.t10 import copy_descriptors as copy
from tests.support.storage import needs_reads_at_hand
from tests.unit.datamover.runs import after_runs, runs_counted, runs_of
from tests.unit.devices.copying.support import (
    BLOCKS,
    Running,
    Site,
    block_to_stream,
    blocks_of,
    content,
    copy_status,
    receive,
    stream_to_block,
)
from tests.unit.devices.copying.test_failures import DESTINATION, SOURCE, code_of, failure
from tests.unit.devices.copying.test_participants import start
from tests.unit.devices.support import ALPHA, BETA, data_of, send, sense_of
from tests.unit.devices.tape.support import good

BLOCK = 16384
NOT_PRESENT, WORDS = (2, 0x3A, 0), "destination: MEDIUM NOT PRESENT"
READY, RESERVE = bytes(6), bytes([0x16, 0, 0, 0, 0, 0])


@pytest.fixture
def site(tmp_path, monkeypatch):
    monkeypatch.setattr("scsi_targets.devices.tape.load.ROBOT_PATIENCE_SECONDS", 0)
    site = Site(tmp_path)
    yield site
    site.close()


def take(site):
    """`unload --force`, as the robot does it; what is on the tape then."""
    with site.tape.removing(force=True) as cartridge:
        pass
    assert site.tape.cartridge is None
    return b"".join(blocks_of(cartridge))


@pytest.fixture
def once_cleared(site, monkeypatch):
    """Calls what it is given as soon as the drive has told its copies to end."""

    def call(then):
        clear = site.tape.tasks.clear_guests
        monkeypatch.setattr(site.tape.tasks, "clear_guests", lambda *args: (clear(*args), then())[0])

    return call


def told(answer, side=DESTINATION):
    """How much is missing, of a copy that was told that the cartridge is gone."""
    segment, information, pointer, status, sense = failure(answer, side)
    assert (segment, pointer, status, code_of(sense)) == (0, bytes([0x80, 0, 48]), 2, NOT_PRESENT)
    return information


@pytest.mark.parametrize("where", ["disk", "tape", "other"])
def test_a_copy_to_a_tape_that_is_taken_away_is_answered(site, where, monkeypatch, once_cleared):
    """Also one that was sent to that very drive; it is remembered, and what was written is whole."""
    unit = getattr(site, where)
    running = Running(site, unit, monkeypatch)
    waiting = start(unit, site, [block_to_stream(512, 1)], BETA, list_identifier=6)
    once_cleared(running.go.set)
    written = take(site)
    assert running.done.wait(60)
    answer = running.answers[0]
    assert written == site.disk_data[: 1 << 20]  # the write that was under way
    assert told(answer) == len(site.disk_data) - len(written)
    told(waiting.answer())
    status = copy_status(unit, 5)
    assert (status.copy_command_status, status.transfer_count) == (2, len(written))
    details = receive(unit, copy.ReceiveCopyFailureDetailsLid1, list_identifier=5)
    assert data_of(details)[60:] == answer.sense
    assert [record.reason.split(" (")[0] for record in unit.copy_manager.recent()] == [WORDS] * 2


@pytest.mark.parametrize("where", ["disk", "tape", "other"])
def test_a_tape_that_is_taken_away_between_two_runs(site, where, tmp_path):
    needs_reads_at_hand(tmp_path)
    taken = []
    with (
        runs_of(100_000, chunk_bytes=BLOCK),
        runs_counted() as counts,
        after_runs(2, lambda: taken.append(take(site))),
    ):
        answer = site.copy(block_to_stream(BLOCK, BLOCKS), unit=getattr(site, where))
    assert len(counts) == 2
    assert taken == [site.disk_data[: BLOCK * sum(counts)]]
    assert told(answer) == len(site.disk_data) - len(taken[0])


@pytest.mark.parametrize("where", ["disk", "tape", "other"])
def test_a_copy_from_a_tape_that_is_taken_away_is_answered(site, where, monkeypatch):
    """What was read before is on the disk."""
    monkeypatch.setattr("datamover.copy_job.CHUNK_BYTES", BLOCK)
    data = content(64 * BLOCK, seed=7)
    site.fill([data[at : at + BLOCK] for at in range(0, len(data), BLOCK)])
    write, taken = site.disk.medium.write, []

    def writing(*args, **more):
        if not taken:
            taken.append(take(site))
        return write(*args, **more)

    monkeypatch.setattr(site.disk.medium, "write", writing)
    answer = site.copy(stream_to_block(BLOCK, len(data) // 512), unit=getattr(site, where))
    missing = told(answer, SOURCE) * 512
    assert taken == [data]
    assert 0 < missing < len(data)
    found = bytearray(len(data) - missing)
    site.disk.medium.read_into(found, 0)
    assert found == data[: len(found)]


def test_a_copy_that_is_held_back_is_answered_at_once(site, monkeypatch):
    """Not when its rate, of a byte a second, lets it do something again."""
    site.copy_bytes_per_second = 1
    took, held_back = Pace.took, threading.Event()
    monkeypatch.setattr(Pace, "took", lambda *args: (held_back.set(), took(*args))[1])
    copying = start(site.tape, site, [block_to_stream(4096, BLOCKS)], ALPHA)
    assert held_back.wait(60)
    assert take(site) == b""
    answer = copying.answer()
    segment, _, _, _, sense = failure(answer, DESTINATION)
    assert (segment, code_of(sense)) == (0, NOT_PRESENT)


def test_a_copy_that_has_no_use_for_the_tape_goes_on(site, monkeypatch, once_cleared):
    """The drive that it was sent to loses its cartridge, while a copy of another uses that, and is not reset."""
    good(send(site.tape, RESERVE))
    running = Running(site, site.disk, monkeypatch)
    write_blocks, taken = site.other.write_blocks, []

    def writing(*args, **more):
        if not taken:
            taken.append(take(site))
        return write_blocks(*args, **more)

    monkeypatch.setattr(site.other, "write_blocks", writing)
    once_cleared(running.go.set)
    cscds = [site.disk_descriptor(), site.tape_descriptor(site.other)]
    good(site.copy(block_to_stream(4096, 80), cscds=cscds, unit=site.tape))
    assert b"".join(site.written(site.other)) == site.disk_data[: 80 * 512]
    assert running.done.wait(60)
    told(running.answers[0])
    assert sense_of(send(site.tape, READY, nexus=ALPHA)) == NOT_PRESENT
    assert send(site.tape, READY, nexus=BETA).status == 0x18  # the reservation stays
