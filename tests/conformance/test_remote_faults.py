"""Targets elsewhere that reboot, reset, reserve, change their size or stop reading while a copy works with them."""

import os
import signal

import pytest

from scsi_targets.devices.copying import remote_disk, remote_tape
from scsi_targets.devices.copying.remote_access import RemoteAddress
from scsi_targets.iscsi.directory import Portal
from scsi_targets.iscsi.server import Server
from scsi_targets.t10 import copy_descriptors as copy
from scsi_targets.t10 import sense
from tests.conformance.test_remote_copy import NAME, Elsewhere, add, cscd, here, tgt, there
from tests.support.waiting import eventually
from tests.unit.devices.copying.support import BLOCKS, block_to_stream, content
from tests.unit.devices.copying.test_failures import DESTINATION, SOURCE, code_of, failure
from tests.unit.devices.copying.test_participants import start
from tests.unit.devices.support import BETA, TARGET, send, sense_of
from tests.unit.devices.tape.support import good
from tests.unit.iscsi.support import Directory

__all__ = ["here", "tgt", "there"]  # fixtures


def at_read(monkeypatch, medium, number, call):
    """Calls something once, before the read of that number."""
    read_into, reads = medium.read_into, []

    def read(*args):
        reads.append(args)
        if len(reads) == number:
            call()
        return read_into(*args)

    monkeypatch.setattr(medium, "read_into", read)


def from_there(here, there, monkeypatch):
    """The list that copies their disk to our tape, in pieces of one command."""
    monkeypatch.setattr("datamover.copy_job.CHUNK_BYTES", 65536)
    return {"cscds": [cscd(there.disk), here.tape_descriptor()], "unit": here.tape}


def attention(there, code):
    there.site.disk.establish_unit_attention(code, there.site.disk.nexuses)


@pytest.mark.parametrize(
    "code",
    [
        sense.CAPACITY_DATA_HAS_CHANGED,
        sense.MODE_PARAMETERS_CHANGED,
        sense.POWER_ON_OCCURRED,
        sense.REPORTED_LUNS_DATA_HAS_CHANGED,
    ],
)
def test_what_a_disk_there_tells_in_mid_copy_does_not_end_it(here, there, monkeypatch, code):
    """A read or write of a disk may be done again; each unit attention takes one."""
    options = from_there(here, there, monkeypatch)
    at_read(monkeypatch, there.site.disk.medium, 4, lambda: attention(there, code))
    good(here.copy(block_to_stream(65536, BLOCKS), **options))
    assert b"".join(here.written()) == there.site.disk_data


def test_a_disk_there_that_grows_in_mid_copy(here, there, monkeypatch):
    options = from_there(here, there, monkeypatch)
    at_read(monkeypatch, there.site.disk.medium, 4, lambda: there.site.disk.grow(2 * BLOCKS * 512))
    good(here.copy(block_to_stream(65536, BLOCKS), **options))
    assert b"".join(here.written()) == there.site.disk_data
    here.tape.loaded.rewind()
    good(here.copy(block_to_stream(65536, 128, BLOCKS), **options))  # what is new is reached by the next copy
    assert here.written() == [bytes(65536)]


def test_another_disk_at_the_same_address_is_not_copied(here, there):
    """One with other blocks, in its place."""
    there.site.disk.block_length = 4096
    there.disk.description = there.disk.description.__class__(
        there.disk.description.device_type, there.disk.description.designators, 512
    )
    response = here.copy(
        block_to_stream(65536, BLOCKS), cscds=[cscd(there.disk), here.tape_descriptor()], unit=here.tape
    )
    assert sense_of(response)[0] in (0x5, 0xA)
    assert here.written() == []


def test_a_disk_there_is_reserved_in_mid_copy(here, there, monkeypatch):
    options = from_there(here, there, monkeypatch)
    there.site.disk.nexus_established(BETA)
    while there.site.disk.take_unit_attention(BETA):
        pass
    elsewhere, reserve = Elsewhere(monkeypatch, here.tape, "write_blocks"), bytes([0x16, 0, 0, 0, 0, 0])
    at_read(monkeypatch, there.site.disk.medium, 4, lambda: elsewhere.begin(send, there.site.disk, reserve, nexus=BETA))
    response = here.copy(*[block_to_stream(65536, BLOCKS)] * 8, **options)
    _, _, _, status, _ = failure(response, SOURCE)
    assert status == 0x18
    written = b"".join(here.written())
    assert written == (there.site.disk_data * 8)[: len(written)]


