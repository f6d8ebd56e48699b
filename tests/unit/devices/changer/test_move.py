"""MOVE MEDIUM and EXCHANGE MEDIUM: what they do, what they refuse, what a crash or a bad cartridge leaves."""

import threading

import pytest

from scsi_targets.devices.changer.models import MODELS, ChangerModel
from scsi_targets.devices.unit.task import Task
from scsi_targets.t10 import sense, smc
from tests.unit.devices.changer.support import DRIVE, MAIL, SLOT, Library, move, status
from tests.unit.devices.support import ALPHA, BETA, data_of, send, sense_of
from vlib_images.library.database import events


@pytest.fixture
def library(tmp_path):
    library = Library(tmp_path)
    yield library
    library.close()


def place(library, barcode):
    element = library.inventory.find(barcode)
    return element.address if element else None


def test_a_cartridge_is_loaded_and_comes_back(library):
    assert send(library.changer, move(SLOT, DRIVE, transport=1)).status == 0
    tape = library.bays[DRIVE].cartridge
    assert (tape.barcode, place(library, "A00001L6")) == ("A00001L6", DRIVE)
    assert send(library.changer, move(DRIVE, SLOT + 3)).status == 0
    assert (library.bays[DRIVE].cartridge, tape.closed, place(library, "A00001L6")) == (None, True, SLOT + 3)


def test_from_drive_to_drive_the_cartridge_stays_open(library):
    send(library.changer, move(SLOT, DRIVE))
    assert send(library.changer, move(DRIVE, DRIVE + 1)).status == 0
    assert [tape.closed for tape in library.opened] == [False]
    assert library.bays[DRIVE + 1].cartridge is library.opened[0]
    assert library.inventory.element(DRIVE + 1).source == SLOT


def test_moving_to_the_same_drive_loads_again(library):
    send(library.changer, move(SLOT, DRIVE))
    library.bays[DRIVE].ejected = True
    assert send(library.changer, move(DRIVE, DRIVE)).status == 0
    assert not library.bays[DRIVE].ejected


def test_moving_a_loaded_cartridge_to_its_own_drive_leaves_it_to_its_user(library):
    send(library.changer, move(SLOT, DRIVE))
    tape = library.bays[DRIVE].cartridge
    library.bays[DRIVE].removal_prevented = True
    assert send(library.changer, move(DRIVE, DRIVE)).status == 0
    assert library.bays[DRIVE].cartridge is tape
    assert library.opened == [tape]


def test_refusals_change_nothing(library):
    send(library.changer, move(SLOT, DRIVE))
    before = library.inventory.elements()
    cases = [
        (move(SLOT, DRIVE + 1), (5, 0x3B, 0x0E), b"\0\0\0"),  # source empty
        (move(SLOT + 1, DRIVE), (5, 0x3B, 0x0D), b"\0\0\0"),  # destination full
        (move(DRIVE, SLOT + 1), (5, 0x3B, 0x0D), b"\0\0\0"),
        (move(99, DRIVE + 1), (5, 0x21, 0x01), bytes([0xCF, 0, 4])),
        (move(SLOT + 1, 99), (5, 0x21, 0x01), bytes([0xCF, 0, 6])),
        (move(SLOT + 1, 1), (5, 0x21, 0x01), bytes([0xCF, 0, 6])),  # the transport stores nothing
        (move(SLOT + 1, SLOT + 3, transport=SLOT), (5, 0x21, 0x01), bytes([0xCF, 0, 2])),
        (move(SLOT + 1, SLOT + 3, invert=1), (5, 0x24, 0x00), bytes([0xC8, 0, 10])),
    ]
    for cdb, expected, specific in cases:
        response = send(library.changer, cdb)
        assert sense_of(response) == expected, cdb.hex()
        assert response.sense[15:18] == specific, cdb.hex()
    assert library.inventory.elements() == before
    assert library.bays[DRIVE].cartridge.barcode == "A00001L6"


