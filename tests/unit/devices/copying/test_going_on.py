"""What a failed copy says is enough to go on: with the next cartridge, after the bad block, from another copy."""

import threading

import pytest

from datamover.engine import crc32c
from scsi_targets.devices.unit.task import Task
from scsi_targets.t10 import copy_descriptors as copy
from scsi_targets.t10 import sense
from tests.unit.devices.copying.support import BLOCKS, Running, Site, block_to_stream, content, copy_status, receive
from tests.unit.devices.copying.test_failures import SOURCE, code_of, failure
from tests.unit.devices.support import ALPHA, data_of, send
from tests.unit.devices.tape.support import good, make_cartridge

TAPE_BLOCK = 65536
HEADER = 700


@pytest.fixture
def site(tmp_path):
    site = Site(tmp_path)
    yield site
    site.close()


def transferred(unit, identifier):
    """TRANSFER COUNT in bytes, by RECEIVE COPY STATUS."""
    status = copy_status(unit, identifier)
    assert status.copy_command_status == 2
    return status.transfer_count << 10 * status.transfer_count_units


def stream(pieces, skip):
    """Segments and inline data for (number of a header, address, blocks) without the first `skip` bytes of the stream
    that they make."""
    segments, inline = [], bytearray()
    common = {"cat": 1, "destination": 1, "stream_device_transfer_length": TAPE_BLOCK}
    for number, address, blocks in pieces:
        header = content(HEADER, seed=number)[min(skip, HEADER) :]
        skip = max(0, skip - HEADER)
        start = -(-len(inline) // 4) * 4
        inline = inline.ljust(start, b"\0") + header
        if header:
            segments.append(
                copy.InlineToStream.encode(**common, inline_data_offset=start, inline_data_number_of_bytes=len(header))
            )
        left = blocks * 512 - min(skip, blocks * 512)
        if left:
            at = address * 512 + blocks * 512 - left
            segments.append(
                copy.BlockWithOffsetToStream.encode(
                    **common, number_of_bytes=left, logical_block_address=at // 512, byte_offset=at % 512
                )
            )
        skip = max(0, skip - blocks * 512)
    end = {"destination": 1, "stream_device_transfer_length": TAPE_BLOCK}
    return [*segments, copy.InlineToStream.encode(**end)], bytes(inline)


def cartridges(site, count):
    """Small ones, of which each takes a part of the copy."""
    return [
        make_cartridge(site.directory, f"VOL00{n}L8", capacity_bytes=3_000_000, early_warning_bytes=1_600_000)
        for n in range(count)
    ]


def test_a_stream_goes_on_with_the_next_cartridge_where_early_warning_ended_it(site):
    """TRANSFER COUNT is all that it takes: a whole number of tape blocks, of which each is on the tape."""
    pieces = [(n, 37 * n, 30) for n in range(100)]
    whole = b"".join(
        content(HEADER, seed=n) + site.disk_data[at * 512 : (at + blocks) * 512] for n, at, blocks in pieces
    )
    whole = whole.ljust(-(-len(whole) // TAPE_BLOCK) * TAPE_BLOCK, b"\0")
    done, volumes, found = 0, cartridges(site, 4), b""
    descriptors = [site.disk_descriptor(), site.tape_descriptor(pad=True)]
    for number, cartridge in enumerate(volumes):
        site.tape.unload()
        site.tape.load(cartridge)
        segments, inline = stream(pieces, done)
        response = site.copy(*segments, inline=inline, cscds=descriptors, list_identifier=number + 1)
        if response.status == 0:
            found += b"".join(site.written())
            break
        details = data_of(receive(site.disk, copy.ReceiveCopyFailureDetailsLid1, list_identifier=number + 1))
        assert details[60:] == response.sense
        done += transferred(site.disk, number + 1)
        found += b"".join(site.written())
        assert (len(found), done % TAPE_BLOCK) == (done, 0)
    assert number >= 1
    assert found == whole
    for cartridge in volumes:
        if cartridge is not site.tape.cartridge:
            cartridge.close()
    site.cartridges.append(site.tape.cartridge)


def test_after_early_warning_the_same_tape_is_filled_to_its_end(site):
    """Each command writes on, and says how much; the one that finds the end has the drive's own answer."""
    site.tape.loaded.early_warning_bytes = 40_000_000 - 1_000_000
    done, codes = 0, set()
    site.tape.loaded.close()
    site.cartridges[0] = make_cartridge(
        site.directory, "SMALL0L8", capacity_bytes=3_000_000, early_warning_bytes=1_000_000
    )
    site.tape.unload()
    site.tape.load(site.cartridges[0])
    for identifier in range(1, 40):
        start = done // 512
        response = site.copy(block_to_stream(4096, BLOCKS // 8 * 8, 0), list_identifier=identifier)
        written = b"".join(site.written())
        done += transferred(site.disk, identifier)
        assert len(written) == done
        codes.add(code_of(response.sense[19:]))
        if code_of(response.sense[19:]) == (0xD, 0, 2):
            break
    assert codes == {(0, 0, 2), (0xD, 0, 2)}
    assert start
    assert done % 4096 == 0


def test_one_bad_block_of_the_source_costs_only_itself(site, monkeypatch):
    """INFORMATION says what is missing of the segment; a copy of what comes after it goes on."""
    bad, read_into = 1000, site.disk.medium.read_into

    def failing(buffer, offset):
        if offset <= bad * 512 < offset + len(memoryview(buffer)):
            raise OSError(5, "bad sector")
        read_into(buffer, offset)

    monkeypatch.setattr(site.disk.medium, "read_into", failing)
    monkeypatch.setattr("datamover.copy_job.CHUNK_BYTES", 4096)
    response = site.copy(block_to_stream(4096, 800), block_to_stream(4096, 800, 800), list_identifier=1)
    segment, residual, pointer, _, said = failure(response, SOURCE)
    assert (segment, pointer, code_of(said)) == (1, bytes([0x80, 0, 16]), (3, 0x11, 0))
    assert residual == (800 - 200) * 512
    assert transferred(site.disk, 1) == bad * 512
    good(site.copy(block_to_stream(4096, 1600 - 1008, 1008)))
    data = site.disk_data
    assert b"".join(site.written()) == data[: 1000 * 512] + data[1008 * 512 : 1600 * 512]


@pytest.mark.parametrize("end", ["source", "destination"])
def test_an_end_that_vanishes(site, end, monkeypatch):
    """The operator removes a disk or drive in mid-copy: the copy says which one is gone, and the tape ends whole."""
    monkeypatch.setattr("datamover.copy_job.CHUNK_BYTES", TAPE_BLOCK)
    running = Running(site, site.other, monkeypatch)
    gone = site.disk if end == "source" else site.tape
    gone.tasks.clear_guests(sense.LOGICAL_UNIT_NOT_SUPPORTED)
    running.go.set()
    assert running.done.wait(60)
    raw = running.answers[0].sense
    assert code_of(raw) == (0xA, 0x0D, 0x01)
    at = raw[8 if end == "source" else 9]
    assert code_of(raw[at + 1 :]) == (5, 0x25, 0)
    written = b"".join(site.written())
    assert written == site.disk_data[: len(written)]
    assert len(written) < len(site.disk_data)


def test_the_next_command_of_a_series_is_planned_while_the_last_drains(site, monkeypatch):
    """It is accepted, checked and waits its turn, so that the tape streams; what is wrong with it is said at once."""
    running = Running(site, site.tape, monkeypatch)
    planned = copy.parameter_list(site.descriptors, [block_to_stream(4096, 80)], list_identifier=6)
    wrong = copy.parameter_list(site.descriptors, [block_to_stream(4096, 80, BLOCKS)], list_identifier=7)
    answers, ended = [], threading.Event()
    cdb = copy.ExtendedCopyLid1.encode(parameter_list_length=len(planned))

    def complete(response):
        answers.append(response)
        ended.set()

    waiting = Task(ALPHA, 1, cdb, tag=78, data_out=planned, complete=complete, view=site.view)
    assert site.tape.execute(waiting) is None
    assert [record.has_turn for record in site.tape.copy_manager.recent()] == [True, False]
    refused = send(site.tape, cdb, data=wrong, view=site.view)
    assert code_of(refused.sense) == (0xA, 0x0D, 0x01)
    running.go.set()
    assert running.done.wait(60)
    assert ended.wait(60)
    good(answers[0])
    assert b"".join(site.written()) == site.disk_data + site.disk_data[: 80 * 512]
    checks = [tuple(record.checksums) for record in site.tape.copy_manager.recent() if record.status == 0]
    assert checks == [
        ((len(site.disk_data), crc32c(site.disk_data)),),
        ((80 * 512, crc32c(site.disk_data[: 80 * 512])),),
    ]
