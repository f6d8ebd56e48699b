"""READ ELEMENT STATUS, byte for byte, and the volume tag search."""

import random
import threading
import time

import pytest

from scsi_targets.devices.changer.models import MODELS
from scsi_targets.devices.changer.status import medium_type
from scsi_targets.t10 import smc
from tests.unit.devices.changer.support import DRIVE, MAIL, SLOT, Library, move, status
from tests.unit.devices.support import ALPHA, BETA, data_of, send, sense_of


@pytest.fixture
def library(tmp_path):
    library = Library(tmp_path)
    yield library
    library.close()


def tag(barcode):
    return barcode.encode().ljust(32) + bytes(4) if barcode else bytes(36)


def test_storage_elements_with_volume_tags(library):
    data = data_of(send(library.changer, status(volume_tag=1, element_type_code=smc.STORAGE)))
    assert data[:16] == bytes.fromhex("1000 0004 00 0000d8  02 80 0034 00 0000d0")
    assert len(data) == 8 + 0xD8
    first = bytes.fromhex("1000 09 00 00 00 000000 01 0000") + tag("A00001L6") + bytes(4)
    cleaning = bytes.fromhex("1002 09 00 00 00 000000 02 0000") + tag("CLN001L1") + bytes(4)
    empty = bytes.fromhex("1003 08 00 00 00 000000 00 0000") + tag(None) + bytes(4)
    assert data[16 : 16 + 52] == first
    assert data[16 + 104 :] == cleaning + empty