def test_a_host_that_prevents_removal_keeps_its_cartridge(library):
    send(library.changer, move(SLOT, DRIVE))
    library.bays[DRIVE].removal_prevented = True
    assert sense_of(send(library.changer, move(DRIVE, SLOT))) == (5, 0x53, 0x02)
    assert place(library, "A00001L6") == DRIVE
    library.bays[DRIVE].removal_prevented = False
    assert send(library.changer, move(DRIVE, SLOT)).status == 0


def test_a_library_that_does_not_unload_waits_for_the_host(tmp_path, monkeypatch):
    model = ChangerModel("IBM", "3573-TL", "F.11", 1, 4096, 16, 256, unloads_drives=False)
    monkeypatch.setitem(MODELS, model.name, model)
    library = Library(tmp_path, model)
    send(library.changer, move(SLOT, DRIVE))
    assert sense_of(send(library.changer, move(DRIVE, SLOT))) == (5, 0x53, 0x02)
    library.bays[DRIVE].ejected = True
    assert send(library.changer, move(DRIVE, SLOT)).status == 0
    library.close()


def test_a_busy_drive_fails_the_move_and_nothing_moved(library):
    send(library.changer, move(SLOT, DRIVE))
    assert library.bays[DRIVE].occupy(1)
    assert sense_of(send(library.changer, move(DRIVE, SLOT))) == (5, 0x53, 0x02)
    library.bays[DRIVE].vacate()
    assert place(library, "A00001L6") == DRIVE
    assert send(library.changer, move(DRIVE, SLOT)).status == 0


def test_an_exchange_with_one_busy_drive_leaves_the_other_alone(library):
    send(library.changer, move(SLOT, DRIVE))
    send(library.changer, move(SLOT + 1, DRIVE + 1))
    tapes = [bay.cartridge for bay in library.bays.values()]
    for bay in library.bays.values():
        bay.ejected = True
    assert library.bays[DRIVE + 1].occupy(1)
    assert sense_of(send(library.changer, exchange(DRIVE, DRIVE + 1, SLOT))) == (5, 0x53, 0x02)
    library.bays[DRIVE + 1].vacate()
    assert [(bay.cartridge, bay.ejected) for bay in library.bays.values()] == [(tape, True) for tape in tapes]
    assert send(library.changer, exchange(DRIVE, DRIVE + 1, DRIVE)).status == 0
    assert [bay.cartridge for bay in library.bays.values()] == tapes[::-1]


def test_a_drive_that_cannot_unload_keeps_the_cartridge(library):
    send(library.changer, move(SLOT, DRIVE))
    library.bays[DRIVE].fails = sense.WRITE_ERROR
    assert sense_of(send(library.changer, move(DRIVE, SLOT))) == (4, 0x53, 0x00)
    assert place(library, "A00001L6") == DRIVE
    assert library.bays[DRIVE].cartridge is not None
    alerts = data_of(send(library.changer, bytes([0x4D, 0, 0x6E, 0, 0, 0, 0, 2, 0, 0])))
    assert alerts[4:9] == bytes([0, 1, 3, 1, 1])


def test_an_unreadable_cartridge_stays_in_its_slot(library):
    library.unreadable.add("A00001L6")
    assert sense_of(send(library.changer, move(SLOT, DRIVE))) == (4, 0x53, 0x00)
    assert place(library, "A00001L6") == SLOT


def test_a_medium_that_the_drive_cannot_read_stays_where_it_is(library):
    library.bays[DRIVE].refuses = "A00001L6"
    assert sense_of(send(library.changer, move(SLOT, DRIVE))) == (5, 0x30, 0x00)
    assert (place(library, "A00001L6"), library.opened[0].closed) == (SLOT, True)
    send(library.changer, move(SLOT, DRIVE + 1))
    assert sense_of(send(library.changer, move(DRIVE + 1, DRIVE))) == (5, 0x30, 0x00)
    assert library.bays[DRIVE + 1].cartridge.barcode == "A00001L6"


