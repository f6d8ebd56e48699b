"""FORMAT UNIT and SANITIZE: what is left, what is refused meanwhile, progress, failure, power loss."""

import threading

import pytest

from scsi_targets.devices.disk import provisioning as block_provisioning
from scsi_targets.devices.disk.block_device import BlockDevice
from scsi_targets.devices.unit.task import BUSY, Task
from scsi_targets.t10 import sbc, sbc_pages, spc
from tests.support.waiting import eventually
from tests.unit.devices.disk.support import BLOCKS, make_disk, pattern, read, write
from tests.unit.devices.support import ALPHA, data_of, send, sense_of
from vlib_images.disk.image import Provisioning
from vlib_images.disk.raw import DiskImage

SANITIZE_IN_PROGRESS, FORMAT_IN_PROGRESS = (2, 4, 0x1B), (2, 4, 4)


def wait_for(disk, cdb, data=None, **task):
    """A command that ends later."""
    done, answers = threading.Event(), []
    task = Task(
        ALPHA, 0, cdb.ljust(16, b"\0"), data_out=data, complete=lambda r: (answers.append(r), done.set()), **task
    )
    assert disk.execute(task) is None
    assert done.wait(60)
    return answers[0]


def overwrite(block, *, passes=1, invert=0, **fields):
    data = sbc_pages.OverwriteParameterList.encode(
        overwrite_count=passes, invert=invert, initialization_pattern_length=len(block)
    )
    data += block
    return sbc.SanitizeOverwrite.encode(parameter_list_length=len(data), **fields), data


def settle(disk):
    """Waits until the erasure that runs has ended."""
    if (erasure := disk.erasing.running) is not None:
        assert erasure.finished.wait(60)


@pytest.mark.parametrize(
    ("given", "passes", "invert", "left"),
    [
        (pattern(7), 1, 0, pattern(7)),
        (b"ab" * 128, 2, 0, b"ab" * 256),
        (b"\x00\x01\x02", 1, 0, (b"\x00\x01\x02" * 171)[:512]),
        (b"\x0f" * 4, 2, 1, b"\xf0" * 512),
        (b"\x0f" * 4, 3, 1, b"\x0f" * 512),
    ],
)
def test_overwrite_leaves_the_pattern_in_every_block(disk, given, passes, invert, left):
    write(disk, 0, b"secret.." * 64)
    cdb, data = overwrite(given, passes=passes, invert=invert)
    response = wait_for(disk, cdb, data)
    assert (response.status, response.data_length) == (0, len(data))
    assert read(disk, 0, BLOCKS) == left * BLOCKS


@pytest.mark.parametrize("command", [sbc.SanitizeBlockErase, sbc.SanitizeCryptographicErase])
def test_erased_blocks_read_as_zeros_and_hold_no_space(disk, command):
    write(disk, 5, b"secret.." * 640)
    assert wait_for(disk, command.encode()).status == 0
    assert read(disk, 0, BLOCKS) == bytes(512 * BLOCKS)
    assert [extent.state for extent in disk.image.extents(0, disk.image.size_bytes)] == [Provisioning.DEALLOCATED]


def test_storage_that_cannot_give_back_space_is_overwritten(disk, monkeypatch):
    write(disk, 0, b"secret.." * 64)
    monkeypatch.setattr(disk.image, "can_deallocate", False)
    assert wait_for(disk, sbc.SanitizeBlockErase.encode()).status == 0
    assert read(disk, 0, BLOCKS) == bytes(512 * BLOCKS)


def test_wrong_parameters_and_reserved_fields(disk):
    cdb, data = overwrite(pattern(1))
    for length in (0, 4, 512 + 5):
        bad = sbc.SanitizeOverwrite.encode(parameter_list_length=length)
        assert sense_of(send(disk, bad, data=bytes(length))) == (5, 0x24, 0)
    for bad in (
        bytes([0, 0, 2, 0]) + pattern(1),
        bytes([1, 0, 0, 0]) + pattern(1),
        bytes([1, 0, 2, 4]) + pattern(1),
        bytes([0x41, 0, 2, 0]) + pattern(1),
    ):
        assert sense_of(send(disk, cdb, data=bad)) == (5, 0x26, 0)
    for command in (sbc.SanitizeBlockErase, sbc.SanitizeCryptographicErase, sbc.SanitizeExitFailureMode):
        assert sense_of(send(disk, command.encode(parameter_list_length=8), data=bytes(8))) == (5, 0x24, 0)
        for at, bit in ((1, 0x40), (2, 1), (6, 0x80)):
            reserved = bytearray(command.encode())
            reserved[at] |= bit
            assert sense_of(send(disk, bytes(reserved))) == (5, 0x24, 0)
    for action in (0, 4, 0x1E):
        assert sense_of(send(disk, bytes([0x48, action]))) == (5, 0x24, 0)
    assert send(disk, sbc.SanitizeExitFailureMode.encode()).status == 0
    assert data == bytes([1, 0, 2, 0]) + pattern(1)