def test_every_type_has_its_page_in_order_of_address(library):
    data = data_of(send(library.changer, status()))
    assert data[:8] == bytes.fromhex("0001 0009 00") + (len(data) - 8).to_bytes(3, "big")
    at, pages = 8, []
    while at < len(data):
        page = smc.ElementStatusPageHeader.decode(data[at:])
        pages.append((page.element_type_code, page.byte_count // page.element_descriptor_length))
        assert (page.element_descriptor_length, page.primary_volume_tag) == (16, 0)
        at += 8 + page.byte_count
    assert pages == [(smc.TRANSPORT, 1), (smc.IMPORT_EXPORT, 2), (smc.DATA_TRANSFER, 2), (smc.STORAGE, 4)]


def test_start_and_number_choose_by_address(library):
    data = data_of(send(library.changer, status(starting_element_address=DRIVE + 1, number_of_elements=2)))
    assert data[:4] == bytes.fromhex("0101 0002")
    assert [data[8], data[16:18].hex(), data[32], data[40:42].hex()] == [4, "0101", 2, "1000"]
    assert data_of(send(library.changer, status(starting_element_address=0x2000))) == bytes(8)


def test_an_allocation_length_cuts_between_descriptors_and_counts_stay(library):
    whole = data_of(send(library.changer, status(volume_tag=1, element_type_code=smc.STORAGE)))
    for allocation, length in ((0, 0), (5, 5), (8, 8), (15, 8), (16, 16), (67, 16), (68, 68), (0xD8, 172), (224, 224)):
        cdb = status(volume_tag=1, element_type_code=smc.STORAGE, allocation_length=allocation)
        assert data_of(send(library.changer, cdb)) == whole[:length], allocation


def test_drives_name_themselves_when_asked(library):
    send(library.changer, move(SLOT, DRIVE + 1))
    data = data_of(send(library.changer, status(volume_tag=1, device_identifier=1, element_type_code=4)))
    assert data[:16] == bytes.fromhex("0100 0002 00 0000b4  04 80 0056 00 0000ac")
    first, second = data[16 : 16 + 86], data[16 + 86 :]
    assert first[:12] == bytes.fromhex("0100 08 00 00 00 000000 00 0000")
    assert first[48:] == bytes.fromhex("02 01 00 22") + b"IBM     ULT3580-TD6     10WT000000"
    assert second == (
        bytes.fromhex("0101 01 00 00 00 000000 81 1000")  # full, not accessible: it is threaded; from slot 1000h
        + tag("A00001L6")
        + bytes.fromhex("02 01 00 22")
        + b"IBM     ULT3580-TD6     10WT000001"
    )
    library.bays[DRIVE + 1].ejected = True
    data = data_of(send(library.changer, status(element_type_code=4, starting_element_address=DRIVE + 1)))
    assert data[18] == 0x09


def test_a_serial_number_is_another_librarys_way(tmp_path):
    library = Library(tmp_path, MODELS["STK L700"])
    data = data_of(send(library.changer, status(device_identifier=1, element_type_code=4)))
    assert data[8:16] == bytes.fromhex("04 00 001a 00 000034")
    assert data[16:42] == bytes.fromhex("01f4 08 00 00 00 000000 00 0000 02 00 00 0a") + b"10WT000000"
    library.close()


def test_import_export_elements_tell_who_put_it_there(library):
    library.robot.insert("A00009LX", MAIL)
    data = data_of(send(library.changer, status(element_type_code=smc.IMPORT_EXPORT)))
    assert data[16:28] == bytes.fromhex("0010 3b 00 00 00 000000 04 0000")  # LX: a WORM cartridge
    assert data[32:44] == bytes.fromhex("0011 38 00 00 00 000000 00 0000")
    assert send(library.changer, move(MAIL, MAIL + 1)).status == 0
    data = data_of(send(library.changer, status(element_type_code=smc.IMPORT_EXPORT)))
    assert data[32:44] == bytes.fromhex("0011 39 00 00 00 000000 84 0010")


def test_a_cartridge_back_in_its_slot_came_from_nowhere_else(library):
    for there in (DRIVE, MAIL):
        send(library.changer, move(SLOT, there))
        send(library.changer, move(there, SLOT + 3))
        data = data_of(send(library.changer, status(element_type_code=2, starting_element_address=SLOT + 3)))
        assert data[25] & 0x80
        send(library.changer, move(SLOT + 3, SLOT))
    send(library.changer, move(SLOT, DRIVE))
    send(library.changer, move(DRIVE, SLOT))
    data = data_of(send(library.changer, status(element_type_code=2, number_of_elements=1)))
    assert data[25:28] == bytes.fromhex("01 0000")


def test_one_place_judges_bar_codes():
    """READ ELEMENT STATUS and the drive take a cartridge for the same."""
    kinds = {
        "CLN001L1": 2,
        "CLNU01CU": 2,
        "CLNABCL8": 1,
        "CLNABC": 1,
        "A00001L6": 1,
        "A00001LX": 4,
        "WHATEVER-IT-IS": 1,
    }
    assert {barcode: medium_type(barcode) for barcode in kinds} == kinds


def test_ten_thousand_elements_are_told_quickly_and_a_header_at_once(tmp_path):
    library = Library(tmp_path, slots=10_000)

    def cost(**fields):
        times = []
        for _ in range(5):
            began = time.perf_counter()
            data_of(send(library.changer, status(volume_tag=1, device_identifier=1, **fields), limit=1 << 24))
            times.append(time.perf_counter() - began)
        return min(times)

    whole = cost(allocation_length=0xFFFFFF)
    header, ten = cost(allocation_length=8), cost(number_of_elements=10, starting_element_address=SLOT + 9000)
    data = data_of(send(library.changer, status(volume_tag=1, allocation_length=8)))
    assert data == bytes.fromhex("0001 2715 00") + (4 * 8 + 10_005 * 52).to_bytes(3, "big")
    assert header < whole / 20
    assert ten < whole / 20
    library.close()


def test_element_status_holds_up_nobody(library, monkeypatch):
    asked, go_on = threading.Event(), threading.Event()
    elements = library.inventory.elements

    def slow(*arguments):
        asked.set()
        assert go_on.wait(60)
        return elements(*arguments)

    monkeypatch.setattr(library.inventory, "elements", slow)
    reader = threading.Thread(target=send, args=(library.changer, status()))
    reader.start()
    assert asked.wait(60)
    assert send(library.changer, bytes(6)).status == 0
    go_on.set()
    reader.join(60)
    assert not reader.is_alive()


def test_what_the_cdb_gets_wrong(library):
    response = send(library.changer, status(element_type_code=5))
    assert sense_of(response) == (5, 0x24, 0)
    assert response.sense[15:18] == bytes([0xCB, 0, 1])


def test_a_reservation_leaves_current_data_readable(library):
    library.changer.nexus_established(BETA)
    send(library.changer, bytes(6), nexus=BETA)
    assert send(library.changer, bytes([0x16, 0, 0, 0, 0, 0]), nexus=ALPHA).status == 0
    assert send(library.changer, status(), nexus=BETA).status == 0x18
    assert send(library.changer, status(current_data=1, device_identifier=1), nexus=BETA).status == 0x18
    assert len(data_of(send(library.changer, status(current_data=1), nexus=BETA))) == 8 + 4 * 8 + 9 * 16


def search(library, template, action=5, kind=0, start=0, low=0, high=0):
    body = template.encode().ljust(32) + bytes(2) + low.to_bytes(2, "big") + bytes(2) + high.to_bytes(2, "big")
    cdb = smc.SendVolumeTag.encode(
        element_type_code=kind,
        starting_element_address=start,
        send_action_code=action,
        parameter_list_length=40,
    )
    return send(library.changer, cdb, data=body)


REQUEST = smc.RequestVolumeElementAddress.encode(volume_tag=1, number_of_elements=0xFFFF, allocation_length=0xFFFF)


def test_volume_tags_are_found_by_template(library):
    assert sense_of(send(library.changer, REQUEST)) == (5, 0x2C, 0)
    assert search(library, "A0000?L*").status == 0
    data = data_of(send(library.changer, REQUEST))
    assert data[:16] == bytes.fromhex("1000 0002 05 000070  02 80 0034 00 000068")
    assert [data[16:18].hex(), data[68:70].hex()] == ["1000", "1001"]
    assert search(library, "CLN*", action=0, start=SLOT + 2).status == 0
    assert data_of(send(library.changer, REQUEST))[:4] == bytes.fromhex("1002 0001")
    assert search(library, "*", action=1, low=1, high=9).status == 0
    assert data_of(send(library.changer, REQUEST)) == bytes.fromhex("0000 0000 01 000000")
    assert sense_of(search(library, "*", action=8)) == (5, 0x24, 0)
    send(library.changer, move(SLOT, DRIVE))
    assert search(library, "A00001L6", kind=smc.DATA_TRANSFER).status == 0
    assert data_of(send(library.changer, REQUEST))[:5] == bytes.fromhex("0100 0001 05")


def test_no_cdb_makes_the_changer_fail_inside(library):
    """Every operation code with noise behind it: an answer, and never HARDWARE ERROR, INTERNAL TARGET FAILURE."""
    noise = random.Random(5)
    for opcode in range(256):
        for _ in range(12):
            fields = bytes(noise.choice((0, 0, 1, 2, 0x10, 0x0F, 0xFF, noise.randrange(256))) for _ in range(11))
            response = send(library.changer, bytes([opcode]) + fields, data=noise.randbytes(64), limit=4096)
            assert not response.sense or sense_of(response) != (4, 0x44, 0), (opcode, fields.hex())
