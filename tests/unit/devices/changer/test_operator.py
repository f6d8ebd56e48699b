"""The operator's moves by the robot: what is refused because somebody uses it, what initiators are told."""

import pytest

from scsi_targets.devices.changer.robot import Manner, RemovalPrevented
from tests.unit.devices.changer.support import DRIVE, MAIL, SLOT, Library, move
from tests.unit.devices.support import ALPHA, BETA, send, sense_of

READY = bytes(6)


@pytest.fixture
def library(tmp_path):
    library = Library(tmp_path)
    yield library
    library.close()


def attentions(library, nexus):
    """The unit attentions that wait for a nexus."""
    told = []
    while (response := send(library.changer, READY, nexus=nexus)).status:
        told.append(sense_of(response))
    return told


def test_what_is_in_use_stays_in_its_drive(library):
    send(library.changer, move(SLOT, DRIVE))
    bay = library.bays[DRIVE]
    tape = bay.cartridge
    bay.used = "it is being written"
    for refused in (
        lambda: library.robot.move(DRIVE, SLOT),
        lambda: library.robot.move(DRIVE, DRIVE + 1),
        lambda: library.robot.exchange(SLOT + 1, DRIVE, SLOT + 1),
    ):
        with pytest.raises(RemovalPrevented, match="A00001L6 is in use in drive 0: it is being written"):
            refused()
    assert (bay.cartridge, bay.forced) == (tape, 0)
    assert send(library.changer, move(DRIVE, SLOT)).status == 0  # an initiator knows what it does


def test_a_busy_drive_and_a_locked_one_are_in_use(library):
    send(library.changer, move(SLOT, DRIVE))
    bay = library.bays[DRIVE]
    assert bay.occupy(1)
    with pytest.raises(RemovalPrevented, match="a command or a copy runs in it"):
        library.robot.move(DRIVE, SLOT)
    bay.vacate()
    bay.removal_prevented = True
    with pytest.raises(RemovalPrevented, match="a host prevents medium removal"):
        library.robot.move(DRIVE, SLOT)
    library.robot.move(DRIVE, SLOT, manner=Manner.FORCE)
    assert (bay.cartridge, bay.forced) == (None, 1)


def test_a_cartridge_that_is_loaded_already_is_not_loaded_again(library):
    send(library.changer, move(SLOT, DRIVE))
    tape = library.bays[DRIVE].cartridge
    for manner in (Manner.OPERATOR, Manner.FORCE):
        assert library.robot.move(DRIVE, DRIVE, manner=manner) == "A00001L6"
    assert library.bays[DRIVE].cartridge is tape
    assert library.opened == [tape]
    assert library.robot.move(SLOT + 1, SLOT + 1) == "A00002L6"
    library.bays[DRIVE].ejected = True
    library.robot.move(DRIVE, DRIVE)
    assert not library.bays[DRIVE].ejected


def test_initiators_learn_what_the_operator_moved(library):
    for nexus in (ALPHA, BETA):
        library.changer.nexus_established(nexus)
        attentions(library, nexus)
    library.robot.move(SLOT, DRIVE)
    assert attentions(library, ALPHA) == attentions(library, BETA) == [(6, 0x28, 0x00)]
    library.robot.move(DRIVE, MAIL)
    library.robot.move(SLOT + 1, SLOT)
    assert attentions(library, ALPHA) == attentions(library, BETA) == [(6, 0x28, 0x01), (6, 0x28, 0x00)]
    library.robot.move(SLOT, SLOT)
    assert send(library.changer, move(SLOT, SLOT + 1)).status == 0
    assert attentions(library, ALPHA) == attentions(library, BETA) == []
    library.bays[DRIVE].fails = (4, 0x31, 0)
    with pytest.raises(Exception, match="element 256"):  # it is in the drive all the same
        library.robot.move(SLOT + 1, DRIVE)
    assert attentions(library, ALPHA) == [(6, 0x28, 0x00)]


def test_the_operator_meets_the_hosts_lock(library):
    for nexus in (ALPHA, BETA):
        library.changer.nexus_established(nexus)
        send(library.changer, bytes(6), nexus=nexus)
    assert send(library.changer, bytes([0x1E, 0, 0, 0, 1, 0])).status == 0
    with pytest.raises(RemovalPrevented, match="locked the import/export"):
        library.robot.insert("A00009LX", MAIL)
    library.robot.insert("A00009LX", MAIL, manner=Manner.FORCE)
    with pytest.raises(RemovalPrevented, match="locked the import/export"):
        library.robot.remove(MAIL)
    assert library.robot.remove(MAIL, manner=Manner.FORCE) == "A00009LX"
    for nexus in (ALPHA, BETA):
        assert attentions(library, nexus) == [(6, 0x28, 0x01)]
    assert send(library.changer, bytes([0x1E, 0, 0, 0, 0, 0])).status == 0
    library.robot.insert("A00009LX", MAIL)
    for nexus in (ALPHA, BETA):
        assert sense_of(send(library.changer, bytes(6), nexus=nexus)) == (6, 0x28, 0x01)
    assert library.robot.remove(SLOT) == "A00001L6"
    assert sense_of(send(library.changer, bytes(6))) == (6, 0x28, 0x00)
    with pytest.raises(Exception, match="only the robot"):
        library.robot.insert("A00001L6", DRIVE)
    assert sense_of(send(library.changer, bytes([0x1E, 0, 0, 0, 2, 0]))) == (5, 0x24, 0)


def test_a_reserved_media_changer_is_left_alone(library):
    library.changer.nexus_established(ALPHA)
    attentions(library, ALPHA)
    library.inventory.add("A00009L6")
    reserve, release = bytes([0x16, 0, 0, 0, 0, 0]), bytes([0x17, 0, 0, 0, 0, 0])
    assert send(library.changer, reserve).status == 0
    for refused in (
        lambda: library.robot.move(SLOT, DRIVE),
        lambda: library.robot.insert("A00009L6", MAIL),
        lambda: library.robot.remove(SLOT),
    ):
        with pytest.raises(RemovalPrevented, match=r"the media changer is in use: .* has reserved it"):
            refused()
    assert send(library.changer, move(SLOT, DRIVE)).status == 0
    library.robot.move(DRIVE, SLOT, manner=Manner.FORCE)
    attentions(library, ALPHA)
    assert send(library.changer, release).status == 0
    library.robot.move(SLOT, DRIVE)