@pytest.fixture
def slow(tmp_path):
    """A disk that needs minutes to be overwritten."""
    device = make_disk(tmp_path, blocks=16 << 11, erase_bytes_per_second=1 << 17, removable=True, state_key="disk/slow")
    yield device
    device.close()


def start_overwrite(disk):
    cdb, data = overwrite(b"gone", immediate=1)
    assert send(disk, cdb, data=data).status == 0


def test_meanwhile_the_medium_is_not_ready_and_the_rest_answers(slow):
    start_overwrite(slow)
    refused = [
        bytes(6), sbc.Read16.encode(transfer_length=1), sbc.StartStopUnit.encode(load_eject=1),
        sbc.ReadCapacity10.encode(), sbc.SanitizeBlockErase.encode(), sbc.FormatUnit.encode(),
    ]  # fmt: skip
    for cdb in refused:
        assert sense_of(send(slow, cdb)) == SANITIZE_IN_PROGRESS
    assert sense_of(write(slow, 0, bytes(512))) == SANITIZE_IN_PROGRESS
    assert data_of(send(slow, spc.Inquiry.encode(allocation_length=36)))
    told = data_of(send(slow, spc.RequestSense.encode(allocation_length=18)))
    assert (told[2], told[12], told[13], told[15]) == (2, 4, 0x1B, 0x80)
    eventually(lambda: any(data_of(send(slow, spc.RequestSense.encode(allocation_length=18)))[16:18]))
    with pytest.raises(ValueError, match="being erased"):
        slow.remove()


def test_what_runs_on_beside_it_finds_no_medium(slow, monkeypatch):
    monkeypatch.setattr(block_provisioning, "LONG_FILL_BYTES", 512)
    fill, filling, go = slow.image.fill, threading.Event(), threading.Event()

    def wait_once(block, offset, length):
        if not filling.is_set():
            filling.set()
            assert go.wait(60)
        fill(block, offset, length)

    monkeypatch.setattr(slow.image, "fill", wait_once)
    answers, done = [], threading.Event()
    cdb = sbc.WriteSame16.encode().ljust(16, b"\0")
    task = Task(ALPHA, 0, cdb, data_out=pattern(1), complete=lambda r: (answers.append(r), done.set()))
    assert slow.execute(task) is None
    assert filling.wait(60)
    starter = threading.Thread(target=start_overwrite, args=(slow,))
    starter.start()
    eventually(lambda: slow.gate.waiting)
    go.set()
    starter.join(60)
    assert done.wait(60)
    assert sense_of(answers[0]) == SANITIZE_IN_PROGRESS


def test_no_reset_and_no_abort_ends_it(slow):
    cdb, data = overwrite(b"gone")
    answers = []
    task = Task(ALPHA, 0, cdb.ljust(16, b"\0"), tag=5, data_out=data, complete=answers.append)
    assert slow.execute(task) is None
    assert slow.abort_task(ALPHA, 5)
    slow.reset()
    slow.nexus_lost(ALPHA)
    assert sense_of(send(slow, bytes(6))) == SANITIZE_IN_PROGRESS
    assert task.aborted
    assert not answers


@pytest.mark.image_file
def test_it_goes_on_after_a_power_loss(slow):
    write(slow, (16 << 11) - 1, b"secret.." * 64)
    start_overwrite(slow)
    path = slow.image.path
    slow.close()
    again = BlockDevice(slow.identity, DiskImage.open(path), store=slow.store, state_key="disk/slow")
    settle(again)
    assert read(again, (16 << 11) - 1) == b"gone" * 128
    once_more = slow.store.get("disk/slow/erasure")
    assert once_more is None
    again.close()


def test_without_a_thread_nothing_is_erased_and_the_disk_stays_ready(disk, monkeypatch):
    write(disk, 3, pattern(3))
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", no_thread)
        cdb, data = overwrite(b"gone", immediate=1)
        assert send(disk, cdb, data=data).status == BUSY
        assert send(disk, sbc.FormatUnit.encode()).status == BUSY
    assert (read(disk, 3), disk.store.get(f"{disk.state_key}/erasure")) == (pattern(3), None)
    assert wait_for(disk, *overwrite(b"gone")).status == 0
    assert read(disk, 3) == b"gone" * 128


@pytest.mark.image_file
def test_without_a_thread_an_erasure_goes_on_at_a_later_start(slow, monkeypatch):
    start_overwrite(slow)
    path = slow.image.path
    slow.close()
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", no_thread)
        barred = BlockDevice(slow.identity, DiskImage.open(path), store=slow.store, state_key="disk/slow")
    assert sense_of(read_one(barred)) == (3, 0x31, 3)
    barred.close()
    again = BlockDevice(slow.identity, DiskImage.open(path), store=slow.store, state_key="disk/slow")
    settle(again)
    assert read(again, 9) == b"gone" * 128
    again.close()


def no_thread(_thread):
    raise RuntimeError("can't start new thread")


def read_one(disk):
    return send(disk, sbc.Read16.encode(logical_block_address=9, transfer_length=1))


