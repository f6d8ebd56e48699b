"""PySCSI as the second opinion on what devices answer: its own SCSI class drives them, its decoders read INQUIRY,
VPD, READ CAPACITY, GET LBA STATUS, REPORT LUNS, MODE SENSE and READ ELEMENT STATUS.

What release 2.1.0 reads wrongly is said at the test that meets it. What only PySCSI's repository has is in
test_pyscsi_development.py.
"""

from pathlib import Path
from typing import Any

import pytest
from pyscsi.pyscsi.scsi import SCSI
from pyscsi.pyscsi.scsi_cdb_inquiry import Inquiry

from scsi_targets.devices.tape.models import drive_model
from scsi_targets.t10 import spc
from scsi_targets.t10.mode_pages import ControlModePage
from tests.unit.devices.changer.support import Library
from tests.unit.devices.disk.support import BLOCKS, make_disk, pattern
from tests.unit.devices.pyscsi_local import Local, Refused
from tests.unit.devices.support import data_of, send
from tests.unit.devices.tape.support import loaded_drive, make_drive


@pytest.fixture
def disk(tmp_path: Path) -> Any:
    return SCSI(Local(make_disk(tmp_path)), blocksize=512)


@pytest.fixture
def tape(tmp_path: Path) -> Any:
    drives = loaded_drive(tmp_path)
    yield SCSI(Local(next(drives)))
    drives.close()


@pytest.fixture
def changer(tmp_path: Path) -> Any:
    library = Library(tmp_path)
    scsi = SCSI(Local(library.changer))
    scsi.layout = library.layout
    yield scsi
    library.close()


# ---- INQUIRY and VPD -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "device_type", "removable"), [("disk", 0, 0), ("tape", 1, 1), ("changer", 8, 1)])
def test_standard_inquiry(request: Any, kind: str, device_type: int, removable: int) -> None:
    scsi = request.getfixturevalue(kind)
    unit = scsi.device.unit
    found = scsi.inquiry().result
    raw = data_of(send(unit, spc.Inquiry.encode(allocation_length=96)))
    assert found["peripheral_device_type"] == scsi.device.devicetype == device_type
    assert (found["peripheral_qualifier"], found["rmb"]) == (0, removable)
    assert found["version"] == raw[2] and found["response_data_format"] == 2
    assert found["additional_length"] == raw[4]
    assert bytes(found["t10_vendor_identification"]) == unit.identity.vendor.encode().ljust(8)
    assert bytes(found["product_identification"]) == unit.identity.product.encode().ljust(16)
    assert bytes(found["product_revision_level"]) == unit.identity.revision.encode().ljust(4)
    assert found["cmdque"] == raw[7] >> 1 & 1
    assert (found["3pc"], found["protect"], found["tpgs"]) == (raw[5] >> 3 & 1, raw[5] & 1, raw[5] >> 4 & 3)


@pytest.mark.parametrize("kind", ["disk", "tape", "changer"])
def test_vital_product_data(request: Any, kind: str) -> None:
    scsi = request.getfixturevalue(kind)
    unit = scsi.device.unit
    pages = scsi.inquiry(evpd=1, page_code=0x00, alloclen=252).result["vpd_pages"]
    assert pages == sorted(pages) and {0x00, 0x80, 0x83} <= set(pages)
    serial = scsi.inquiry(evpd=1, page_code=0x80, alloclen=252).result["unit_serial_number"]
    assert bytes(serial).decode().strip() == unit.identity.serial_number
    descriptors = scsi.inquiry(evpd=1, page_code=0x83, alloclen=1024).result["designator_descriptors"]
    raw = data_of(send(unit, spc.Inquiry.encode(enable_vital_product_data=1, page_code=0x83, allocation_length=1024)))
    assert sum(4 + each["designator_length"] for each in descriptors) == len(raw) - 4
    by_type = {(each["association"], each["designator_type"]): each for each in descriptors}
    naa = by_type[0, 3]["designator"]
    assert naa["naa"] in (3, 5, 6)
    assert by_type[0, 3]["code_set"] == 1
    vendor = by_type[0, 1]["designator"]["t10_vendor_id"]
    assert bytes(vendor) == unit.identity.vendor.encode().ljust(8)
    for (association, _), each in by_type.items():
        assert ("protocol_identifier" in each) is (association != 0)  # iSCSI, of ports and devices
        assert each.get("protocol_identifier", 5) == 5
    if 0x86 in pages:
        extended = scsi.inquiry(evpd=1, page_code=0x86, alloclen=64).result
        assert extended["spt"] == (1 if kind == "tape" else 0)


