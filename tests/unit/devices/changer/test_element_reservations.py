"""Element reservations (RESERVE ELEMENT, opcodes 16h and 56h with the ELEMENT bit): a media changer is reserved whole
or not at all, and says so. SMC-2 6.6 makes them optional, SMC-3 knows only reservations of the logical unit."""

import pytest

from tests.unit.devices.changer.support import DRIVE, SLOT, Library, move
from tests.unit.devices.support import ALPHA, BETA, send, sense_of

ELEMENTS = bytes([0, 0, 0, 2, 0x10, 0x00])  # two elements from 1000h on
COMMANDS = {
    "RESERVE(6)": bytes([0x16, 0x01, 0, 0, 6, 0]),
    "RELEASE(6)": bytes([0x17, 0x01, 0, 0, 0, 0]),
    "RESERVE(10)": bytes([0x56, 0x01, 0, 0, 0, 0, 0, 0, 6, 0]),
    "RELEASE(10)": bytes([0x57, 0x01, 0, 0, 0, 0, 0, 0, 0, 0]),
}


@pytest.fixture
def library(tmp_path):
    library = Library(tmp_path)
    yield library
    library.close()


@pytest.mark.parametrize("cdb", COMMANDS.values(), ids=COMMANDS)
def test_elements_are_not_reserved_one_by_one(library, cdb):
    response = send(library.changer, cdb, data=ELEMENTS if cdb[0] in (0x16, 0x56) else None)
    assert sense_of(response) == (5, 0x24, 0)
    assert response.sense[15:18] == bytes([0xC8, 0, 1])  # in the CDB, bit 0 of byte 1
    assert send(library.changer, move(SLOT, DRIVE), nexus=BETA).status == 0, "and nobody is kept out by it"


def test_the_whole_changer_is(library):
    assert send(library.changer, bytes([0x16, 0, 0, 0, 0, 0]), nexus=ALPHA).status == 0
    assert send(library.changer, move(SLOT, DRIVE), nexus=BETA).status == 0x18
    assert send(library.changer, bytes([0x17, 0x01, 0, 0, 0, 0]), nexus=ALPHA).status == 2
    assert send(library.changer, move(SLOT, DRIVE), nexus=BETA).status == 0x18, "a refused RELEASE releases nothing"