def test_failure_bars_the_medium_until_it_is_left(disk, monkeypatch):
    write(disk, 0, pattern(1))
    fill = disk.image.fill

    def fail(*_):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(disk.image, "fill", fail)
    response = wait_for(disk, sbc.SanitizeBlockErase.encode(allow_unrestricted_sanitize_exit=1))
    assert sense_of(response) == (3, 0x31, 3)
    again = BlockDevice(disk.identity, disk.image, store=disk.store)
    for unit in (disk, again):
        for cdb in (bytes(6), sbc.Read10.encode(transfer_length=1), sbc.ReadCapacity10.encode()):
            assert sense_of(send(unit, cdb)) == (3, 0x31, 3)
    assert send(disk, sbc.SanitizeExitFailureMode.encode()).status == 0
    assert read(disk, 0) == pattern(1)
    assert sense_of(wait_for(disk, sbc.SanitizeBlockErase.encode())) == (3, 0x31, 3)
    assert sense_of(send(disk, sbc.SanitizeExitFailureMode.encode())) == (5, 0x24, 0)
    monkeypatch.setattr(disk.image, "fill", fill)
    assert wait_for(disk, sbc.SanitizeBlockErase.encode()).status == 0
    assert read(disk, 0) == bytes(512)


def test_format_gives_back_all_space_or_writes_the_pattern(disk):
    write(disk, 0, pattern(1) * 64)
    assert wait_for(disk, sbc.FormatUnit.encode()).status == 0
    assert read(disk, 0, 64) == bytes(512 * 64)
    given = bytes([0, 0x88, 0, 0]) + bytes([0, 1, 0, 4]) + b"init"
    assert wait_for(disk, sbc.FormatUnit.encode(format_data=1), given).data_length == len(given)
    assert read(disk, 0, BLOCKS) == b"init" * 128 * BLOCKS
    empty_long_list = bytes([0, 0x02, 0, 0, 0, 0, 0, 0])
    assert send(disk, sbc.FormatUnit.encode(format_data=1, long_list=1), data=empty_long_list).status == 0
    settle(disk)
    assert read(disk, 0, BLOCKS) == bytes(512 * BLOCKS)


def test_format_refuses_what_it_cannot_do(disk):
    assert sense_of(send(disk, sbc.FormatUnit.encode(format_protection_information=2))) == (5, 0x24, 0)
    for bad in (
        bytes([0, 0, 0, 8]) + bytes(8),  # a defect list
        bytes([3, 0, 0, 0]),  # protection fields
        bytes([0, 0x08, 0, 0, 0, 1, 0, 4]) + bytes(4),  # a pattern without FOV
        bytes([0, 0x88, 0, 0, 0, 2, 0, 4]) + bytes(4),  # a type of pattern nobody knows
        bytes([0, 0x88, 0, 0, 0, 1, 2, 4]) + bytes(600),  # longer than a block
    ):
        assert sense_of(send(disk, sbc.FormatUnit.encode(format_data=1), data=bad)) == (5, 0x26, 0)
    for short in (b"", bytes(3), bytes([0, 0x88, 0, 0, 0, 1])):
        assert sense_of(send(disk, sbc.FormatUnit.encode(format_data=1), data=short)) == (5, 0x1A, 0)


def test_format_in_progress(slow):
    given = bytes([0, 0x8A, 0, 0]) + bytes([0, 1, 0, 4]) + b"init"
    assert send(slow, sbc.FormatUnit.encode(format_data=1), data=given).status == 0
    assert sense_of(send(slow, bytes(6))) == FORMAT_IN_PROGRESS


def test_write_protected_disks_are_not_erased(tmp_path):
    disk = make_disk(tmp_path, read_only=True)
    cdb, data = overwrite(b"gone")
    for command, sent in ((cdb, data), (sbc.SanitizeBlockErase.encode(), None), (sbc.FormatUnit.encode(), None)):
        assert sense_of(send(disk, command, data=sent)) == (7, 0x27, 0)
    disk.close()


def test_an_erasure_whose_end_cannot_be_recorded_bars_the_disk(tmp_path, monkeypatch):
    """The next start would take it up again and erase what was written meanwhile."""
    disk = make_disk(tmp_path)
    put, full = disk.store.put, []

    def fails(key, value):
        if value is None or full:
            full.append(key)
            raise OSError(28, "state")
        put(key, value)

    with monkeypatch.context() as patch:
        patch.setattr(disk.store, "put", fails)
        assert sense_of(wait_for(disk, sbc.SanitizeBlockErase.encode())) == (3, 0x31, 3)
        assert full
        assert sense_of(write(disk, 0, pattern(0))) == (3, 0x31, 3)
        assert sense_of(send(disk, sbc.SanitizeBlockErase.encode())) == (5, 0x55, 3)
        assert sense_of(write(disk, 0, pattern(0))) == (3, 0x31, 3)
    assert wait_for(disk, sbc.SanitizeBlockErase.encode()).status == 0
    assert write(disk, 0, pattern(0)).status == 0
    disk.close()