def test_block_limits_and_provisioning(disk: Any) -> None:
    unit = disk.device.unit
    limits = disk.inquiry(evpd=1, page_code=0xB0, alloclen=64).result
    raw = data_of(send(unit, spc.Inquiry.encode(enable_vital_product_data=1, page_code=0xB0, allocation_length=64)))
    for name, at, size in (("max_caw_len", 5, 1), ("opt_xfer_len_gran", 6, 2), ("max_xfer_len", 8, 4),
                           ("opt_xfer_len", 12, 4), ("max_unmap_lba_count", 20, 4), ("max_unmap_bd_count", 24, 4),
                           ("opt_unmap_gran", 28, 4)):  # fmt: skip
        assert limits[name] == int.from_bytes(raw[at : at + size], "big"), name
    # 2.1.0 reads MAXIMUM WRITE SAME LENGTH as 4 bytes; it has 8 (SBC-4 6.6.4).
    assert limits["max_ws_len"] == int.from_bytes(raw[36:40], "big")
    characteristics = disk.inquiry(evpd=1, page_code=0xB1, alloclen=64).result
    assert characteristics["medium_rotation_rate"] == 1  # non-rotating
    provisioning = disk.inquiry(evpd=1, page_code=0xB2, alloclen=64).result
    raw = data_of(send(unit, spc.Inquiry.encode(enable_vital_product_data=1, page_code=0xB2, allocation_length=64)))
    assert (provisioning["lbpu"], provisioning["lpbws"], provisioning["lbpws10"]) == tuple(
        raw[5] >> n & 1 for n in (7, 6, 5)
    )
    assert provisioning["provisioning_type"] == raw[6] & 7


# ---- disks -----------------------------------------------------------------------------------------------------------


def test_a_disk_is_read_and_written(disk: Any) -> None:
    assert disk.readcapacity10().result == {"returned_lba": BLOCKS - 1, "block_length": 512}
    capacity = disk.readcapacity16().result
    assert (capacity["returned_lba"], capacity["block_length"]) == (BLOCKS - 1, 512)
    assert (capacity["lbpme"], capacity["prot_en"]) == (1, 0)
    for size in (10, 12, 16):
        getattr(disk, f"write{size}")(size, 2, bytearray(pattern(size) + pattern(size + 1)))
        assert bytes(getattr(disk, f"read{size}")(size, 2).datain) == pattern(size) + pattern(size + 1)
    disk.writesame10(100, 3, bytearray(pattern(7)))
    disk.writesame16(103, 2, bytearray(pattern(7)))
    assert bytes(disk.read10(100, 5).datain) == pattern(7) * 5
    mapped = disk.getlbastatus(100).result["lbas"]
    assert mapped[0]["lba"] == 100 and mapped[0]["p_status"] == 0
    assert sum(each["num_blocks"] for each in mapped) <= BLOCKS - 100


def test_report_luns(disk: Any) -> None:
    # 2.1.0 numbers the entries in their names (tests/interop/test_pyscsi.py says more).
    assert disk.reportluns().result["luns"] == [{"lun0": 0}]


# ---- mode pages ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["disk", "tape", "changer"])
@pytest.mark.parametrize("size", [6, 10])
@pytest.mark.parametrize("without_descriptor", [0, 1])
def test_the_control_mode_page(request: Any, kind: str, size: int, without_descriptor: int) -> None:
    scsi = request.getfixturevalue(kind)
    page = getattr(scsi, f"modesense{size}")(0x0A, dbd=without_descriptor).result["mode_pages"][0]
    ours = ControlModePage(ControlModePage.encode())
    assert page["page_code"] == 0x0A
    assert (page["d_sense"], page["tst"], page["qerr"]) == (0, ours.task_set_type, ours.queue_error_management)
    assert page["queue_algorithm_modifier"] == ours.queue_algorithm_modifier


