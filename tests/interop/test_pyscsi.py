"""PySCSI's own initiator, over libiscsi, drives disk, changer and drive, as docs/pyscsi.md shows it."""

import random
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.appliance import Appliance, Disk
from tests.support.pyscsi_initiator import connected

pytest.importorskip("iscsi", reason="cython-iscsi is not installed")
BLOCK = 512
DOCUMENT = Path(__file__).parents[2] / "docs" / "pyscsi.md"
STORAGE, DATA_TRANSFER = 2, 4


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Appliance]:
    with Appliance(tmp_path, disks=[Disk("disk", "16 MiB")]) as running:
        yield running
    assert not running.problems(), running.log_text()


def test_a_disk(served: Appliance) -> None:
    data = bytearray(random.Random(1).randbytes(128 * BLOCK))
    with connected(served.url("disk"), BLOCK) as scsi:
        scsi.testunitready()
        inquiry = scsi.inquiry().result
        assert bytes(inquiry["t10_vendor_identification"]) == b"TAPEBAY "
        capacity = scsi.readcapacity16().result
        assert (capacity["returned_lba"] + 1) * capacity["block_length"] == 16 << 20
        for size, address in ((10, 0), (12, 1000), (16, 30_000)):
            getattr(scsi, f"write{size}")(address, 128, data)
            assert getattr(scsi, f"read{size}")(address, 128).datain == data
        # 2.1.0 takes each 8-byte entry for a number, and only the first half of the last one.
        shifts = (48, 48, 48, 16)
        assert scsi.reportluns().result["luns"] == [{f"lun{n}": n << shift} for n, shift in enumerate(shifts)]
        # A refused command: 2.1.0 is not given the sense data, and fails at that (TypeError) where it means to raise
        # CheckCondition; the session goes on.
        with pytest.raises(TypeError):
            scsi.read16(1 << 40, 1)
        assert scsi.read10(0, 128).datain == data
    assert served.image("disk").read_bytes()[: len(data)] == data


def test_the_changer_and_a_drive(served: Appliance) -> None:
    with connected(served.url("changer")) as changer, connected(served.url("drive0")) as drive:
        assert (changer.device.devicetype, drive.device.devicetype) == (8, 1)
        page = changer.modesense6(0x1D, dbd=1).result["mode_pages"][0]
        slot, bay = page["first_storage_element_address"], page["first_data_transfer_element_address"]
        slots = changer.readelementstatus(slot, 4, element_type=STORAGE, voltag=1).result["element_status_pages"][0]
        tags = [bytes(each["primary_volume_tag"][:8]).decode() for each in slots["element_descriptors"]]
        assert tags == ["TST001L6", "TST002L6", "TST003L6", "TST004L6"]
        changer.movemedium(0, slot + 1, bay)
        bays = changer.readelementstatus(bay, 1, element_type=DATA_TRANSFER, voltag=1).result["element_status_pages"][0]
        (loaded,) = bays["element_descriptors"]
        assert bytes(loaded["primary_volume_tag"][:8]) == b"TST002L6"
        assert loaded["source_storage_element_address"] == slot + 1
        with pytest.raises(TypeError):
            drive.testunitready()  # 28/00: not ready to ready change
        drive.testunitready()
        assert drive.modesense10(0x0A).result["mode_pages"][0]["page_code"] == 0x0A
        changer.movemedium(0, bay, slot + 1)
        with pytest.raises(TypeError):
            changer.movemedium(0, bay, slot + 1)  # the drive is empty
        serial = drive.inquiry(evpd=1, page_code=0x80, alloclen=252).result["unit_serial_number"]
        assert bytes(serial).decode().strip()


def test_the_examples_of_the_document_run(served: Appliance) -> None:
    """Every Python block of docs/pyscsi.md, one after the other, with this appliance's addresses."""
    blocks = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(), flags=re.DOTALL)
    assert len(blocks) >= 3
    names: dict[str, object] = {}
    for block in blocks:
        text = block
        for device, lun in (("changer", 0), ("drive0", 1), ("disk", 3)):
            text = text.replace(f"iscsi://192.0.2.10/iqn.2026-11.example:library/{lun}", served.url(device))
        exec(compile(text, str(DOCUMENT), "exec"), names)
    assert names["barcodes"] == ["TST001L6", "TST002L6", "TST003L6", "TST004L6"]
