"""The copy manager as one more initiator: what others may do to a unit that takes part, and what the copy says."""

import threading

import pytest

from scsi_targets.devices.copying import operation
from scsi_targets.devices.copying.slots import CopySlots
from scsi_targets.devices.tape.models import drive_model
from scsi_targets.devices.tape.tape_drive import TapeDrive
from scsi_targets.devices.unit.principal import Permission
from scsi_targets.devices.unit.task import Nexus, Task
from scsi_targets.t10 import copy_descriptors as copy
from scsi_targets.t10 import spc, ssc
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
from tests.unit.devices.copying.test_failures import DESTINATION, SOURCE, code_of, failure
from tests.unit.devices.support import ALPHA, BETA, data_of, send, sense_of
from tests.unit.devices.tape.support import good, make_cartridge

ELSEWHERE = "iqn.2026-11.test:elsewhere"
NOT_REACHABLE = (0xA, 0x0D, 0x02)
RESET, CLEARED, PREEMPTED = (6, 0x29, 0x03), (6, 0x2F, 0x00), (6, 0x2A, 0x05)


@pytest.fixture
def site(tmp_path):
    site = Site(tmp_path)
    yield site
    site.close()


# ---- whom a copy can reach -----------------------------------------------------------------------------------------


@pytest.fixture
def elsewhere(site):
    """The disk is in another target only. ALPHA has a session there too; BETA has none."""
    site.hidden.append(site.disk)
    site.disk.nexus_established(Nexus(ALPHA.initiator_name, ALPHA.isid, ELSEWHERE))
    return site


def segments_with_the_disk():
    """Every type that can name it; CSCD descriptor 0 is the disk, 1 the tape."""
    here = {"source": copy.THIS_LOGICAL_UNIT, "destination": 0}
    yield block_to_stream(512, 1)
    yield copy.StreamToBlock.encode(source=1, destination=0, stream_device_transfer_length=512, number_of_blocks=1)
    yield copy.BlockToBlock.encode(source=0, destination=0, number_of_blocks=1)
    yield copy.VerifyCscd.encode(source=0)
    yield copy.VerifyCscd.encode(source=0, test_unit_ready=1)
    yield copy.InlineToStream.encode(destination=0, stream_device_transfer_length=4, inline_data_number_of_bytes=4)
    yield copy.StreamToStream.encode(
        **here, source_stream_device_transfer_length=4, destination_stream_device_transfer_length=4, byte_count=4
    )
    yield copy.StreamToDiscard.encode(source=0, stream_device_transfer_length=512, number_of_bytes=512)
    yield copy.WriteFilemarks.encode(destination=0, filemark_count=1)
    yield copy.SpaceTape.encode(destination=0, count=1)
    yield copy.LocateTape.encode(destination=0)


@pytest.mark.parametrize("nexus", [ALPHA, BETA], ids=["with a session there", "without"])
def test_only_what_the_session_shows_can_be_copied(elsewhere, nexus):
    for segment in segments_with_the_disk():
        response = elsewhere.copy(segment, unit=elsewhere.tape, nexus=nexus, inline=bytes(4))
        assert sense_of(response) == NOT_REACHABLE, segment.hex()
        assert response.sense[15:18] == bytes([0x80, 0, 16])
    assert elsewhere.written() == []


def test_no_designator_of_a_unit_elsewhere_is_known(elsewhere):
    page = elsewhere.disk.device_identification(Task(ALPHA, 0, bytes(16)))
    at, tried = 0, 0
    while at < len(page):
        name = page[at + 4 : at + 4 + page[at + 3]][:20]
        wanted = copy.identification_descriptor(
            name, device_type=0, designator_type=page[at + 1] & 0xF, code_set=page[at] & 0xF
        )
        response = elsewhere.copy(
            block_to_stream(512, 1), cscds=[wanted, elsewhere.tape_descriptor()], unit=elsewhere.tape
        )
        assert sense_of(response) == NOT_REACHABLE
        at, tried = at + 4 + page[at + 3], tried + 1
    assert tried > 3


