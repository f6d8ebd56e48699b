"""A library's files, opened by this one process: lock, state, inventory, cartridges. No device, no network."""

import hashlib
import json
import threading
import uuid
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

import structlog

from appliance.access.tokens import Tokens
from appliance.failures import Failure, OperatorError
from appliance.library.cartridges import CartridgeStore
from appliance.library.contents import Contents
from appliance.library.effects import Situation, plan, refusal
from appliance.library.lock import LibraryLock
from appliance.library.partitions import partitions_of
from appliance.settings.content import Content
from appliance.settings.settings import Settings
from vlib_images.library.database import inventory_rows
from vlib_images.library.database.database import FILE_NAME, Database
from vlib_images.library.database.takeover import OLD_FILES, open_database
from vlib_images.library.inventory import BARCODE, ElementType, Inventory, InventoryError
from vlib_images.library.partition import Partition
from vlib_images.library.state import LibraryState, StateDamaged, put_document

log = structlog.get_logger(__name__)

IDENTITY = "identity"
LIBRARY_ID = "library_id"


def missing_directories(settings: Settings) -> list[Path]:
    """Which of the two directories that make a library are not there. Raises OSError."""
    return [path for path in (settings.library.state, settings.library.cartridges) if not path.is_dir()]


def is_new(settings: Settings) -> bool:
    """Whether neither a database nor a cartridge is there. So does an unmounted volume look. Raises OSError."""
    state, cartridges = settings.library.state, settings.library.cartridges
    kept = any((state / name).exists() for name in (FILE_NAME, *OLD_FILES))
    return not kept and not (cartridges.is_dir() and _hold_cartridges(cartridges))


def _hold_cartridges(directory: Path) -> bool:
    return any(BARCODE.fullmatch(path.name) for path in directory.iterdir())


class LibraryFiles:
    """Made by create() or open(); close() it, or use `with`. Meanwhile no other process opens this library."""

    def __init__(self, declared: Settings, lock: LibraryLock, database: Database, *, apply: bool = False) -> None:
        self._lock = lock
        self.changing = threading.RLock()  # one operator at a time makes or deletes things
        self.database = database
        self.store = LibraryState(database)
        self.tokens = Tokens(database)
        self.contents = Contents(database, declared)
        if apply:
            self._apply()
        self.inventory = Inventory(database, self.settings.layout())
        self.cartridges = CartridgeStore(declared.library.cartridges)
        for barcode in self.inventory.evicted:
            log.warning("the element of a cartridge is gone; it is on the shelf now", barcode=barcode)
        for line in self.cartridges.reconcile(self.inventory):
            log.warning(line)
        self._library_id = self._identity()

    @classmethod
    def create(cls, settings: Settings) -> Self:
        """Make the directories and the database that are missing, then open. Raises as open() does.

        Where there are cartridges already and no database, it is missing rather than new, and that is REFUSED."""
        paths = settings.library
        for directory in (paths.state, paths.cartridges, paths.disks):
            directory.mkdir(parents=True, exist_ok=True, mode=0o750)
        return cls._open(settings, new=not _hold_cartridges(paths.cartridges))

    @classmethod
    def open(cls, settings: Settings, *, apply: bool = False) -> Self:
        """apply: first carry out what changed in tapebay.toml since it was last applied. Raises OperatorError: IN_USE,
        CONFIGURATION (no library), REFUSED (damaged state, a content that does not fit together); OSError."""
        missing = missing_directories(settings)
        if missing:
            message = (
                f"there is no library: {missing[0]} is missing; mount its volume, or make a new, empty library of this "
                "tapebay.toml: tapebay serve --init"
            )
            raise OperatorError(Failure.CONFIGURATION, message)
        return cls._open(settings, new=False, apply=apply)

    @classmethod
    def _open(cls, settings: Settings, *, new: bool, apply: bool = False) -> Self:
        state = settings.library.state
        with ExitStack() as opened:
            lock = LibraryLock(state / "lock")
            opened.callback(lock.release)
            try:
                if new and not any((state / name).exists() for name in (FILE_NAME, *OLD_FILES)):
                    _make_database(state / FILE_NAME)
                database = open_database(state)
                opened.callback(database.close)
                files = cls(settings, lock, database, apply=apply)
            except (StateDamaged, InventoryError) as error:
                raise OperatorError(Failure.REFUSED, str(error)) from error
            opened.pop_all()
            return files

    def _apply(self) -> None:
        plan = self.contents.differences()
        self._refuse_orphans(plan.content)
        self.contents.change(plan.content, plan.applied)
        for change in plan.changes:
            log.info("applied", change=change)

    def _refuse_orphans(self, content: Content) -> None:
        """A start puts cartridges whose slot is gone on the shelf, but takes none out of its partition."""
        settings = self.contents.settings_with(self.contents.checked(content))
        if settings.partitions == self.settings.partitions:
            return
        with self.database.read() as connection:
            records = inventory_rows.read(connection, self.database.path)
        places = {record.place: barcode for barcode, record in records.items() if record.place is not None}
        found = plan(self.settings, settings, Situation(cartridges=places)).orphans
        if orphans := [orphan for orphan in found if not orphan.gone]:
            raise OperatorError(Failure.REFUSED, f"tapebay.toml cannot be applied: {refusal(orphans)}")

    @property
    def settings(self) -> Settings:
        """tapebay.toml, with what the library contains in place of what the file declares."""
        return self.contents.settings

    @property
    def drives(self) -> dict[str, int]:
        """Drive names with their element addresses."""
        elements = self.inventory.elements(ElementType.DRIVE)
        return {drive.name: element.address for drive, element in zip(self.settings.drives, elements, strict=True)}

    def serial_number(self, name: str, configured: str | None) -> str:
        """A device's serial number: the configured one, or ten characters made from the library's identity and `name`.

        It stays the same as long as the library and the name do, and differs between libraries.
        """
        return configured or f"TB{hashlib.sha256(f'{self._library_id}/{name}'.encode()).hexdigest()[:8].upper()}"

    def partitions(self, settings: Settings | None = None) -> list[Partition]:
        """The library as its media changers show it; as others would with other settings, if given."""
        if settings is None:
            return partitions_of(self.settings, self.inventory.layout, self.serial_number)
        return partitions_of(settings, settings.layout(), self.serial_number)

    def close(self) -> None:
        self.store.flush()
        self.database.close()
        self._lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _identity(self) -> str:
        found = self.store.get(IDENTITY, LIBRARY_ID)
        if not isinstance(found, str):
            raise StateDamaged(self.database.path, "it has lost the library's identity, which serial numbers come from")
        return found


def _make_database(path: Path) -> None:
    with Database.being_made(path) as connection:
        put_document(connection, IDENTITY, LIBRARY_ID, json.dumps(str(uuid.uuid4())))
