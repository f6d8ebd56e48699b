"""Who the drive is and what it can do: INQUIRY, VPD, densities, block limits, supported commands, buffers."""

import pytest

from scsi_targets.devices.tape.models import DENSITIES, DRIVE_MODELS, drive_model
from scsi_targets.devices.tape.tape_drive import TapeDrive
from scsi_targets.t10 import spc, ssc
from scsi_targets.t10.ssc_pages import DensityDescriptor, MediumTypeDescriptor
from tests.unit.devices.support import BETA, data_of, send, sense_of
from tests.unit.devices.tape.support import good, make_cartridge, make_drive, quiet, send_slow


def inquiry(drive, page=None, length=255):
    fields = {} if page is None else {"enable_vital_product_data": 1, "page_code": page}
    return data_of(send(drive, spc.Inquiry.encode(allocation_length=length, **fields)))


@pytest.mark.parametrize("name", sorted(DRIVE_MODELS))
def test_every_model_introduces_itself(name):
    model = drive_model(name)
    drive = TapeDrive(model, "TB00000001")
    data = inquiry(drive)
    assert data[0:2] == bytes([0x01, 0x80])
    assert data[8:16].decode().strip() == model.vendor
    assert data[16:32].decode().strip() == model.product
    assert f"{model.vendor} {model.product}" == name
    assert data[32:36].decode() == model.revision
    drive.close()


def test_firmware_is_above_the_floors_of_ltfs():
    """LTFS compares the four characters with B170 (LTO-5) and HB81 (LTO-8); below means unsupported."""
    floors = {5: "B170", 8: "HB81"}
    for model in DRIVE_MODELS.values():
        if model.vendor == "IBM" and model.generation in floors:
            assert model.revision >= floors[model.generation]


def test_the_products_that_ltfs_knows():
    products = {(model.vendor, model.product) for model in DRIVE_MODELS.values()}
    for generation in range(5, 10):
        ibm = {f"{family}-{height}{generation}" for family in ("ULT3580", "ULTRIUM") for height in ("TD", "HH")}
        assert {("IBM", product) for product in ibm | {f"HH LTO Gen {generation}"}} <= products
        assert ("QUANTUM", f"ULTRIUM-HH{generation}") in products
        assert ("HP" if generation < 8 else "HPE", f"Ultrium {generation}-SCSI") in products


def test_an_unknown_model_is_named():
    with pytest.raises(ValueError, match=r"'IBM 3592-E07'.*IBM ULT3580-TD8"):
        drive_model("IBM 3592-E07")


def test_vpd_pages(drive):
    listed = inquiry(drive, 0)[4:]
    assert list(listed) == [0x00, 0x80, 0x83, 0x86, 0x87, 0x8F, 0xB0, 0xB1, 0xB2, 0xB3, 0xB4, 0xB5]
    for page in listed:
        assert inquiry(drive, page)[1] == page
    assert inquiry(drive, 0x80)[4:] == b"TB00000001"
    assert inquiry(drive, 0xB1)[4:] == b"TB00000001"
    assert inquiry(drive, 0xB4) == bytes([1, 0xB4, 0, 0])
    drive.installed("LIBRARY1", 257)
    assert inquiry(drive, 0xB3) == bytes([1, 0xB3, 0, 8]) + b"LIBRARY1"
    assert inquiry(drive, 0xB4) == bytes([1, 0xB4, 0, 2, 1, 1])


# ---- densities and limits ------------------------------------------------------------------------------------------


def densities(drive, **fields):
    cdb = ssc.ReportDensitySupport.encode(allocation_length=65535, **fields)
    data = data_of(send(drive, cdb))
    assert int.from_bytes(data[:2], "big") == len(data) - 2
    return data[4:]


def test_report_density_support_of_the_drive():
    drive = make_drive("IBM ULT3580-TD7")
    data = densities(drive)
    rows = [DensityDescriptor(data[at : at + 52]) for at in range(0, len(data), 52)]
    assert [(r.primary_density_code, r.write_ok, r.default) for r in rows] == [(0x58, 0, 0), (0x5A, 1, 0), (0x5C, 1, 1)]
    last = rows[-1]
    assert (last.bits_per_mm, last.media_width, last.tracks, last.capacity) == (19107, 127, 3584, 6_000_000)
    assert last.assigning_organization == b"LTO-CVE "
    assert last.density_name == b"U-732   "
    drive.close()


def test_report_density_support_of_the_medium(drive):
    data = densities(drive, media=1)
    assert len(data) == 52
    row = DensityDescriptor(data)
    assert (row.primary_density_code, row.write_ok, row.default, row.capacity) == (0x5E, 1, 1, 4)
    empty = make_drive()
    assert sense_of(send(empty, ssc.ReportDensitySupport.encode(media=1, allocation_length=255))) == (2, 0x3A, 0)
    empty.close()