def test_results_belong_to_the_nexus_that_asked(site):
    good(site.copy(block_to_stream(512, 1), list_identifier=3))
    same_name = Nexus(ALPHA.initiator_name, ALPHA.isid, ELSEWHERE)
    for command in (copy.ReceiveCopyStatusLid1, copy.ReceiveCopyStatusLid4, copy.ReceiveCopyFailureDetailsLid1):
        for other in (BETA, same_name):
            assert sense_of(receive(site.disk, command, list_identifier=3, nexus=other)) == (5, 0x24, 0)
    assert copy_status(site.disk, 3).copy_command_status == 1


# ---- what the view permits -----------------------------------------------------------------------------------------

READ_ONLY = Permission.READ_DATA | Permission.READ_PARAMETERS | Permission.WRITE_PARAMETERS
DENIED = (5, 0x20, 0x02)


def test_a_copy_reads_and_writes_what_the_view_permits(site):
    """A second number that permits more counts, too; what a copy does to no unit is not asked for."""
    site.permissions = {0: READ_ONLY, 1: Permission.ALL & ~Permission.READ_DATA}
    good(site.copy(block_to_stream(512, 4)))
    segment, _, _, _, sense = failure(
        site.copy(block_to_stream(512, 4), copy.BlockToBlock.encode(source=0, destination=0, number_of_blocks=1)),
        DESTINATION,
    )
    assert (segment, code_of(sense)) == (1, DENIED)
    back = copy.StreamToDiscard.encode(source=1, stream_device_transfer_length=512, number_of_bytes=512)
    _, _, _, _, sense = failure(site.copy(back), SOURCE)
    assert code_of(sense) == DENIED
    assert len(site.written()) == 4
    site.permissions = {0: READ_ONLY, 1: READ_ONLY}
    for segment in (block_to_stream(512, 1), copy.WriteFilemarks.encode(destination=1, filemark_count=1)):
        _, _, _, _, sense = failure(site.copy(segment), DESTINATION)
        assert code_of(sense) == DENIED
    site.add(site.tape)  # as LUN 3, for everything
    good(site.copy(block_to_stream(512, 1)))
    site.units.pop()


def test_who_may_not_change_parameters_may_not_copy(site):
    site.permissions = {0: Permission.READ_DATA}
    assert sense_of(site.copy(block_to_stream(512, 1))) == DENIED


# ---- commands that are aborted -------------------------------------------------------------------------------------


def preempt_and_abort(unit):
    key = spc.Register.encode(parameter_list_length=24)
    for nexus, number in ((ALPHA, 1), (BETA, 2)):
        good(send(unit, key, nexus=nexus, data=bytes(8) + number.to_bytes(8, "big") + bytes(8)))
    cdb = spc.PreemptAndAbort.encode(type=1, parameter_list_length=24)
    good(send(unit, cdb, nexus=BETA, data=(2).to_bytes(8, "big") + (1).to_bytes(8, "big") + bytes(8)))


@pytest.mark.parametrize(
    ("function", "told"),
    [
        (lambda site: site.tape.reset(), RESET),
        (lambda site: site.tape.clear_task_set(BETA), CLEARED),
        (lambda site: preempt_and_abort(site.tape), PREEMPTED),
    ],
    ids=["reset", "clear task set", "preempt and abort"],
)
@pytest.mark.parametrize("where", ["disk", "other"])
def test_a_task_management_function_of_the_tape_aborts_the_copy(site, where, function, told, monkeypatch):
    running = Running(site, getattr(site, where), monkeypatch)
    function(site)
    running.go.set()
    assert running.done.wait(60)
    segment, information, pointer, status, sense = failure(running.answers[0], DESTINATION)
    assert (segment, pointer, status, code_of(sense)) == (0, bytes([0x80, 0, 48]), 2, told)
    written = b"".join(site.written())
    assert written == site.disk_data[: 1 << 20]  # the write that was under way
    assert information == len(site.disk_data) - len(written)
    assert site.tape.occupy(30)
    site.tape.vacate()


