"""Copies that fail: which segment, how much is missing, what the device said, and who gets to know."""

import threading

import crcmod.predefined
import pytest

from scsi_targets.devices.unit.task import TASK_SET_FULL, Task
from scsi_targets.t10 import copy_descriptors as copy
from tests.unit.devices.copying.support import (
    BLOCKS,
    Running,
    Site,
    block_to_stream,
    content,
    copy_status,
    receive,
    stream_to_block,
)
from tests.unit.devices.disk.support import make_disk
from tests.unit.devices.support import ALPHA, BETA, data_of, send, sense_of
from tests.unit.devices.tape.support import good

crc32c = crcmod.predefined.mkPredefinedCrcFun("crc-32c")
SOURCE, DESTINATION = 8, 9  # bytes of fixed-format sense data


@pytest.fixture
def site(tmp_path):
    site = Site(tmp_path)
    yield site
    site.close()


def failure(response, side, code=(0x0D, 0x01)):
    """(segment, INFORMATION or None, CSCD pointer, status, forwarded sense) of a third party device failure, or of
    another additional sense code."""
    assert sense_of(response) == (0xA, *code)
    raw = response.sense
    assert raw[7] == len(raw) - 8
    assert (raw[side], raw[17 - side]) == (18, 0)
    information = int.from_bytes(raw[3:7], "big") if raw[0] & 0x80 else None
    return int.from_bytes(raw[10:12], "big"), information, raw[15:18], raw[18], raw[19:]


def code_of(sense):
    return sense[2] & 0x0F, sense[12], sense[13]


def test_a_filemark_in_the_source(site):
    site.fill([content(512), content(512), None, content(512)])
    response = site.copy(stream_to_block(512, 1, 5), stream_to_block(512, 3, 6))
    segment, information, pointer, status, sense = failure(response, SOURCE)
    assert (segment, information, pointer, status) == (1, 2, bytes([0x80, 0, 48]), 2)
    assert (code_of(sense), sense[2] & 0x80) == ((0, 0, 1), 0x80)
    assert int.from_bytes(sense[3:7], "big") == 512
    read = bytearray(512 * 2)
    site.disk.medium.read_into(read, 5 * 512)
    assert read == content(512) * 2


def test_a_block_of_another_length_in_the_source(site):
    site.fill([content(1024)])
    response = site.copy(stream_to_block(512, 1))
    segment, information, _, _, sense = failure(response, SOURCE)
    assert (segment, information, code_of(sense), sense[2] & 0x20) == (0, None, (0, 0, 0), 0x20)
    assert int.from_bytes(sense[3:7], "big", signed=True) == -512


OUT_OF_RANGE = (5, 0x21, 0)
NOTHING_MORE = (0x00, 0x00)  # what libiscsi's suite expects of an extent between disks that runs off one


@pytest.mark.parametrize("address", [BLOCKS - 2, BLOCKS, 1 << 63])
def test_blocks_behind_the_end_of_the_disk(site, address):
    response = site.copy(block_to_stream(512, 4), block_to_stream(512, 4, address))
    segment, information, pointer, status, sense = failure(response, SOURCE)
    assert (segment, information, pointer, status) == (1, None, bytes([0x80, 0, 16]), 2)
    assert code_of(sense) == OUT_OF_RANGE
    assert sense[15:18] == bytes([0xCF, 0, 2])  # LOGICAL BLOCK ADDRESS of READ(16)
    assert site.written() == []  # it is certain before anything is copied