def test_a_drive_that_cannot_load_has_an_exception_until_it_is_emptied(library):
    library.bays[DRIVE].fails = sense.MEDIUM_FORMAT_CORRUPTED
    assert sense_of(send(library.changer, move(SLOT, DRIVE))) == (4, 0x53, 0x00)
    assert (place(library, "A00001L6"), library.opened[0].closed) == (DRIVE, True)
    data = data_of(send(library.changer, status(element_type_code=4, number_of_elements=1)))
    assert data[16:22] == bytes.fromhex("0100 0d 00 53 00")
    library.bays[DRIVE].fails = None
    assert send(library.changer, move(DRIVE, SLOT)).status == 0
    data = data_of(send(library.changer, status(element_type_code=4, number_of_elements=1)))
    assert data[16:22] == bytes.fromhex("0100 08 00 00 00")


def test_storage_that_fails_puts_the_cartridge_back_into_the_drive(library, monkeypatch):
    send(library.changer, move(SLOT, DRIVE))
    tape = library.bays[DRIVE].cartridge

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(library.database, "change", full)
    assert sense_of(send(library.changer, move(DRIVE, SLOT))) == (5, 0x55, 0x03)
    assert (library.bays[DRIVE].cartridge, tape.closed, place(library, "A00001L6")) == (tape, False, DRIVE)


@pytest.mark.parametrize(
    ("number", "expected"), [(28, (5, 0x55, 0x03)), (122, (5, 0x55, 0x03)), (30, (4, 0x3E, 0x01)), (5, (4, 0x3E, 0x01))]
)
def test_an_inventory_that_cannot_be_written_moves_nothing(library, monkeypatch, number, expected):
    """ENOSPC, EDQUOT, EROFS, EIO."""
    send(library.changer, move(SLOT, DRIVE))
    tape = library.bays[DRIVE].cartridge
    library.bays[DRIVE].ejected = True
    before = library.inventory.elements()

    def fails(*_):
        raise OSError(number, "the file system has its reasons")

    with monkeypatch.context() as patched:
        patched.setattr(library.database, "change", fails)
        for cdb in (
            move(SLOT + 1, SLOT + 3),
            move(SLOT + 1, DRIVE + 1),
            move(DRIVE, SLOT),
            exchange(SLOT + 1, DRIVE, SLOT + 1),
        ):
            assert sense_of(send(library.changer, cdb)) == expected, cdb.hex()
    assert library.inventory.elements() == before
    assert (library.bays[DRIVE].cartridge, library.bays[DRIVE].ejected) == (tape, True)
    assert library.bays[DRIVE + 1].cartridge is None
    assert all(each.closed for each in library.opened if each is not tape)
    assert send(library.changer, move(DRIVE, SLOT)).status == 0


def test_a_restart_loads_what_the_inventory_says(library):
    send(library.changer, move(SLOT, DRIVE))
    library.inventory.move(SLOT + 1, DRIVE + 1)  # as a crash between the inventory's step and the load leaves it
    library.close()
    library.start()
    assert [bay.cartridge.barcode for bay in library.bays.values()] == ["A00001L6", "A00002L6"]
    library.close()
    library.unreadable.add("A00002L6")
    library.start()
    assert [bay.cartridge and bay.cartridge.barcode for bay in library.bays.values()] == ["A00001L6", None]
    data = data_of(send(library.changer, status(element_type_code=4, starting_element_address=DRIVE + 1)))
    assert data[16:22] == bytes.fromhex("0101 0d 00 53 00")


def exchange(source, first, second, **other):
    return smc.ExchangeMedium.encode(
        source_element_address=source,
        first_destination_element_address=first,
        second_destination_element_address=second,
        **other,
    )