@pytest.mark.parametrize("kind", ["disk", "tape", "changer"])
def test_a_mode_page_is_changed(request: Any, kind: str) -> None:
    scsi = request.getfixturevalue(kind)
    found = scsi.modesense6(0x0A, dbd=1).result
    page = found["mode_pages"][0] | {"d_sense": 1, "ps": 0}
    header = {"medium_type": 0, "device_specific_parameter": found["device_specific_parameter"] & 0x70}  # buffered mode
    # modeselect6() of 2.1.0 fails when the command has been executed: it wants to decode a Data-In that there is not.
    with pytest.raises(NotImplementedError):
        scsi.modeselect6(header | {"mode_pages": [page]})
    assert scsi.device.unit.descriptor_sense is True
    assert scsi.modesense6(0x0A, dbd=1).result["mode_pages"][0]["d_sense"] == 1


def test_the_element_address_assignment_page(changer: Any) -> None:
    page = changer.modesense6(0x1D, dbd=1).result["mode_pages"][0]
    layout = changer.layout
    assert page["first_storage_element_address"] == layout.storage[0]
    assert page["num_storage_elements"] == len(layout.storage)
    assert page["first_import_element_address"] == layout.import_export[0]
    assert page["num_import_elements"] == len(layout.import_export)
    assert page["first_data_transfer_element_address"] == layout.drives[0]
    assert page["num_data_transfer_elements"] == len(layout.drives)


# ---- the changer -----------------------------------------------------------------------------------------------------

STORAGE, IMPORT_EXPORT, DATA_TRANSFER = 2, 3, 4


def elements(changer: Any, element_type: int) -> dict[int, dict[str, Any]]:
    """One type at a time: 2.1.0 keeps three bits of the element type and reads the types it knows."""
    found = changer.readelementstatus(0, 0xFFFF, element_type=element_type, voltag=1, alloclen=0xFFFF).result
    (page,) = found["element_status_pages"]
    assert page["element_type"] == element_type and page["pvoltag"] == 1
    return {each["element_address"]: each for each in page["element_descriptors"]}


def test_elements_are_read_and_moved(changer: Any) -> None:
    layout = changer.layout
    slots = elements(changer, STORAGE)
    assert list(slots) == list(layout.storage)
    barcodes = [bytes(each["primary_volume_tag"][:32]).decode().strip() for each in slots.values() if each["full"]]
    assert barcodes == ["A00001L6", "A00002L6", "CLN001L1"]
    assert all(each["access"] for each in slots.values())
    source, drive = layout.storage[0], layout.drives[0]
    changer.positiontoelement(0, source)
    changer.movemedium(0, source, drive)
    loaded = elements(changer, DATA_TRANSFER)[drive]
    assert (loaded["full"], loaded["svalid"], loaded["source_storage_element_address"]) == (1, 1, source)
    assert bytes(loaded["primary_volume_tag"][:8]) == b"A00001L6"
    mail = elements(changer, IMPORT_EXPORT)
    assert {(each["inenab"], each["exenab"], each["access"]) for each in mail.values()} == {(1, 1, 1)}
    changer.initializeelementstatus()
    changer.initializeelementstatuswithrange(layout.storage[0], 2, rng=1, fast=1)
    with pytest.raises(Refused) as refused:
        changer.movemedium(0, source, layout.drives[1])
    assert refused.value.args == ((5, 0x3B, 0x0E),)


def test_prevent_and_allow(tape: Any) -> None:
    tape.testunitready()
    tape.preventallowmediumremoval(prevent=1)
    assert tape.device.unit.removal_prevented
    tape.preventallowmediumremoval(prevent=0)
    assert not tape.device.unit.removal_prevented


@pytest.mark.parametrize("model", ["IBM ULT3580-TD8", "HP Ultrium 6-SCSI", "QUANTUM ULTRIUM-HH9"])
def test_every_model_of_drive_is_a_tape_to_pyscsi(model: str) -> None:
    drive = make_drive(model)
    scsi = SCSI(Local(drive))
    assert scsi.device.devicetype == 1
    assert bytes(scsi.inquiry().result["product_identification"]).decode().strip() == drive_model(model).product
    drive.close()


def test_the_decoder_of_inquiry_agrees_with_itself(tape: Any) -> None:
    """Marshalled again, what it read is what the drive said, in the fields that it knows."""
    read = tape.inquiry().result
    again = Inquiry.unmarshall_datain(Inquiry.marshall_datain(read))
    assert again == read