def test_a_target_that_reboots_is_there_again_for_the_next_copy(here, there, monkeypatch):
    options = from_there(here, there, monkeypatch)
    read_into = there.site.disk.medium.read_into
    elsewhere = Elsewhere(monkeypatch, here.tape, "write_blocks")
    at_read(monkeypatch, there.site.disk.medium, 4, lambda: elsewhere.begin(there.server.stop))
    assert sense_of(here.copy(*[block_to_stream(65536, BLOCKS)] * 8, **options)) == (0xA, 0x0D, 0x02)
    written = b"".join(here.written())
    assert written == (there.site.disk_data * 8)[: len(written)]
    monkeypatch.setattr(there.site.disk.medium, "read_into", read_into)
    host, _, port = there.disk.address.portal.rpartition(":")
    portals = [Portal(host, int(port), 1)]
    again = Server(Directory({TARGET: dict(there.site.view.logical_units)}, portals), portals)
    again.start()
    try:
        here.tape.loaded.rewind()
        good(here.copy(block_to_stream(65536, BLOCKS), **options))
    finally:
        again.stop()
    assert b"".join(here.written()) == there.site.disk_data


def test_a_tape_there_that_is_write_protected_is_found_before_a_byte_moves(here, there):
    here.fill([content(4096), None], here.other)
    there.site.tape.loaded.write_protected = True
    cscds = [here.disk_descriptor(), cscd(there.tape), here.tape_descriptor(here.other)]
    first = copy.StreamToDiscard.encode(source=2, stream_device_transfer_length=4096, number_of_bytes=4096)
    response = here.copy(first, block_to_stream(4096, 8), cscds=cscds)
    segment, _, _, _, said = failure(response, DESTINATION)
    assert (segment, code_of(said)) == (1, (7, 0x27, 0))
    assert here.other.loaded.position == (0, 0)


# ---- somebody else's target ------------------------------------------------------------------------------------------


def begun(here, segments, cscds):
    """A slow copy that has written something."""
    here.copy_bytes_per_second = 2 << 20
    running = start(here.disk, here, segments, BETA, cscds)
    here.copy_bytes_per_second = 0
    record = here.disk.copy_manager.recent()[-1]
    eventually(lambda: record.progress.bytes_written or running.ended.is_set())
    assert not running.ended.is_set()
    return running


def stopped_while(here, tgt, segments, cscds, monkeypatch):
    """The copy's answer when tgtd stops in its middle, and reads and answers nothing any more."""
    monkeypatch.setattr(remote_tape, "COMMAND_SECONDS", 5.0)  # of all commands
    monkeypatch.setattr(remote_disk, "COMMAND_SECONDS", 15.0)  # of the one that may be under way when it stops
    running = begun(here, segments, cscds)
    monkeypatch.setattr(remote_disk, "COMMAND_SECONDS", 1.0)  # of those from now on
    os.kill(tgt.process_id, signal.SIGSTOP)
    here.disk.copy_manager.recent()[-1].pace.bytes_per_second = 0
    try:
        return running.answer()
    finally:
        os.kill(tgt.process_id, signal.SIGCONT)


@pytest.mark.parametrize("kind", ["disk", "tape"])
def test_a_target_that_stops_reading(here, tgt, monkeypatch, kind):
    """It keeps its connection and does nothing: the copy ends after the time that a command may take, and says who."""
    remote = add(RemoteAddress(tgt.portal, tgt.target_name, getattr(tgt, f"{kind}_lun"), NAME))
    here.remote_units = [remote]
    if kind == "tape":
        segments, cscds = [block_to_stream(65536, BLOCKS)] * 20, [here.disk_descriptor(), cscd(remote)]
    else:
        segments, cscds = [block_to_stream(65536, 4096)] * 20, [cscd(remote), here.tape_descriptor()]
    response = stopped_while(here, tgt, segments, cscds, monkeypatch)
    assert sense_of(response) == (0xA, 0x0D, 0x02)
    here.tape.loaded.rewind()
    good(here.copy(block_to_stream(65536, 128)))  # nothing is left of it here


@pytest.mark.parametrize("kind", ["disk", "tape"])
def test_a_target_that_is_killed(here, tgt, kind):
    remote = add(RemoteAddress(tgt.portal, tgt.target_name, getattr(tgt, f"{kind}_lun"), NAME))
    here.remote_units = [remote]
    cscds = [here.disk_descriptor(), cscd(remote)]
    segments = [block_to_stream(65536, BLOCKS)] * 50
    if kind == "disk":
        cscds, segments = [cscd(remote), here.tape_descriptor()], [block_to_stream(65536, 4096)] * 19
    running = begun(here, segments, cscds)
    os.kill(tgt.process_id, signal.SIGKILL)
    here.disk.copy_manager.recent()[-1].pace.bytes_per_second = 0
    assert sense_of(running.answer()) == (0xA, 0x0D, 0x02)


def test_the_rest_is_untouched(here, there):
    """A remote unit that fails leaves our units as they were."""
    there.site.tape.unload()
    response = here.copy(block_to_stream(65536, 128), cscds=[here.disk_descriptor(), cscd(there.tape)])
    assert code_of(failure(response, DESTINATION)[4]) == (2, 0x3A, 0)
    there.site.tape.load(there.site.cartridges[0])
    good(here.copy(block_to_stream(65536, 128), cscds=[here.disk_descriptor(), cscd(there.tape)]))
