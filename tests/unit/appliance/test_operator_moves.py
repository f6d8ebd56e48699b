"""load, unload and move of a library that is served, while initiators use its drives."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from appliance.failures import Failure, OperatorError
from appliance.library.library import Library
from appliance.operations import setup
from appliance.operations.perform import find, parameters_of, perform
from appliance.operations.verb import OnLibrary
from appliance.settings import config_file
from scsi_targets.devices.unit.guest import Guest
from scsi_targets.t10 import smc
from tests.unit.appliance.offline import offline
from tests.unit.devices.support import ALPHA, data_of, send, sense_of

READY, REWIND, WRITE_FILEMARK = bytes(6), bytes([1, 0, 0, 0, 0, 0]), bytes([0x10, 0, 0, 0, 1, 0])
RESERVE, PREVENT = bytes([0x16, 0, 0, 0, 0, 0]), bytes([0x1E, 0, 0, 0, 1, 0])
BLOCK = b"a backup's block"


class Site:
    """A library with A00001L6 and A00002L6 in slots 1 and 2, and an initiator that uses drive0."""

    def __init__(self, path: Path) -> None:
        self.library = Library.open(config_file.load(path), apply=True)
        self.context = OnLibrary(self.library.settings, path, self.library.files, self.library)
        self.drive = self.library.drives["drive0"]

    def do(self, name: str, **given: Any) -> Any:
        verb = find(name)
        return perform(verb, self.context, parameters_of(verb, given))

    def refused(self, name: str, **given: Any) -> str:
        with pytest.raises(OperatorError) as caught:
            self.do(name, **given)
        assert caught.value.failure is Failure.REFUSED
        return str(caught.value)

    def send(self, cdb: bytes, data: bytes | None = None) -> None:
        """To the drive, unit attentions taken before."""
        while self.drive.take_unit_attention(ALPHA) is not None:
            pass
        data_of(send(self.drive, cdb, data=data))

    def write(self) -> None:
        self.send(bytes([0x0A, 0, 0, 0, len(BLOCK), 0]), BLOCK)

    def place_of(self, barcode: str) -> str:
        return str(self.do("cartridge.show", barcode=barcode)["place"])


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    path = setup.create(tmp_path / "lib", setup.plan(tmp_path / "lib", portal="127.0.0.1:0"))
    offline(path, "cartridge.create", barcode="A00001L6", count=2)
    site = Site(path)
    site.library.changers["changer"].nexus_established(ALPHA)
    site.drive.nexus_established(ALPHA)
    try:
        yield site
    finally:
        site.library.close()


def test_a_running_backup_keeps_its_tape_and_its_position(site: Site) -> None:
    site.do("load", cartridge="A00001L6")
    for _ in range(5):
        site.write()
    for name in ("load", "move"):
        to = {"drive": "drive:0"} if name == "load" else {"to": "drive:0"}
        assert site.do(name, cartridge="A00001L6", **to)["to"] == "drive:0"
    for refused in (
        site.refused("unload"),
        site.refused("move", cartridge="A00001L6", to="slot:9"),
        site.refused("move", cartridge="drive:0", to="drive:1"),
    ):
        assert "A00001L6 is in use in drive 0: it is being written" in refused
        assert "--force insists" in refused
    assert site.drive.loaded.position == (0, 5)
    site.write()
    site.send(WRITE_FILEMARK)
    assert "not at its beginning, and iqn" in site.refused("unload")  # the next file may follow
    site.send(REWIND)
    assert site.do("unload")["to"] == "slot:1"


def test_a_restore_keeps_its_tape_between_two_reads(site: Site) -> None:
    site.do("load", cartridge="A00001L6")
    for _ in range(2):
        site.write()
    site.send(WRITE_FILEMARK)
    site.send(REWIND)
    site.send(bytes([0x08, 0, 0, 0, len(BLOCK), 0]))
    assert "not at its beginning" in site.refused("unload")
    assert "not at its beginning" in site.refused("move", cartridge="A00001L6", to="slot:9")
    site.drive.nexus_lost(ALPHA)  # nobody is left who could go on
    assert site.do("unload")["to"] == "slot:1"
    site.drive.nexus_established(ALPHA)


@pytest.mark.parametrize(("cdb", "why"), [(RESERVE, "reserved it"), (PREVENT, "locked it")])
def test_what_an_initiator_holds_stays_unless_the_operator_insists(site: Site, cdb: bytes, why: str) -> None:
    site.do("load", cartridge="A00001L6")
    site.send(cdb)
    assert f"{ALPHA.initiator_name} has {why}" in site.refused("unload")
    assert site.place_of("A00001L6") == "drive:0"
    assert site.do("unload", force=True)["to"] == "slot:1"
    assert sense_of(send(site.drive, READY)) == (2, 0x3A, 0x00)
    site.do("load", cartridge="A00002L6")
    site.send(REWIND)


def test_what_was_written_is_kept_when_the_operator_insists(site: Site) -> None:
    site.do("load", cartridge="A00001L6")
    site.write()
    site.do("unload", force=True)
    site.do("load", cartridge="A00001L6")
    site.send(REWIND)
    assert data_of(send(site.drive, bytes([0x08, 0, 0, 0, len(BLOCK), 0]))) == BLOCK


def test_a_drive_in_a_copy_is_refused_at_once_to_operator_and_initiator(site: Site) -> None:
    site.do("load", cartridge="A00001L6")
    copy = Guest(site.drive, ALPHA, waits=True)
    site.drive.welcome(copy)
    assert copy.granted
    began = time.monotonic()
    assert "a command or a copy runs in it" in site.refused("unload")
    changer = site.library.changers["changer"]
    drive, slot = (
        changer.partition.layout.drives.start,
        changer.partition.layout.storage.start,
    )
    send(changer, READY)
    move = smc.MoveMedium.encode(source_element_address=drive, destination_element_address=slot)
    while (response := send(changer, move)).sense[2:3] == b"\x06":  # what the operator did before
        pass
    assert sense_of(response) == (5, 0x53, 0x02)
    assert time.monotonic() - began < 50
    assert copy.cleared is None
    assert site.do("unload", force=True)["to"] == "slot:1"
    assert copy.cleared is not None


def test_new_cartridges_and_unloads_leave_home_slots_free(site: Site) -> None:
    site.do("load", cartridge="A00001L6", drive="drive:0")
    site.do("load", cartridge="A00002L6", drive="drive:1")
    assert site.do("cartridge.create", barcode="B00001L6")[0]["place"] == "slot:3"
    site.do("move", cartridge="B00001L6", to="slot:2")  # the operator knows what it does
    assert site.do("unload", drive="drive:1")["to"] == "slot:3"
    assert site.do("unload", drive="drive:0")["to"] == "slot:1"


def test_drives_say_where_they_are(site: Site) -> None:
    first = site.library.changers["changer"].partition.layout.drives.start
    for number, drive in enumerate(site.library.drives.values()):
        page = data_of(send(drive, bytes([0x12, 1, 0xB4, 0, 255, 0])))
        assert page == bytes([1, 0xB4, 0, 2]) + (first + number).to_bytes(2, "big")
        serial = data_of(send(drive, bytes([0x12, 1, 0xB3, 0, 255, 0])))[4:].decode()
        assert serial == site.library.changers["changer"].identity.serial_number
