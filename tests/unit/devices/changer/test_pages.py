"""A media changer's mode pages, log pages and models."""

import itertools

import pytest

from scsi_targets.devices.changer.models import MODELS, find_model
from tests.unit.devices.changer.support import DRIVE, MAIL, SLOT, Library, move
from tests.unit.devices.support import data_of, send, sense_of
from vlib_images.library.inventory import Layout


@pytest.fixture
def library(tmp_path):
    library = Library(tmp_path)
    yield library
    library.close()


def mode_page(library, page, allocation=136):
    """As mtx asks: MODE SENSE(6), DBD."""
    data = data_of(send(library.changer, bytes([0x1A, 8, page, 0, allocation, 0])))
    assert (data[0], data[3]) == (len(data) - 1, 0)
    return data[4:]


def test_element_addresses(library):
    assert mode_page(library, 0x1D) == bytes.fromhex("9d12 0001 0001 1000 0004 0010 0002 0100 0002 0000")


def test_transport_geometry(library):
    assert mode_page(library, 0x1E) == bytes.fromhex("9e02 0000")


def test_capabilities(library, tmp_path):
    moves = "000e0e0e"
    assert mode_page(library, 0x1F) == bytes.fromhex(f"9f12 0e00 {moves} 00000000 {moves} 00000000")
    (tmp_path / "plain").mkdir()
    plain = Library(tmp_path / "plain", import_export=0)
    assert mode_page(plain, 0x1F) == bytes.fromhex("9f12 0a00 000a000a 00000000 000a000a 00000000")
    assert mode_page(plain, 0x1D)[10:14] == bytes(4)
    plain.close()


def test_pages_do_not_change(library):
    page = bytearray(mode_page(library, 0x1D))
    page[0] = 0x1D
    page[9] = 5
    cdb = bytes([0x15, 0x10, 0, 0, 24, 0])
    response = send(library.changer, cdb, data=bytes(4) + bytes(page))
    assert sense_of(response) == (5, 0x26, 0)
    assert response.sense[15:18] == bytes([0x80, 0, 13])


def log_page(library, page):
    data = data_of(send(library.changer, bytes([0x4D, 0, 0x40 | page, 0, 0, 0, 0, 0x10, 0, 0])))
    assert data[:2] == bytes([page, 0])
    assert int.from_bytes(data[2:4], "big") == len(data) - 4
    return data[4:]


def counts(library):
    data = log_page(library, 0x14)
    return {data[at + 1]: int.from_bytes(data[at + 4 : at + 8], "big") for at in range(0, len(data), 8)}


def test_what_the_robot_did_is_counted_over_restarts(library):
    send(library.changer, move(SLOT, DRIVE))
    send(library.changer, move(DRIVE, SLOT))
    library.robot.insert("A00009LX", MAIL)
    send(library.changer, bytes([0x37, 0, 0, 0, 0, 0, 0, 0, 0, 0]))
    send(library.changer, bytes([7, 0, 0, 0, 0, 0]))
    library.close()
    library.start()
    assert counts(library) == {0: 2, 1: 2, 2: 0, 3: 2, 4: 0, 7: 0, 8: 1, 9: 2, 10: 0}
    assert send(library.changer, bytes([0x4C, 2, 0x54, 0, 0, 0, 0, 0, 0, 0])).status == 0
    assert set(counts(library).values()) == {0}


def test_tape_alert_has_64_flags(library):
    data = log_page(library, 0x2E)
    assert data == b"".join(bytes([0, flag, 3, 1, 0]) for flag in range(1, 65))


def test_initialize_range_checks_its_start(library):
    assert send(library.changer, bytes([0xE7, 1, 0x10, 0, 0, 0, 0, 2, 0, 0x80])).status == 0
    assert sense_of(send(library.changer, bytes([0xE7, 1, 0x20, 0, 0, 0, 0, 2, 0, 0]))) == (5, 0x21, 1)


@pytest.mark.parametrize("name", MODELS)
def test_each_model_serves_at_its_own_addresses(name, tmp_path):
    model = find_model(name)
    library = Library(tmp_path, model)
    inquiry = data_of(send(library.changer, bytes([0x12, 0, 0, 0, 96, 0])))
    assert inquiry[:2] == bytes([0x08, 0x80])
    assert f"{inquiry[8:16].decode().rstrip()} {inquiry[16:32].decode().rstrip()}" == name
    assert send(library.changer, move(model.first_storage, model.first_drive, model.first_transport)).status == 0
    assert library.inventory.element(model.first_drive).barcode == "A00001L6"
    library.close()


def test_a_geometry_that_the_real_library_has_not_gets_addresses_without_overlap():
    ibm = MODELS["IBM 3573-TL"]
    small = ibm.layout(slots=20, import_export=2, drives=2)
    assert small == Layout(range(1, 2), range(4096, 4116), range(16, 18), range(256, 258))
    wide = ibm.layout(slots=20, import_export=1000, drives=2)
    assert wide == Layout(range(1, 2), range(4096, 4116), range(16, 1016), range(1016, 1018))
    hp = MODELS["HP MSL G3 Series"].layout(slots=20, import_export=2000, drives=120)
    assert hp == Layout(range(1), range(2121, 2141), range(121, 2121), range(1, 121))


@pytest.mark.parametrize("name", MODELS)
def test_every_model_takes_as_many_elements_as_smc_has(name):
    layout = MODELS[name].layout(slots=65_000, import_export=500, drives=34)
    runs = sorted((run for _, run in layout.ranges()), key=lambda run: run.start)
    assert sum(map(len, runs)) == 65_535
    assert runs[-1].stop <= 65_536
    assert all(before.stop <= after.start for before, after in itertools.pairwise(runs))


def test_a_model_says_what_does_not_fit():
    with pytest.raises(ValueError, match="65000 slots, 500 import/export slots and 35 drives are 65536 elements"):
        MODELS["HP MSL G3 Series"].layout(slots=65_000, import_export=500, drives=35)
    with pytest.raises(KeyError, match="IBM 3573-TL"):
        find_model("IBM 3573")


@pytest.mark.parametrize(
    ("name", "byte_6", "byte_55"),
    [("IBM 3573-TL", 0, 1), ("QUANTUM Scalar i6", 0x20, 1), ("ADIC Scalar i2000", 0x20, 1), ("STK L700", 0, 0)],
)
def test_models_say_where_theirs_do_that_they_read_bar_codes(name, byte_6, byte_55, tmp_path):
    library = Library(tmp_path, MODELS[name])
    inquiry = data_of(send(library.changer, bytes([0x12, 0, 0, 0, 96, 0])))
    assert (inquiry[6] & 0x20, inquiry[55]) == (byte_6, byte_55)
    library.close()