@pytest.mark.parametrize("where", ["tape", "other"])
def test_a_reset_of_the_disk_aborts_the_copy_of_a_drive(site, where, monkeypatch):
    more = [block_to_stream(4096, BLOCKS)] * 3  # than can be read before the first of it is written
    running = Running(site, getattr(site, where), monkeypatch, more)
    site.disk.reset()
    running.go.set()
    assert running.done.wait(60)
    _, _, pointer, _, sense = failure(running.answers[0], SOURCE)
    assert (pointer, code_of(sense)) == (bytes([0x80, 0, 16]), RESET)
    assert len(b"".join(site.written())) < 3 * len(site.disk_data)


@pytest.mark.parametrize("where", ["disk", "tape", "other"])
def test_a_target_reset_ends_the_copy_without_an_answer(site, where, monkeypatch):
    running = Running(site, getattr(site, where), monkeypatch)
    for unit in site.view.units():
        unit.reset()
    running.go.set()
    assert site.tape.occupy(30)
    site.tape.vacate()
    assert running.answers == []
    assert b"".join(site.written()) == site.disk_data[: 1 << 20]


def test_what_aborts_tasks_of_others_leaves_the_copy(site, monkeypatch):
    """ABORT TASK SET, and PREEMPT AND ABORT of somebody else's registration."""
    running = Running(site, site.disk, monkeypatch)
    site.tape.abort_task_set(ALPHA)
    site.tape.abort_task_set(BETA)
    assert not site.tape.abort_task(ALPHA, 77)
    key = spc.Register.encode(parameter_list_length=24)
    gamma = Nexus("iqn.2026-11.test:gamma", bytes(6), ALPHA.target_name)
    for nexus, number in ((ALPHA, 1), (gamma, 2)):
        good(send(site.tape, key, nexus=nexus, data=bytes(8) + number.to_bytes(8, "big") + bytes(8)))
    cdb = spc.PreemptAndAbort.encode(type=1, parameter_list_length=24)
    good(send(site.tape, cdb, data=(1).to_bytes(8, "big") + (2).to_bytes(8, "big") + bytes(8)))
    running.go.set()
    assert running.done.wait(60)
    good(running.answers[0])
    assert b"".join(site.written()) == site.disk_data


def test_a_reset_ends_a_copy_that_waits_for_its_turn(site, monkeypatch):
    running = Running(site, site.disk, monkeypatch)
    waiting = start(site.other, site, [block_to_stream(512, 1)], BETA)
    site.tape.reset()
    _, _, _, _, sense = failure(waiting.answer(), DESTINATION)
    assert code_of(sense) == RESET
    running.go.set()
    assert running.done.wait(60)


def test_a_copy_that_waits_for_its_turn_can_be_aborted(site, monkeypatch):
    running = Running(site, site.disk, monkeypatch)
    waiting = start(site.other, site, [block_to_stream(512, 1)], ALPHA, list_identifier=6)
    good(send(site.other, copy.CopyOperationAbort.encode(list_identifier=6)))
    assert sense_of(waiting.answer()) == (0xA, 0x2F, 0x02)
    gone = start(site.other, site, [block_to_stream(512, 1)], ALPHA, list_identifier=7)
    site.other.abort_task_set(ALPHA)
    site.other.close()  # which waits for its threads
    assert not gone.ended.is_set()
    running.go.set()
    assert running.done.wait(60)
    good(running.answers[0])


def test_a_nexus_that_loses_a_unit_loses_the_copy_there(site, monkeypatch):
    """A unit that is no longer in the view lets what runs there end first, copies that others run included."""
    running = Running(site, site.disk, monkeypatch)
    assert site.tape.has_tasks_of(ALPHA)
    assert not site.tape.has_tasks_of(BETA)
    site.tape.nexus_lost(BETA)
    site.tape.nexus_lost(ALPHA)
    running.go.set()
    assert running.done.wait(60)
    _, _, _, _, sense = failure(running.answers[0], DESTINATION)
    assert code_of(sense) == (5, 0x25, 0)
    assert not site.tape.has_tasks_of(ALPHA)


