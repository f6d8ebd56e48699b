"""VERIFY and WRITE AND VERIFY: every BYTCHK, miscompares, ranges."""

import threading

import pytest

from scsi_targets.devices.disk import transfers as block_transfers
from scsi_targets.devices.unit.task import Task
from scsi_targets.t10 import sbc
from tests.unit.devices.disk.support import BLOCKS, pattern, read, write
from tests.unit.devices.support import ALPHA, send, sense_of

VERIFIES = [sbc.Verify10, sbc.Verify12, sbc.Verify16]
WRITE_AND_VERIFIES = [sbc.WriteAndVerify10, sbc.WriteAndVerify12, sbc.WriteAndVerify16]


def information(response):
    assert response.sense[0] & 0x80
    return int.from_bytes(response.sense[3:7], "big")


@pytest.mark.parametrize("command", VERIFIES)
def test_comparison_with_all_data(disk, command):
    data = pattern(3) + pattern(4)
    write(disk, 3, data)
    cdb = command.encode(logical_block_address=3, verification_length=2, byte_check=1)
    assert send(disk, cdb, data=data).data_length == 1024
    wrong = bytearray(data)
    wrong[700] ^= 1
    response = send(disk, cdb, data=bytes(wrong))
    assert sense_of(response) == (0xE, 0x1D, 0)
    assert information(response) == 700


@pytest.mark.parametrize("command", VERIFIES)
def test_comparison_with_one_block(disk, command):
    write(disk, 0, pattern(9) * 5)
    cdb = command.encode(verification_length=5, byte_check=3)
    assert send(disk, cdb, data=pattern(9)).data_length == 512
    write(disk, 4, pattern(9)[:100] + b"?" + pattern(9)[101:])
    response = send(disk, cdb, data=pattern(9))
    assert sense_of(response) == (0xE, 0x1D, 0)
    assert information(response) == 100
    assert sense_of(send(disk, cdb, data=bytes(1024))) == (5, 0x0E, 3)


@pytest.mark.parametrize("command", VERIFIES)
def test_without_comparison_the_medium_is_read(disk, command):
    for first, count in ((0, 0), (0, BLOCKS), (BLOCKS - 1, 1)):
        assert send(disk, command.encode(logical_block_address=first, verification_length=count)).status == 0
    for first, count in ((0, BLOCKS + 1), (BLOCKS, 0)):
        cdb = command.encode(logical_block_address=first, verification_length=count)
        assert sense_of(send(disk, cdb)) == (5, 0x21, 0)
    assert sense_of(send(disk, command.encode(verification_length=1, byte_check=2))) == (5, 0x24, 0)
    assert sense_of(send(disk, command.encode(verification_length=1, protect=1))) == (5, 0x24, 0)


def test_a_medium_that_cannot_be_read_does_not_verify(disk, monkeypatch):
    write(disk, 0, pattern(1))

    def fail(*_):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(disk.image, "read_into", fail)
    assert sense_of(send(disk, sbc.Verify10.encode(verification_length=1))) == (3, 0x11, 0)


@pytest.mark.parametrize("command", WRITE_AND_VERIFIES)
@pytest.mark.parametrize("byte_check", [0, 1])
def test_write_and_verify(disk, command, byte_check):
    data = pattern(7) + pattern(8)
    cdb = command.encode(logical_block_address=7, transfer_length=2, byte_check=byte_check)
    assert send(disk, cdb, data=data).data_length == 1024
    assert read(disk, 7, 2) == data
    assert sense_of(send(disk, command.encode(transfer_length=1, byte_check=3), data=bytes(512))) == (5, 0x24, 0)
    beyond = command.encode(logical_block_address=BLOCKS, transfer_length=1)
    assert sense_of(send(disk, beyond, data=bytes(512))) == (5, 0x21, 0)


def test_a_long_verify_leaves_the_connection_free_and_can_be_aborted(disk, monkeypatch):
    monkeypatch.setattr(block_transfers, "LONG_RANGE_BYTES", 1024)
    write(disk, 0, pattern(0) * 16)
    reading, go = threading.Event(), threading.Event()
    read_into = disk.image.read_into

    def slow(buffer, offset):
        reading.set()
        assert go.wait(60)
        read_into(buffer, offset)

    monkeypatch.setattr(disk.image, "read_into", slow)
    answers, done = [], threading.Event()
    cdb = sbc.Verify10.encode(verification_length=16).ljust(16, b"\0")

    def verify(tag):
        task = Task(ALPHA, 0, cdb, tag=tag, complete=lambda response: (answers.append((tag, response)), done.set()))
        assert disk.execute(task) is None

    verify(1)
    assert reading.wait(60)
    assert send(disk, bytes(6)).status == 0
    assert disk.abort_task(ALPHA, 1)
    verify(2)
    go.set()
    assert done.wait(60)
    assert [(tag, response.status) for tag, response in answers] == [(2, 0)]
