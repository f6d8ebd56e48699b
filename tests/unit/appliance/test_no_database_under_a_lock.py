"""What a library keeps goes into the database without a unit's lock: nobody who looks at a unit waits for a disk."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from appliance.library.library import Library
from appliance.operations import setup
from appliance.operations.perform import find, parameters_of, perform
from appliance.operations.verb import OnLibrary
from appliance.settings import config_file
from scsi_targets.devices.unit.device import Device
from scsi_targets.t10 import sbc, smc, spc
from tests.unit.appliance.offline import offline
from tests.unit.devices.support import ALPHA, BETA, data_of, send
from vlib_images.library.database.database import Database

RESET_COUNTS = spc.LogSelect.encode(page_control=1, parameter_code_reset=1)
LOAD, UNLOAD = bytes([0x1B, 0, 0, 0, 1, 0]), bytes([0x1B, 0, 0, 0, 0, 0])


def do(unit: Device, cdb: bytes, data: bytes | None = None) -> None:
    while unit.take_unit_attention(ALPHA) is not None:
        pass
    assert send(unit, cdb, data=data).status == 0, cdb.hex()


def reserve(unit: Device) -> None:
    """PERSISTENT RESERVE OUT, REGISTER with APTPL, and RESERVE."""
    key, nothing = (1).to_bytes(8, "big"), bytes(8)
    do(unit, bytes([0x5F, 0, 0, 0, 0, 0, 0, 0, 24, 0]), nothing + key + bytes(4) + b"\1" + bytes(3))
    do(unit, bytes([0x5F, 1, 1, 0, 0, 0, 0, 0, 24, 0]), key + nothing + bytes(8))


def save_mode(unit: Device, page: int) -> None:
    """MODE SELECT with SP of what MODE SENSE tells."""
    sensed = data_of(
        send(unit, spc.ModeSense10.encode(page_code=page, disable_block_descriptors=1, allocation_length=255))
    )
    data = bytes(8) + bytes([sensed[8] & 0x7F]) + sensed[9:]
    do(unit, spc.ModeSelect10.encode(page_format=1, save_pages=1, parameter_list_length=len(data)), data)


@pytest.fixture
def library(tmp_path: Path) -> Iterator[Library]:
    path = setup.create(tmp_path, setup.plan(tmp_path, portal="127.0.0.1:0"))
    offline(path, "cartridge.create", barcode="A00001L6", count=2)
    offline(path, "disk.create", name="disk0", size="1 MiB")
    library = Library.open(config_file.load(path), apply=True)
    for unit in library.units.values():
        unit.nexus_established(ALPHA)
        unit.nexus_established(BETA)
    yield library
    library.close()


@pytest.fixture
def held(library: Library, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The units whose locks were held by a thread that changed or read the database."""
    found: list[str] = []

    def watched(name: str) -> None:
        real = getattr(Database, name)

        @contextmanager
        def watch(self: Database, *arguments: Any) -> Iterator[Any]:
            found.extend(key for key, unit in library.units.items() if unit.lock._is_owned())  # type: ignore[attr-defined]
            with real(self, *arguments) as connection:
                yield connection

        monkeypatch.setattr(Database, name, watch)

    watched("change")
    watched("read")
    return found


def test_commands_and_moves(library: Library, held: list[str]) -> None:
    changer, drive, disk = library.changers["changer"], library.drives["drive0"], library.units["disk0"]
    slot, bay = library.files.inventory.layout.storage[0], library.files.inventory.layout.drives[0]
    do(changer, smc.MoveMedium.encode(source_element_address=slot, destination_element_address=bay))
    for unit in (changer, drive, disk):
        reserve(unit)
        do(unit, bytes([0x5F, 3, 0, 0, 0, 0, 0, 0, 24, 0]), (1).to_bytes(8, "big") + bytes(16))  # CLEAR
        do(unit, bytes([0x16, 0, 0, 0, 0, 0]))
        do(unit, bytes([0x17, 0, 0, 0, 0, 0]))
    save_mode(drive, 0x10)
    save_mode(disk, 0x08)
    do(drive, UNLOAD)
    do(drive, LOAD)
    do(changer, smc.InitializeElementStatus.encode())
    for unit in (changer, drive, disk):
        do(unit, RESET_COUNTS)
        unit.reset()
    do(disk, sbc.FormatUnit.encode())
    do(changer, smc.MoveMedium.encode(source_element_address=bay, destination_element_address=slot))
    assert library.files.store.get("devices", "drive0/life")["loads"] == 2  # type: ignore[index,call-overload]
    assert not held


def test_operators(library: Library, held: list[str]) -> None:
    context = OnLibrary(library.settings, library.settings.library.state, library.files, library)

    def verb(verb_name: str, /, **given: Any) -> None:
        perform(find(verb_name), context, parameters_of(find(verb_name), given))

    verb("load", cartridge="A00001L6", drive="drive0")
    verb("unload", drive="drive0")
    verb("move", cartridge="A00001L6", to="ie:1")
    verb("drive.create", name="drive2")
    verb("changer.resize", slots=30)
    verb("disk.grow", name="disk0", size="2 MiB")
    reserve(library.drives["drive1"])
    verb("reservation.break", device="drive1")
    assert not held
