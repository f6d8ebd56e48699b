"""What IBM drives have of their own: mode pages 24h and 25h, SEND DIAGNOSTIC page 80h, as LTFS uses them."""

import errno

import pytest

from datamover.engine import storage_fault, storage_faults_clear
from scsi_targets.t10 import spc
from scsi_targets.t10.ssc_pages import CRC32C, REED_SOLOMON_CRC
from tests.unit.devices.support import data_of, send, sense_of
from tests.unit.devices.tape.support import good, loaded_drive, make_drive, write
from tests.unit.devices.tape.test_mode import mode_select_10, mode_sense_10

FORCE_DUMP = bytes([0x80, 0, 0, 4, 0x01, 0x60, 0, 0])  # as LTFS sends it (_cdb_force_dump)
IBM = ["IBM ULT3580-TD5", "IBM ULT3580-HH7", "IBM ULTRIUM-TD8", "IBM HH LTO Gen 9", "QUANTUM ULTRIUM-HH8"]
HP = ["HP Ultrium 6-SCSI", "HPE Ultrium 9-SCSI"]


def send_diagnostic(drive, data, **fields):
    cdb = spc.SendDiagnostic.encode(page_format=1, parameter_list_length=len(data), **fields)
    return send(drive, cdb, data=data)


@pytest.fixture
def make():
    made = []

    def drive(model):
        made.append(make_drive(model))
        return made[-1]

    yield drive
    for each in made:
        each.close()


@pytest.mark.parametrize("model", IBM)
def test_a_forced_dump_is_accepted_and_empty(make, model):
    drive = make(model)
    assert spc.SendDiagnostic.encode(page_format=1, parameter_list_length=8) == bytes([0x1D, 0x10, 0, 0, 8, 0])
    good(send_diagnostic(drive, FORCE_DUMP))
    listed = data_of(send(drive, spc.ReceiveDiagnosticResults.encode(allocation_length=255)))
    assert listed == bytes([0, 0, 0, 2, 0x00, 0x80])
    descriptor = send(drive, spc.ReadBuffer.encode(mode=3, buffer_id=1, allocation_length=4))
    assert data_of(descriptor) == bytes(4)  # BUFFER CAPACITY: LTFS writes a dump file of that length


@pytest.mark.parametrize(
    ("data", "byte"),
    [(bytes([0x80, 0, 0, 4, 0x01, 0x61, 0, 0]), 4), (bytes([0x80, 0, 0, 4, 0x00, 0x60, 0, 0]), 4),
     (bytes([0x80, 0, 0, 2, 0x01, 0x60]), 2), (bytes([0x80, 0, 0, 5, 0x01, 0x60, 0, 0, 0]), 2),
     (bytes([0x80, 0, 0, 6, 0x01, 0x60, 0, 0]), 2), (bytes([0x81, 0, 0, 4, 0x01, 0x60, 0, 0]), 0)],
)  # fmt: skip
def test_other_diagnostics_are_refused(make, data, byte):
    response = send_diagnostic(make("IBM ULT3580-TD8"), data)
    assert sense_of(response) == (5, 0x26, 0)
    assert response.sense[15] & 0x80
    assert int.from_bytes(response.sense[16:18], "big") == byte


@pytest.mark.parametrize("model", HP)
def test_other_makes_have_none_of_it(make, model):
    drive = make(model)
    assert sense_of(send_diagnostic(drive, FORCE_DUMP)) == (5, 0x26, 0)
    for page in (0x24, 0x25):
        assert sense_of(send(drive, spc.ModeSense10.encode(page_code=page, allocation_length=48))) == (5, 0x24, 0)
    assert data_of(send(drive, spc.ReceiveDiagnosticResults.encode(allocation_length=255))) == bytes([0, 0, 0, 1, 0])


@pytest.mark.parametrize("model", IBM)
def test_the_pages_that_ltfs_asks_for(make, model):
    drive = make(model)
    extensions = mode_sense_10(drive, 0x24, length=40)
    assert len(extensions) == 40
    methods = drive.model.block_protection_methods
    assert bool(extensions[0x12] & 0x40) is (REED_SOLOMON_CRC in methods)
    assert bool(extensions[0x12] & 0x20) is (CRC32C in methods)
    assert len(mode_sense_10(drive, 0x25, length=48)) == 48


def test_page_25_tells_the_density_and_takes_it_back(tmp_path):
    drives = loaded_drive(tmp_path, medium="LTO-7 M8")
    drive = next(drives)
    data = bytearray(mode_sense_10(drive, 0x25, length=48))
    assert data[26] == 0x5D
    data[0:2], data[16] = bytes(2), data[16] & 0x3F
    good(mode_select_10(drive, data))  # as tape_update_density() of LTFS does
    data[26] = 0x5E
    assert sense_of(mode_select_10(drive, data)) == (5, 0x26, 0)  # a medium has one density
    drives.close()


def test_the_self_test_asks_the_storage(drive):
    good(write(drive, b"x"))
    storage_fault("sync", errno.EIO)
    response = send(drive, spc.SendDiagnostic.encode(self_test=1))
    storage_faults_clear()
    assert sense_of(response) == (4, 0x3E, 3)
