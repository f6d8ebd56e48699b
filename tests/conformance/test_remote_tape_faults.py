"""Tape drives elsewhere that reset, are reserved, lose their session, their cartridge or a block while a copy reads or
writes them: the copy ends with what the drive said, what was moved before it is there, and the drive here is free."""

import pytest

from scsi_targets.iscsi.directory import Portal
from scsi_targets.iscsi.server import Server
from scsi_targets.t10 import copy_descriptors as copy
from tests.conformance.test_remote_copy import Elsewhere, cscd, here, there
from tests.unit.devices.copying.support import BLOCKS, block_to_stream, content, stream_to_block
from tests.unit.devices.copying.test_failures import DESTINATION, SOURCE, code_of, failure
from tests.unit.devices.support import BETA, TARGET, send, sense_of
from tests.unit.devices.tape.support import good
from tests.unit.iscsi.support import Directory
from vlib_images.errors import DamagedBlock

__all__ = ["here", "there"]  # fixtures

BLOCK = 65536
AT = 5  # the block at which it happens
WRITES, READS = "destination", "source"
RESERVE, RELEASE = bytes([0x16, 0, 0, 0, 0, 0]), bytes([0x17, 0, 0, 0, 0, 0])
CONFLICT, CHECK_CONDITION = 0x18, 0x02


class Copying:
    """A copy between our disk and their tape, and something that happens at its block AT, once.

    blocks: what their tape holds, where it is the source."""

    def __init__(self, here, there, role, monkeypatch):
        monkeypatch.setattr("datamover.copy_job.CHUNK_BYTES", BLOCK)
        self.here, self.there, self.role = here, there, role
        self.end = DESTINATION if role == WRITES else SOURCE
        self.cscds = [here.disk_descriptor(), cscd(there.tape)]
        data = content(BLOCKS * 512, seed=8)
        self.blocks = [data[at : at + BLOCK] for at in range(0, len(data), BLOCK)]
        if role == READS:
            there.site.fill(self.blocks)
        self._count = 0
        self._happens = lambda: None
        device, method = (there.site.tape, "write_blocks") if role == WRITES else (there.site.tape.loaded, "read_block")
        self._do = getattr(device, method)
        monkeypatch.setattr(device, method, self._transfer)
        self.elsewhere = Elsewhere(monkeypatch, here.disk.medium, "read_into" if role == WRITES else "write")

    def _transfer(self, *args, **more):
        self._count += 1
        if self._count == AT:
            self._happens()
        return self._do(*args, **more)

    def run(self, happens=lambda: None):
        """The copy's answer."""
        self._happens = happens
        segment = block_to_stream(BLOCK, BLOCKS) if self.role == WRITES else stream_to_block(BLOCK, BLOCKS)
        return self.here.copy(segment, cscds=self.cscds)

    def moved(self):
        """How many blocks have been moved, which are checked, and nothing else was."""
        if self.role == WRITES:
            written = self.there.site.written()
            assert b"".join(written) == self.here.disk_data[: len(written) * BLOCK]
            return len(written)
        image = bytearray(BLOCKS * 512)
        self.here.disk.medium.read_into(image, 0)
        moved = 0
        while moved < len(self.blocks) and image[moved * BLOCK : (moved + 1) * BLOCK] == self.blocks[moved]:
            moved += 1
        assert image[moved * BLOCK :] == self.here.disk_data[moved * BLOCK :]
        return moved


@pytest.fixture(params=[WRITES, READS])
def copying(here, there, monkeypatch, request):
    made = Copying(here, there, request.param, monkeypatch)
    yield made
    good(here.copy(block_to_stream(BLOCK, 128)))  # nothing of it is left here
    image = bytearray(BLOCK)
    here.disk.medium.read_into(image, 0)
    assert here.written() == [image]


def test_nothing_happens(copying):
    good(copying.run())
    assert copying.moved() == len(copying.blocks)


def test_a_reset(copying):
    """Its unit attention ends the copy: where the tape stands is not sure any more."""
    response = copying.run(lambda: copying.elsewhere.begin(copying.there.site.tape.reset))
    assert sense_of(response)[0] == 0xA
    assert AT - 1 <= copying.moved() < len(copying.blocks)


def test_a_reservation(copying):
    drive = copying.there.site.tape
    drive.nexus_established(BETA)
    while drive.take_unit_attention(BETA):
        pass
    response = copying.run(lambda: copying.elsewhere.begin(send, drive, RESERVE, nexus=BETA))
    assert failure(response, copying.end)[3] == CONFLICT
    assert AT - 1 <= copying.moved() < len(copying.blocks)
    good(send(drive, RELEASE, nexus=BETA))


def test_the_session_is_lost(copying):
    response = copying.run(lambda: copying.elsewhere.begin(copying.there.server.stop))
    assert sense_of(response) == (0xA, 0x0D, 0x02)
    assert AT - 1 <= copying.moved() < len(copying.blocks)


def test_a_library_that_reboots_is_there_again_for_the_next_copy(copying):
    there = copying.there
    assert sense_of(copying.run(lambda: copying.elsewhere.begin(there.server.stop))) == (0xA, 0x0D, 0x02)
    host, _, port = there.tape.address.portal.rpartition(":")
    portals = [Portal(host, int(port), 1)]
    again = Server(Directory({TARGET: dict(there.site.view.logical_units)}, portals), portals)
    again.start()
    try:
        there.site.tape.loaded.rewind()
        good(copying.run())
    finally:
        again.stop()
    assert copying.moved() == len(copying.blocks)


def test_a_block_that_cannot_be_moved(copying):
    """The drive's own sense data says why, and INFORMATION how much is missing."""

    def fail():
        if copying.role == READS:
            raise DamagedBlock(0, AT - 1, "its checksum is wrong")
        raise OSError(5, "Input/output error")

    response = copying.run(fail)
    _, information, _, status, sense = failure(response, copying.end)
    assert (status, code_of(sense)[0]) == (CHECK_CONDITION, 3 if copying.role == READS else 4)
    assert copying.moved() == AT - 1
    unit = 512 if copying.role == READS else 1  # what the destination counts in
    assert information * unit == BLOCKS * 512 - (AT - 1) * BLOCK


def test_a_filemark_in_the_middle_is_told_and_passed(here, there):
    there.site.fill([content(BLOCK, seed=1), None, content(BLOCK, seed=2)])
    cscds = [here.disk_descriptor(), cscd(there.tape)]
    response = here.copy(stream_to_block(BLOCK, 256), cscds=cscds)
    _, information, _, _, sense = failure(response, SOURCE)
    assert (information, sense[2] & 0x80) == (128, 0x80)
    good(here.copy(stream_to_block(BLOCK, 128, 128), cscds=cscds))
    image = bytearray(2 * BLOCK)
    here.disk.medium.read_into(image, 0)
    assert image == content(BLOCK, seed=1) + content(BLOCK, seed=2)


def test_a_place_that_is_not_on_their_tape(here, there):
    """LOCATE past the end of data, and SPACE over more filemarks than there are: nothing is written after it."""
    there.site.fill([content(BLOCK), None])
    cscds = [here.disk_descriptor(), cscd(there.tape)]
    for action in (
        copy.LocateTape.encode(destination=1, logical_object_identifier=9),
        copy.SpaceTape.encode(destination=1, code=1, count=3),
    ):
        there.site.tape.loaded.rewind()
        segment, _, _, _, sense = failure(here.copy(action, block_to_stream(BLOCK, 128), cscds=cscds), DESTINATION)
        assert (segment, code_of(sense)) == (0, (8, 0, 5))
    assert there.site.written() == [content(BLOCK), None]
