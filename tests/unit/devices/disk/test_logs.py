"""Log pages of disks, the echo buffer."""

import os

from scsi_targets.devices.disk.statistics import GeneralStatistics
from scsi_targets.t10 import sbc, spc
from tests.unit.devices.disk.support import read, write
from tests.unit.devices.support import ALPHA, BETA, data_of, send, sense_of


def log_page(disk, page):
    data = data_of(send(disk, spc.LogSense.encode(page_control=1, page_code=page, allocation_length=512)))
    assert data[0] == page
    assert int.from_bytes(data[2:4], "big") == len(data) - 4
    return data[4:]


def test_general_statistics_count_what_moved(disk):
    write(disk, 0, bytes(512 * 3))
    read(disk, 0, 2)
    read(disk, 5, 1)
    send(disk, sbc.Read10.encode(transfer_length=8), limit=0)  # nothing was taken
    body = log_page(disk, 0x19)
    assert body[:4] == bytes([0, 1, 3, 64])
    figures = GeneralStatistics(body[4:68])
    assert (figures.read_commands, figures.write_commands) == (2, 1)
    assert (figures.logical_blocks_received, figures.logical_blocks_transmitted) == (3, 3)
    assert body[68:] == bytes([0, 3, 3, 8, 0xFF, 0xFF, 0xFF, 0xFA, 0, 0, 0, 1])
    assert send(disk, spc.LogSelect.encode(parameter_code_reset=1, page_control=1, page_code=0x19)).status == 0
    assert GeneralStatistics(log_page(disk, 0x19)[4:68]).write_commands == 0


def test_informational_exceptions_and_the_list_of_pages(disk):
    assert log_page(disk, 0x2F) == bytes([0, 0, 3, 3, 0, 0, 0xFF])
    assert log_page(disk, 0x00) == bytes([0x00, 0x19, 0x2F])


def test_the_echo_buffer_belongs_to_its_nexus(disk):
    sent = os.urandom(252)
    echo = spc.ReadBuffer.encode(mode=0x0A, allocation_length=4096)
    assert sense_of(send(disk, echo)) == (5, 0x2C, 0)
    response = send(disk, spc.WriteBuffer.encode(mode=0x0A, parameter_list_length=252), data=sent)
    assert (response.status, response.data_length) == (0, 252)
    assert data_of(send(disk, echo)) == sent
    assert sense_of(send(disk, echo, nexus=BETA)) == (5, 0x2C, 0)
    disk.nexus_lost(ALPHA)
    assert sense_of(send(disk, echo)) == (5, 0x2C, 0)
    assert data_of(send(disk, spc.ReadBuffer.encode(mode=0x0B, allocation_length=4))) == bytes([1, 0, 0x10, 0])
    assert sense_of(send(disk, spc.WriteBuffer.encode(mode=5), data=b"")) == (5, 0x24, 0)