def test_a_drive_that_goes_away_takes_the_copy_along(site, monkeypatch):
    running = Running(site, site.disk, monkeypatch)
    closing = threading.Thread(target=site.tape.close)
    closing.start()
    closing.join(60)
    running.go.set()
    assert running.done.wait(60)
    _, _, _, _, sense = failure(running.answers[0], DESTINATION)
    assert code_of(sense) == (5, 0x25, 0)


# ---- commands of others to a drive that takes part -----------------------------------------------------------------


class start:
    """An EXTENDED COPY that is not waited for."""

    def __init__(self, unit, site, segments, nexus, cscds=None, **header):
        self.ended, self.answers = threading.Event(), []
        data = copy.parameter_list(cscds or site.descriptors, segments, **header)
        cdb = copy.ExtendedCopyLid1.encode(parameter_list_length=len(data))
        self.task = Task(nexus, 0, cdb, data_out=data, complete=self._complete, view=site.view)
        assert unit.execute(self.task) is None

    def _complete(self, response):
        self.answers.append(response)
        self.ended.set()

    def answer(self):
        assert self.ended.wait(60)
        return self.answers[0]


AT_ONCE = {
    "TEST UNIT READY": bytes(6),
    "REQUEST SENSE": bytes([3, 0, 0, 0, 18, 0]),
    "INQUIRY": bytes([0x12, 0, 0, 0, 96, 0]),
    "MODE SENSE(6)": bytes([0x1A, 0, 0x3F, 0, 255, 0]),
    "MODE SENSE(10)": bytes([0x5A, 0, 0x3F, 0, 0, 0, 0, 2, 0, 0]),
    "LOG SENSE": bytes([0x4D, 0, 0x40 | 0x0C, 0, 0, 0, 0, 2, 0, 0]),
    "LOG SENSE, TapeAlert": bytes([0x4D, 0, 0x40 | 0x2E, 0, 0, 0, 0, 2, 0, 0]),
    "LOG SENSE, volume statistics": bytes([0x4D, 0, 0x40 | 0x17, 0, 0, 0, 0, 8, 0, 0]),
    "READ POSITION": bytes([0x34, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
    "READ POSITION, long": bytes([0x34, 6, 0, 0, 0, 0, 0, 0, 0, 0]),
    "READ BLOCK LIMITS": bytes([5, 0, 0, 0, 0, 0]),
    "REPORT DENSITY SUPPORT": bytes([0x44, 1, 0, 0, 0, 0, 0, 2, 0, 0]),
    "READ ATTRIBUTE": bytes([0x8C, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0]),
    "READ MEDIA SERIAL NUMBER": bytes([0xAB, 1, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0]),
    "PERSISTENT RESERVE IN": bytes([0x5E, 0, 0, 0, 0, 0, 0, 0, 255, 0]),
    "REPORT LUNS": bytes([0xA0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0]),
    "REPORT TARGET PORT GROUPS": bytes([0xA3, 0x0A, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0]),
    "REPORT SUPPORTED OPERATION CODES": bytes([0xA3, 0x0C, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0]),
    "SECURITY PROTOCOL IN": bytes([0xA2, 0x20, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0]),
    "PREVENT MEDIUM REMOVAL": bytes([0x1E, 0, 0, 0, 1, 0]),
    "ALLOW MEDIUM REMOVAL": bytes([0x1E, 0, 0, 0, 0, 0]),
}


@pytest.mark.parametrize("where", ["disk", "tape", "other"])
def test_commands_that_need_no_medium_are_answered_at_once(site, where, monkeypatch):
    running = Running(site, getattr(site, where), monkeypatch)
    for nexus in (ALPHA, BETA):
        for name, cdb in AT_ONCE.items():
            response = site.tape.execute(Task(nexus, 1, cdb.ljust(16, b"\0"), data_in_limit=4096))
            assert response is not None, f"{name} waits"
            assert response.status == 0, (name, response.sense.hex())
    sense = data_of(send(site.tape, AT_ONCE["REQUEST SENSE"]))
    assert sense[2] & 0xF == 0
    running.go.set()
    assert running.done.wait(60)
    good(running.answers[0])
    assert b"".join(site.written()) == site.disk_data


@pytest.mark.parametrize("method", ["write_blocks", "read_blocks", "write_filemarks"])
def test_a_transfer_and_a_command_of_another_do_not_touch_the_cartridge_together(site, method, monkeypatch):
    """LOG SENSE and READ POSITION look at what a transfer changes: the unit's lock is held, as for a WRITE(6)."""
    site.fill([content(512)] * 8)
    found, call = [], getattr(site.tape.loaded, method)

    def looked_at(*args, **kwargs):
        other = threading.Thread(target=lambda: found.append(site.tape.lock.acquire(blocking=False)))
        other.start()
        other.join(60)
        return call(*args, **kwargs)

    monkeypatch.setattr(site.tape.loaded, method, looked_at)
    good(site.copy(stream_to_block(512, 4)))
    good(site.copy(block_to_stream(4096, 64), block_to_stream(512, 1)))
    good(site.copy(copy.WriteFilemarks.encode(destination=1, filemark_count=1)))
    assert found
    assert not any(found)


@pytest.mark.parametrize("where", ["disk", "tape", "other"])
def test_commands_that_need_the_medium_wait_for_the_end_of_the_copy(site, where, monkeypatch):
    running = Running(site, getattr(site, where), monkeypatch)
    answers, order = [], []
    commands = {
        "WRITE FILEMARKS": ssc.WriteFilemarks6.encode(filemark_count=1),
        "REWIND": ssc.Rewind.encode(),
        "READ": ssc.Read6.encode(transfer_length=4096),
        "SPACE": ssc.Space6.encode(code=1, count=1),
        "LOAD UNLOAD": ssc.LoadUnload.encode(),
    }
    done = threading.Event()
    for name, cdb in commands.items():

        def complete(response, name=name):
            order.append(name)
            answers.append(response)
            if len(order) == len(commands):
                done.set()

        task = Task(BETA, 1, cdb.ljust(16, b"\0"), data_in_limit=4096, complete=complete)
        assert site.tape.execute(task) is None, name
    good(send(site.tape, bytes(6), nexus=BETA))  # and they hold up nothing that need not wait
    assert order == []
    running.go.set()
    assert running.done.wait(60)
    good(running.answers[0])
    assert done.wait(60)
    assert order == list(commands)
    assert [answer.status for answer in answers] == [0] * len(commands)
    assert bytes(memoryview(answers[2].data_in)) == site.disk_data[:4096]


def test_copies_and_commands_have_a_drive_in_the_order_of_their_arrival(site, monkeypatch):
    running = Running(site, site.disk, monkeypatch)
    mark = ssc.WriteFilemarks6.encode(filemark_count=1).ljust(16, b"\0")
    waiting, marked = [], threading.Event()
    for number in range(4):
        unit = (site.disk, site.other, site.tape, site.disk)[number]
        waiting.append(start(unit, site, [block_to_stream(512, 1, number)], BETA, list_identifier=number))
        if number == 1:
            assert site.tape.execute(Task(BETA, 1, mark, complete=lambda response: marked.set())) is None
    assert not any(copy_.ended.is_set() for copy_ in waiting)
    running.go.set()
    assert running.done.wait(60)
    for copy_ in waiting:
        good(copy_.answer())
    assert marked.wait(60)
    blocks = [site.disk_data[512 * number : 512 * (number + 1)] for number in range(4)]
    assert site.written()[BLOCKS * 512 // 4096 :] == [*blocks[:2], None, *blocks[2:]]


def test_copies_that_want_the_same_drives_the_other_way_round(site):
    """Many at once, between two drives in both directions: none waits for one that waits for it."""
    cscds = [site.tape_descriptor(), site.tape_descriptor(site.other), site.disk_descriptor()]
    copies = []
    for number in range(8):
        here, there = number % 2, 1 - number % 2
        segments = [
            copy.BlockToStream.encode(
                source=2, destination=tape, stream_device_transfer_length=512, number_of_blocks=2,
                logical_block_address=2 * number,
            )
            for tape in (here, there)
        ]  # fmt: skip
        copies.append(start((site.disk, site.tape)[here], site, segments, ALPHA, cscds, list_identifier=number))
    for copy_ in copies:
        good(copy_.answer())
    expected = [site.disk_data[at : at + 512] for at in range(0, 8192, 512)]
    assert site.written() == expected
    assert site.written(site.other) == expected


def test_sixty_four_copies_over_eight_drives(site):
    """None fails for waiting, whatever it waits for; one more than a copy manager takes is told so."""
    drives = [site.tape, site.other]
    for number in range(3, 9):
        drives.append(TapeDrive(drive_model("IBM ULT3580-TD8"), f"TB0000000{number}"))
        site.cartridges.append(make_cartridge(site.directory, f"TAP00{number}L8", capacity_bytes=4_000_000))
        drives[-1].load(site.cartridges[-1])
        site.add(drives[-1])
    assert all(drive.occupy(1) for drive in drives)
    cscds = [site.disk_descriptor(), *map(site.tape_descriptor, drives)]
    copies = []
    for number in range(64):
        segment = copy.BlockToStream.encode(
            source=0, destination=1 + number % 8, stream_device_transfer_length=512, number_of_blocks=1,
            logical_block_address=number,
        )  # fmt: skip
        copies.append(start(site.disk, site, [segment], ALPHA, cscds, list_identifier=number))
    assert site.copy(segment, cscds=cscds, list_identifier=64).status == 0x28  # TASK SET FULL
    assert {copy_status(site.disk, number).copy_command_status for number in range(64)} == {0}
    waiting = site.disk.copy_manager.recent()
    assert [(record.list_identifier, record.has_turn) for record in waiting] == [(n, False) for n in range(64)]
    for drive in drives:
        drive.vacate()
    for copy_ in copies:
        good(copy_.answer())
    for first, drive in enumerate(drives):
        blocks = [site.disk_data[512 * n : 512 * (n + 1)] for n in range(first, 64, 8)]
        assert site.written(drive) == blocks


def test_jobs_that_move_data_are_bounded(site, monkeypatch):
    """Those beyond wait, holding their drives; one that waits can be stopped."""
    monkeypatch.setattr(operation, "SLOTS", CopySlots(1))
    running = Running(site, site.disk, monkeypatch)
    verify = copy.VerifyCscd.encode(source=0)
    waiting = [start(site.other, site, [verify], ALPHA, list_identifier=number) for number in range(3)]
    good(send(site.other, copy.CopyOperationAbort.encode(list_identifier=1)))
    assert sense_of(waiting[1].answer()) == (0xA, 0x2F, 0x02)
    assert not waiting[0].ended.is_set()
    running.go.set()
    for number in (0, 2):
        good(waiting[number].answer())
    assert running.done.wait(60)


def test_one_unit_by_two_names_is_one_unit(site):
    """What one segment has written the next one reads, whichever descriptors they use."""
    cscds = [site.disk_descriptor()]
    here = copy.THIS_LOGICAL_UNIT
    segments = [
        copy.BlockToBlock.encode(
            source=0 if n % 2 else here, destination=here if n % 2 else 0, number_of_blocks=1,
            source_logical_block_address=n, destination_logical_block_address=n + 1,
        )
        for n in range(200)
    ]  # fmt: skip
    good(site.copy(*segments, cscds=cscds))
    read = bytearray(201 * 512)
    site.disk.medium.read_into(read, 0)
    assert read == site.disk_data[:512] * 201