def test_blocks_behind_the_end_of_the_destination(site):
    site.fill([content(512)] * 8)
    _, _, _, _, sense = failure(site.copy(stream_to_block(512, 4), stream_to_block(512, 4, BLOCKS - 2)), DESTINATION)
    assert code_of(sense) == OUT_OF_RANGE
    common = {"source": 0, "destination": 0, "number_of_blocks": 2}
    for address, code in ((BLOCKS - 1, NOTHING_MORE), (BLOCKS, (0x0D, 0x01))):
        behind = copy.BlockToBlock.encode(**common, destination_logical_block_address=address)
        _, _, _, _, sense = failure(site.copy(behind), DESTINATION, code)
        assert code_of(sense) == OUT_OF_RANGE
        behind = copy.BlockToBlock.encode(**common, source_logical_block_address=address)
        _, _, _, _, sense = failure(site.copy(behind), SOURCE, code)
        assert code_of(sense) == OUT_OF_RANGE
    read = bytearray(BLOCKS * 512)
    site.disk.medium.read_into(read, 0)
    assert read == site.disk_data


def test_no_blocks_behind_the_end_are_none(site):
    good(site.copy(block_to_stream(512, 0, BLOCKS), block_to_stream(512, 0, 1 << 40)))


def test_the_end_is_found_in_mid_copy_where_residue_may_be_used_first(site):
    """The second segment takes 512 bytes that the first read too much: only the disk can say what is there."""
    big = make_disk(site.directory, name="big", block_length=4096, blocks=64)
    site.add(big)
    big_descriptor = copy.identification_descriptor(big.identity.naa, device_type=0)
    one = copy.BlockToBlock.encode(source=0, destination=1, cat=1, destination_count=1, number_of_blocks=1)
    behind = copy.BlockToBlock.encode(
        source=0, destination=1, cat=1, destination_count=1, number_of_blocks=4, source_logical_block_address=61
    )
    response = site.copy(one, behind, cscds=[big_descriptor, site.disk_descriptor()], unit=site.disk)
    good(response)
    response = site.copy(
        one,
        copy.BlockToBlock.encode(
            source=0, destination=1, cat=1, destination_count=1, number_of_blocks=40, source_logical_block_address=61
        ),
        cscds=[big_descriptor, site.disk_descriptor()],
    )
    segment, _, _, _, sense = failure(response, SOURCE, NOTHING_MORE)
    assert (segment, code_of(sense)) == (1, OUT_OF_RANGE)


def test_an_empty_drive(site):
    cartridge = site.tape.unload()
    segment, _, _, _, sense = failure(site.copy(block_to_stream(512, 1)), DESTINATION)
    assert (segment, code_of(sense)) == (0, (2, 0x3A, 0))
    site.tape.load(cartridge)


def test_write_protected_media(site):
    site.tape.loaded.write_protected = True
    _, _, pointer, _, sense = failure(site.copy(block_to_stream(512, 1)), DESTINATION)
    assert (pointer, code_of(sense)) == (bytes([0x80, 0, 48]), (7, 0x27, 0))
    site.tape.loaded.write_protected = False
    site.fill([content(512)])
    site.disk.software_write_protect = True
    site.disk.update_access()
    _, _, pointer, _, sense = failure(site.copy(stream_to_block(512, 1)), DESTINATION)
    assert (pointer, code_of(sense)) == (bytes([0x80, 0, 16]), (7, 0x27, 2))
    site.disk.software_write_protect = False
    site.disk.update_access()


def test_early_warning_ends_the_copy_with_an_exact_residual(site, tmp_path):
    site.tape.loaded.early_warning_bytes = 40_000_000 - 1_000_000
    response = site.copy(block_to_stream(65536, 128), block_to_stream(65536, 3840, 128))
    segment, information, _, status, sense = failure(response, DESTINATION)
    assert (segment, status, code_of(sense), sense[2] & 0x40) == (1, 2, (0, 0, 2), 0x40)
    assert len(b"".join(site.written())) == 128 * 512 + 3840 * 512 - information
    assert b"".join(site.written()) == site.disk_data[: 3968 * 512 - information]


def test_residuals_of_fixed_blocks_are_counted_in_blocks(site):
    site.tape.loaded.early_warning_bytes = 40_000_000 - 1_000_000
    tape = site.tape_descriptor(fixed=True, block_length=512)
    response = site.copy(block_to_stream(64, BLOCKS), cscds=[site.disk_descriptor(), tape])
    _, information, _, _, _ = failure(response, DESTINATION)
    assert information == BLOCKS - len(site.written())