def test_exchange_swaps_a_slot_and_a_drive(library):
    send(library.changer, move(SLOT, DRIVE))
    assert send(library.changer, exchange(SLOT + 1, DRIVE, SLOT + 1)).status == 0
    assert library.bays[DRIVE].cartridge.barcode == "A00002L6"
    assert place(library, "A00001L6") == SLOT + 1
    assert [tape.closed for tape in library.opened] == [True, False]
    assert send(library.changer, exchange(SLOT + 1, DRIVE, DRIVE + 1)).status == 0
    assert [bay.cartridge.barcode for bay in library.bays.values()] == ["A00001L6", "A00002L6"]


def test_exchange_refuses_before_a_drive_lets_go(library):
    send(library.changer, move(SLOT, DRIVE))
    cases = [
        (exchange(SLOT + 1, DRIVE, SLOT + 2), (5, 0x3B, 0x0D)),
        (exchange(SLOT + 3, DRIVE, SLOT), (5, 0x3B, 0x0E)),
        (exchange(SLOT + 1, DRIVE + 1, SLOT), (5, 0x3B, 0x0E)),
        (exchange(SLOT + 1, DRIVE, 7), (5, 0x21, 0x01)),
        (exchange(SLOT + 1, DRIVE, SLOT, invert_2=1), (5, 0x24, 0x00)),
        (exchange(SLOT + 1, SLOT + 1, SLOT), (5, 0x3B, 0x0D)),
    ]
    for cdb, expected in cases:
        assert sense_of(send(library.changer, cdb)) == expected, cdb.hex()
    assert library.bays[DRIVE].cartridge is library.opened[0]
    assert place(library, "A00002L6") == SLOT + 1


def test_other_commands_are_answered_while_a_move_waits(library):
    send(library.changer, move(SLOT, DRIVE))
    library.bays[DRIVE].lets_go.clear()
    done = threading.Event()
    task = Task(ALPHA, 0, move(DRIVE, SLOT).ljust(16, b"\0"), complete=lambda response: done.set())
    assert library.changer.execute(task) is None
    assert len(data_of(send(library.changer, bytes([0x12, 0, 0, 0, 36, 0]), nexus=BETA))) == 36
    assert len(data_of(send(library.changer, status(), nexus=BETA))) > 16
    assert not done.is_set()
    library.bays[DRIVE].lets_go.set()
    assert done.wait(60)
    assert place(library, "A00001L6") == SLOT


def test_moves_are_excluded_by_a_reservation(library):
    library.changer.nexus_established(BETA)
    send(library.changer, bytes(6), nexus=BETA)
    assert send(library.changer, bytes([0x16, 0, 0, 0, 0, 0])).status == 0
    for cdb in (move(SLOT, DRIVE), exchange(SLOT, SLOT + 1, SLOT), bytes([7, 0, 0, 0, 0, 0])):
        assert send(library.changer, cdb, nexus=BETA).status == 0x18
    assert place(library, "A00001L6") == SLOT


def test_positioning_checks_its_addresses(library):
    cdb = smc.PositionToElement.encode(transport_element_address=1, destination_element_address=SLOT)
    assert send(library.changer, cdb).status == 0
    cdb = smc.PositionToElement.encode(transport_element_address=1, destination_element_address=SLOT + 4)
    assert sense_of(send(library.changer, cdb)) == (5, 0x21, 0x01)


def test_the_lock_falls_with_its_nexus_and_with_a_reset(library):
    for end in (lambda: library.changer.nexus_lost(ALPHA), library.changer.reset):
        send(library.changer, bytes([0x1E, 0, 0, 0, 1, 0]))
        end()
        library.robot.insert("A00009LX", MAIL)
        library.robot.remove(MAIL)


def test_the_audit_record_names_the_initiator(library):
    send(library.changer, move(SLOT, DRIVE), nexus=BETA)
    with library.database.read() as connection:
        newest = events.latest(connection, 1)[0]
    assert (newest.actor, newest.action, newest.subject) == (BETA.initiator_name, "cartridge moved", "A00001L6")
    assert newest.details == {"from": "storage:0", "to": "drive:0"}