def test_report_medium_types():
    drive = make_drive("IBM ULT3580-TD9")
    data = densities(drive, medium_type=1)
    rows = [MediumTypeDescriptor(data[at : at + 56]) for at in range(0, len(data), 56)]
    assert [row.medium_type for row in rows] == [0x88, 0x8C, 0x98, 0x9C]
    assert all(row.descriptor_length == 52 and row.medium_length in (960, 1035) for row in rows)
    drive.close()


def test_every_density_has_a_row():
    codes = {medium.density_code for model in DRIVE_MODELS.values() for medium in model.media}
    assert codes == set(DENSITIES)


def test_block_limits(drive):
    assert data_of(send(drive, ssc.ReadBlockLimits.encode())) == bytes([0, 0xFF, 0xFF, 0xFF, 0, 1])
    data = data_of(send(drive, ssc.ReadBlockLimits.encode(maximum_logical_object_identifier=1)))
    assert data == bytes(12) + b"\xff" * 8


def test_media_serial_number(drive):
    data = data_of(send(drive, ssc.ReadMediaSerialNumber.encode(allocation_length=255)))
    assert data[:4] == (32).to_bytes(4, "big")
    assert data[4:].decode() == drive.medium.uuid


def test_what_initiators_ask_for_is_supported(drive):
    wanted = bytes.fromhex("0001030405080a0b10111213151617191a1b1c1d1e2b343b3c444c4d5556575a5e5f828c8d9192a0a2a3a4abb5")
    data = data_of(send(drive, spc.ReportSupportedOperationCodes.encode(allocation_length=65535)))
    listed = {data[at] for at in range(4, len(data), 8)}
    assert listed >= set(wanted)


@pytest.mark.parametrize("opcode", [0x02, 0x0F, 0x14, 0x80, 0x88, 0x8A, 0x93, 0xC1])
def test_what_is_not_there_says_so(drive, opcode):
    assert sense_of(send(drive, bytes([opcode]))) == (5, 0x20, 0)


def test_every_operation_code_gets_an_answer(drive, tmp_path):
    """No CDB is an internal failure (04/44/00), and the drive goes on."""
    for opcode in range(256):
        for filler in (0x00, 0xFF):
            cdb = bytes([opcode]) + bytes([filler]) * 14 + b"\0"
            response = send_slow(drive, cdb, data_out=bytes(4096), data_in_limit=4096)
            if response.status == 2 and response.sense:
                key = response.sense[2] if response.sense[0] & 0x7F in (0x70, 0x71) else response.sense[1]
                assert key & 0x0F != 4, f"{opcode:02X}h"
    quiet(drive)
    if drive.medium is None:
        drive.load(drive.unload() if drive.cartridge else make_cartridge(tmp_path, "OTHER1L8"))


# ---- buffers and diagnostics ---------------------------------------------------------------------------------------


def test_echo_buffer_of_each_nexus(drive):
    assert sense_of(send(drive, spc.ReadBuffer.encode(mode=0x0A, allocation_length=10))) == (5, 0x2C, 0)
    good(send(drive, spc.WriteBuffer.encode(mode=0x0A, parameter_list_length=5), data=b"hello"))
    good(send(drive, spc.WriteBuffer.encode(mode=0x0A, parameter_list_length=5), data=b"other", nexus=BETA))
    assert data_of(send(drive, spc.ReadBuffer.encode(mode=0x0A, allocation_length=10))) == b"hello"
    descriptor = data_of(send(drive, spc.ReadBuffer.encode(mode=0x0B, allocation_length=4)))
    assert descriptor == bytes([1, 0, 0x10, 0])
    assert data_of(send(drive, spc.ReadBuffer.encode(mode=0x03, allocation_length=4))) == bytes(4)
    assert sense_of(send(drive, spc.ReadBuffer.encode(mode=0x02, allocation_length=4))) == (5, 0x24, 0)
    cdb = spc.WriteBuffer.encode(mode=0x0A, parameter_list_length=4097)
    assert sense_of(send(drive, cdb, data=bytes(4097))) == (5, 0x24, 0)


def test_diagnostics(drive):
    good(send(drive, spc.SendDiagnostic.encode(self_test=1)))
    data = data_of(send(drive, spc.ReceiveDiagnosticResults.encode(page_code_valid=1, allocation_length=255)))
    assert data == bytes([0, 0, 0, 2, 0x00, 0x80])
    cdb = spc.ReceiveDiagnosticResults.encode(page_code_valid=1, page_code=0x40, allocation_length=255)
    assert sense_of(send(drive, cdb)) == (5, 0x24, 0)


def test_reserve_excludes_writes_moves_and_mode_select(drive):
    good(send(drive, spc.Reserve6.encode()))
    for cdb in (ssc.Write6.encode(transfer_length=1), ssc.Rewind.encode(), ssc.LoadUnload.encode(),
                ssc.Read6.encode(transfer_length=1), bytes([0x15, 0x10, 0, 0, 12, 0])):  # fmt: skip
        assert send(drive, cdb, data=bytes(12), nexus=BETA).status == 0x18
    good(send(drive, spc.Release6.encode()))
    good(send(drive, ssc.Rewind.encode(), nexus=BETA))
