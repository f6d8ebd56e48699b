"""A small library for the changer's tests: real inventory, drives that record what the robot does."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from scsi_targets.devices.changer.media_changer import MediaChanger
from scsi_targets.devices.changer.models import MODELS, ChangerModel
from scsi_targets.devices.changer.robot import Robot
from scsi_targets.devices.unit.device import Device
from scsi_targets.devices.unit.identity import Identity
from scsi_targets.devices.unit.state_store import MemoryStore
from scsi_targets.t10 import sense, smc
from scsi_targets.t10.sense import CheckCondition, SenseCode
from tests.support.database import new_database
from vlib_images.library.inventory import Inventory
from vlib_images.library.partition import Partition

SLOT, MAIL, DRIVE = 4096, 16, 256  # first addresses of an IBM 3573-TL
IBM = MODELS["IBM 3573-TL"]


class Tape:
    """An open cartridge."""

    def __init__(self, barcode: str) -> None:
        self.barcode = barcode
        self.closed = False

    def close(self) -> None:
        assert not self.closed
        self.closed = True


class Bay(Device):
    """A drive with only what the robot needs; `occupy` is LogicalUnit's own."""

    device_type = 1

    def __init__(self, serial_number: str) -> None:
        super().__init__(Identity("IBM", "ULT3580-TD6", "J451", serial_number))
        self.cartridge: Tape | None = None
        self.ejected = False
        self.removal_prevented = False
        self.fails: SenseCode | None = None
        self.refuses: str | None = None
        self.patience_seconds = 0.05
        self.used: str | None = None
        self.lets_go = threading.Event()  # a slow drive: cleared, it keeps the robot waiting
        self.lets_go.set()
        self.forced = 0
        self.shown_at: tuple[str, int | None] | None = None
        self.attach()

    @property
    def accessible(self) -> bool:
        return self.cartridge is None or self.ejected

    def accepts(self, cartridge: Tape) -> bool:
        return cartridge.barcode != self.refuses

    def load(self, cartridge: Tape) -> None:
        assert self.cartridge is None
        assert not cartridge.closed
        if self.fails:
            raise CheckCondition(self.fails)
        self.cartridge, self.ejected = cartridge, False

    def in_use(self) -> str | None:
        return self.used

    def installed(self, library_serial_number: str, element_address: int | None) -> None:
        self.shown_at = (library_serial_number, element_address)

    @contextmanager
    def removing(self, check: Callable[[], None], *, force: bool = False) -> Iterator[Tape]:
        assert self.cartridge is not None
        self.forced += force
        if not self.occupy(self.patience_seconds):
            raise CheckCondition(sense.MEDIUM_REMOVAL_PREVENTED)
        try:
            check()
            assert self.lets_go.wait(60)
            if self.fails:
                raise CheckCondition(self.fails)
            yield self.cartridge
            self.cartridge, self.ejected = None, False
        finally:
            self.vacate()


class Library:
    """Four slots (A00001L6, A00002L6, CLN001L1 and one empty), two import/export elements, two drives."""

    def __init__(self, directory: Path, model: ChangerModel = IBM, *, slots: int = 4, import_export: int = 2) -> None:
        self.database = new_database(directory / "state")
        self.model = model
        self.layout = model.layout(slots=slots, import_export=import_export, drives=2)
        self.opened: list[Tape] = []
        self.unreadable: set[str] = set()
        self.memory = MemoryStore()
        self.start()

    def start(self) -> None:
        """The library as it comes up with what is on disk."""
        self.inventory = Inventory(self.database, self.layout)
        if not self.inventory.barcodes():
            for index, barcode in enumerate(("A00001L6", "A00002L6", "CLN001L1")):
                self.inventory.add(barcode, self.layout.storage[index])
            self.inventory.add("A00009LX")
        self.bays = {address: Bay(f"10WT00000{i}") for i, address in enumerate(self.layout.drives)}
        self.robot = Robot(self.inventory, self.bays, self.open)
        partition = Partition.whole("changer", self.model.name, "3573TL0001", self.layout)
        self.changer = MediaChanger(partition, self.robot, store=self.memory)

    def open(self, barcode: str) -> Tape:
        if barcode in self.unreadable:
            raise OSError(f"{barcode}: damaged beyond opening")
        self.opened.append(Tape(barcode))
        return self.opened[-1]

    def close(self) -> None:
        self.changer.close()
        for bay in self.bays.values():
            bay.close()


def move(source: int, destination: int, transport: int = 0, **other: int) -> bytes:
    """A MOVE MEDIUM CDB."""
    return smc.MoveMedium.encode(
        transport_element_address=transport,
        source_element_address=source,
        destination_element_address=destination,
        **other,
    )


def status(**fields: int) -> bytes:
    """A READ ELEMENT STATUS CDB for everything, but for what is said otherwise."""
    return smc.ReadElementStatus.encode(**{"number_of_elements": 0xFFFF, "allocation_length": 0xFFFF} | fields)