def test_descriptor_format_sense_forwards_too(site):
    site.disk.descriptor_sense = True
    site.fill([None])
    raw = site.copy(stream_to_block(512, 1)).sense
    assert raw[:4] == bytes([0x72, 0xA, 0x0D, 0x01])
    found, at = {}, 8
    while at < len(raw):
        found[raw[at]] = raw[at : at + 2 + raw[at + 1]]
        at += 2 + raw[at + 1]
    assert found[0x01][-4:] == bytes(4)
    assert found[0x02][4:7] == bytes([0x80, 0, 48])
    assert found[0x0C][2:4] == bytes([1, 2])
    assert code_of(found[0x0C][4:]) == (0, 0, 1)


def test_reservations_of_both_ends_hold_for_the_copy(site):
    reserve, release = bytes([0x16, 0, 0, 0, 0, 0]), bytes([0x17, 0, 0, 0, 0, 0])
    good(send(site.tape, reserve, nexus=BETA))
    segment, _, _, status, sense = failure(site.copy(block_to_stream(512, 1)), DESTINATION)
    assert (segment, status, sense) == (0, 0x18, b"")
    good(site.copy(block_to_stream(512, 1), nexus=BETA))
    good(send(site.tape, release, nexus=BETA))
    good(send(site.disk, reserve, nexus=BETA))
    assert site.copy(block_to_stream(512, 1)).status == 0x18  # the copy manager's own logical unit
    _, _, _, status, _ = failure(site.copy(block_to_stream(512, 1), unit=site.tape), SOURCE)
    assert status == 0x18
    good(send(site.disk, release, nexus=BETA))
    assert len(site.written()) == 1


def test_nothing_is_copied_when_a_later_segment_is_certain_to_be_refused(site):
    """A reservation, a medium that is write protected or not there: in the second segment."""
    segments = [
        block_to_stream(512, 4),
        copy.BlockToStream.encode(source=0, destination=2, stream_device_transfer_length=512, number_of_blocks=4),
    ]
    cscds = [*site.descriptors, site.tape_descriptor(site.other)]
    good(send(site.other, bytes([0x16, 0, 0, 0, 0, 0]), nexus=BETA))
    segment, information, pointer, status, _ = failure(site.copy(*segments, cscds=cscds), DESTINATION)
    assert (segment, information, pointer, status) == (1, None, bytes([0x80, 0, 80]), 0x18)
    good(send(site.other, bytes([0x17, 0, 0, 0, 0, 0]), nexus=BETA))
    site.other.loaded.write_protected = True
    site.other.decide_legality()
    segment, _, _, _, sense = failure(site.copy(*segments, cscds=cscds), DESTINATION)
    assert (segment, code_of(sense)) == (1, (7, 0x27, 0))
    mark = copy.WriteFilemarks.encode(destination=2, filemark_count=1)
    segment, _, _, _, sense = failure(site.copy(segments[0], mark, cscds=cscds), DESTINATION)
    assert (segment, code_of(sense)) == (1, (7, 0x27, 0))
    site.other.loaded.write_protected = False
    cartridge = site.other.unload()
    segment, _, _, _, sense = failure(site.copy(*segments, cscds=cscds), DESTINATION)
    assert (segment, code_of(sense)) == (1, (2, 0x3A, 0))
    site.other.load(cartridge)
    assert site.written() == site.written(site.other) == []


def test_what_only_moves_a_write_protected_tape_is_not_refused(site):
    site.fill([content(512), content(512, 2)])
    site.tape.loaded.write_protected = True
    move = copy.LocateTape.encode(destination=1, logical_object_identifier=1)
    checkpoint = copy.WriteFilemarks.encode(destination=1)
    flush = block_to_stream(512, 0, cat=1)
    good(site.copy(move, flush, checkpoint, stream_to_block(512, 1)))
    read = bytearray(512)
    site.disk.medium.read_into(read, 0)
    assert read == content(512, 2)
    site.tape.loaded.write_protected = False


def test_a_drive_that_is_busy_is_waited_for(site):
    assert site.tape.occupy(1)
    answers, ended = [], threading.Event()
    data = copy.parameter_list(site.descriptors, [block_to_stream(512, 1)], list_identifier=4)
    cdb = copy.ExtendedCopyLid1.encode(parameter_list_length=len(data))

    def complete(response):
        answers.append(response)
        ended.set()

    task = Task(ALPHA, 0, cdb, data_out=data, complete=complete, view=site.view)
    assert site.disk.execute(task) is None
    status = copy_status(site.disk, 4)
    assert (status.copy_command_status, status.segments_processed) == (0, 0)  # under way, nothing begun
    assert not ended.is_set()
    site.tape.vacate()
    assert ended.wait(60)
    good(answers[0])


def test_crossing_copies_between_two_drives_end(site):
    """Each drive runs a copy to the other; neither may wait for ever."""
    site.fill([content(512)])
    site.fill([content(512)], site.other)
    cscds = [site.tape_descriptor(), site.tape_descriptor(site.other)]
    results, both = [], threading.Barrier(2)

    def cross(unit, source, destination):
        both.wait(60)
        segment = copy.StreamToStream.encode(
            source=source, destination=destination, source_stream_device_transfer_length=512,
            destination_stream_device_transfer_length=512, byte_count=512,
        )  # fmt: skip
        results.append(site.copy(segment, cscds=cscds, unit=unit, list_identifier=source))

    threads = [threading.Thread(target=cross, args=args) for args in ((site.tape, 0, 1), (site.other, 1, 0))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(results) == 2
    for response in results:  # each reads its block, or what the other has left
        assert response.status == 0 or response.sense[18] == 2


# ---- results and control -------------------------------------------------------------------------------------------


def details(site, list_identifier, nexus=ALPHA, **fields):
    return receive(
        site.disk, copy.ReceiveCopyFailureDetailsLid1, list_identifier=list_identifier, nexus=nexus, **fields
    )


def test_status_and_details_of_a_failed_copy(site):
    site.fill([content(512), None])
    response = site.copy(stream_to_block(512, 1), stream_to_block(512, 1), list_identifier=7)
    assert sense_of(details(site, 7, nexus=BETA)) == (5, 0x24, 0)
    assert sense_of(details(site, 8)) == (5, 0x24, 0)
    status = copy_status(site.disk, 7)
    assert (status.copy_command_status, status.segments_processed, status.transfer_count) == (2, 2, 512)
    assert sense_of(receive(site.disk, copy.ReceiveCopyStatusLid1, list_identifier=7)) == (5, 0x24, 0)
    assert len(data_of(details(site, 7, allocation_length=59))) == 59  # cut short, so it stays
    found = data_of(details(site, 7))
    assert found[:4] == (len(found) - 4).to_bytes(4, "big")
    assert (found[56], found[58:60]) == (2, len(response.sense).to_bytes(2, "big"))
    assert found[60:] == response.sense
    assert sense_of(details(site, 7)) == (5, 0x24, 0)


def test_a_good_copy_has_no_details(site):
    good(site.copy(block_to_stream(512, 4), list_identifier=1))
    assert data_of(details(site, 1)) == bytes(4)
    lid4 = data_of(receive(site.disk, copy.ReceiveCopyStatusLid4, list_identifier=1))
    assert lid4 == bytes.fromhex("0000001c 00 01 0001 fffffffe 00 00 00 00 0000000000000800 0001 000000000000")
    assert copy_status(site.disk, 1).copy_command_status == 1


def test_the_record_has_each_segments_checksum(site):
    segments = [block_to_stream(512, 4), copy.WriteFilemarks.encode(destination=1), block_to_stream(512, 3, 9)]
    good(site.copy(*segments, list_identifier=2))
    checksums = site.disk.copy_manager.record(ALPHA, 2).checksums
    parts = [site.disk_data[:2048], b"", site.disk_data[4608:6144]]
    assert list(checksums) == [(len(part), crc32c(part)) for part in parts]
    site.tape.loaded.rewind()
    site.fill([content(512), None])
    site.copy(stream_to_block(512, 1, 7), stream_to_block(512, 2, 8), list_identifier=3)
    checksums = site.disk.copy_manager.record(ALPHA, 3).checksums
    assert list(checksums) == [(512, crc32c(content(512))), (0, 0)]
    assert site.disk.copy_manager.record(BETA, 3) is None


def test_no_list_identifier_leaves_nothing(site):
    good(site.copy(block_to_stream(512, 1), list_id_usage=copy.NO_LIST_IDENTIFIER))
    assert sense_of(receive(site.disk, copy.ReceiveCopyStatusLid1)) == (5, 0x24, 0)


def test_results_go_with_their_nexus_and_with_a_reset(site):
    for end in (lambda: site.disk.nexus_lost(ALPHA), site.disk.reset):
        good(site.copy(block_to_stream(512, 1), list_identifier=3))
        end()
        while site.disk.take_unit_attention(ALPHA):
            pass
        assert sense_of(receive(site.disk, copy.ReceiveCopyStatusLid1, list_identifier=3)) == (5, 0x24, 0)


def test_remembered_copies_are_bounded(site):
    for list_identifier in range(100):
        good(site.copy(list_identifier=list_identifier))
    assert sense_of(receive(site.disk, copy.ReceiveCopyStatusLid1, list_identifier=0)) == (5, 0x24, 0)
    assert copy_status(site.disk, 99).copy_command_status == 1


@pytest.mark.parametrize("where", ["disk", "tape"])
def test_while_a_copy_runs(site, where, monkeypatch):
    unit = getattr(site, where)
    running = Running(site, unit, monkeypatch)
    status = copy_status(unit, 5)
    assert (status.copy_command_status, status.segments_processed) == (0, 1)
    assert copy_status(unit, 5).copy_command_status == 0  # it may be asked for again
    lid4 = data_of(receive(unit, copy.ReceiveCopyStatusLid4, list_identifier=5))
    assert lid4[5] == 0x11
    assert sense_of(receive(unit, copy.ReceiveCopyFailureDetailsLid1, list_identifier=5)) == (5, 0x24, 0)
    assert len(data_of(send(site.disk, bytes([0x28, 0, 0, 0, 0, 9, 0, 0, 1, 0]), nexus=BETA))) == 512
    if where == "disk":
        again = site.copy(block_to_stream(512, 1), list_identifier=5)
        assert sense_of(again) == (5, 0x00, 0x16)
    running.go.set()
    assert running.done.wait(60)
    assert running.answers[0].status == 0
    assert b"".join(site.written()) == site.disk_data


@pytest.mark.parametrize("where", ["disk", "tape"])
def test_a_copy_can_be_aborted_by_command(site, where, monkeypatch):
    unit = getattr(site, where)
    running = Running(site, unit, monkeypatch)
    assert sense_of(send(unit, copy.CopyOperationAbort.encode(list_identifier=6))) == (5, 0x24, 0)
    assert sense_of(send(unit, copy.CopyOperationAbort.encode(list_identifier=5), nexus=BETA)) == (5, 0x24, 0)
    good(send(unit, copy.CopyOperationAbort.encode(list_identifier=5)))
    running.go.set()
    assert running.done.wait(60)
    assert sense_of(running.answers[0]) == (0xA, 0x2F, 0x02)
    assert b"".join(site.written()) == site.disk_data[: 1 << 20]
    assert sense_of(send(unit, copy.CopyOperationAbort.encode(list_identifier=5))) == (5, 0x24, 0)


@pytest.mark.parametrize("where", ["disk", "tape"])
def test_abort_task_stops_a_copy_between_two_writes(site, where, monkeypatch):
    unit = getattr(site, where)
    running = Running(site, unit, monkeypatch)
    assert unit.abort_task(ALPHA, 77)
    running.go.set()
    assert site.tape.occupy(30)  # free again when the copy has ended
    site.tape.vacate()
    assert not running.answers
    assert b"".join(site.written()) == site.disk_data[: 1 << 20]
    good(site.copy(block_to_stream(512, 1), list_identifier=9))


def test_without_a_thread_nothing_is_copied_and_the_next_copy_runs(site, monkeypatch):
    start = threading.Thread.start

    def but_for_the_writer(thread):
        if thread.name == "copy writer":
            raise RuntimeError("can't start new thread")
        start(thread)

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", but_for_the_writer)
        assert site.copy(block_to_stream(512, 1)).status == TASK_SET_FULL
    assert site.written() == []
    assert site.copy(block_to_stream(512, 1)).status == 0
    assert site.written() == [site.disk_data[:512]]


def test_a_disk_that_fails_to_read(site, monkeypatch):
    def broken(*_):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(site.disk.medium, "read_into", broken)
    _, _, _, _, sense = failure(site.copy(block_to_stream(512, 1)), SOURCE)
    assert code_of(sense) == (3, 0x11, 0)


def test_a_disk_that_is_full(site, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    site.fill([content(512)])
    monkeypatch.setattr(site.disk.medium, "write", full)
    _, _, _, _, sense = failure(site.copy(stream_to_block(512, 1)), DESTINATION)
    assert code_of(sense) == (7, 0x27, 7)


def test_why_it_failed_is_said_in_words(site):
    site.fill([content(100), None])
    site.copy(stream_to_block(512, 1))
    site.copy(stream_to_block(512, 1))
    site.copy(block_to_stream(512, 1, BLOCKS))
    good(send(site.tape, bytes([0x16, 0, 0, 0, 0, 0]), nexus=BETA))
    site.copy(block_to_stream(512, 1))
    site.copy(block_to_stream(512, 1), cscds=[site.disk_descriptor(), site.tape_descriptor(block_length=3)])
    site.copy(copy.BlockToBlock.encode(source=0, destination=9, number_of_blocks=1))
    assert [record.reason for record in site.disk.copy_manager.recent()] == [
        "source: INCORRECT LENGTH",
        "source: FILEMARK DETECTED (0h/00h/01h)",
        "source: LOGICAL BLOCK ADDRESS OUT OF RANGE (5h/21h/00h)",
        "destination: RESERVATION CONFLICT",
        "UNREACHABLE COPY TARGET (Ah/08h/04h)",
    ]


def test_a_copy_that_waits_and_one_that_is_stopped_are_told_apart(site, monkeypatch):
    running, stopped = Running(site, site.disk, monkeypatch), threading.Event()
    data = copy.parameter_list(site.descriptors, [block_to_stream(512, 1)], list_identifier=6)
    cdb = copy.ExtendedCopyLid1.encode(parameter_list_length=len(data))
    waiting = Task(ALPHA, 0, cdb, tag=78, data_out=data, complete=lambda _response: stopped.set(), view=site.view)
    assert site.disk.execute(waiting) is None
    first, second = site.disk.copy_manager.recent()
    assert (first.has_turn, second.has_turn, first.status, second.status) == (True, False, None, None)
    good(send(site.disk, copy.CopyOperationAbort.encode(list_identifier=6)))
    assert stopped.wait(60)
    assert second.status == 2 and second.reason == "it was stopped" and second.failed_segment is None
    running.go.set()
    assert running.done.wait(60)
    assert first.status == 0 and [record.list_identifier for record in site.disk.copy_manager.recent()] == [5, 6]
