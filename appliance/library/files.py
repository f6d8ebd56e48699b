"""A library's files, opened by this one process: lock, state, inventory, cartridges. No device, no network."""

import hashlib
import uuid
from pathlib import Path
from types import TracebackType
from typing import Self

import structlog

from appliance.failures import Failure, OperatorError
from appliance.library.cartridges import CartridgeStore
from appliance.library.lock import LibraryLock
from appliance.settings.settings import Settings
from vlib_images.library.inventory import Inventory, InventoryError
from vlib_images.library.state import StateDamaged, StateStore

log = structlog.get_logger(__name__)

IDENTITY = "identity"
LIBRARY_ID = "library_id"


def missing_directories(settings: Settings) -> list[Path]:
    """Which of the two directories that make a library are not there. Raises OSError."""
    return [path for path in (settings.library.state, settings.library.cartridges) if not path.is_dir()]


class LibraryFiles:
    """Made by create() or open(); close() it, or use `with`. Meanwhile no other process opens this library."""

    def __init__(self, settings: Settings, lock: LibraryLock) -> None:
        self.settings = settings
        self._lock = lock
        self.store = StateStore(settings.library.state)
        self.inventory = Inventory(self.store, settings.layout())
        self.cartridges = CartridgeStore(settings.library.cartridges)
        for barcode in self.inventory.evicted:
            log.warning("the element of a cartridge is gone; it is on the shelf now", barcode=barcode)
        for line in self.cartridges.reconcile(self.inventory):
            log.warning(line)
        self._library_id = self._identity()

    @classmethod
    def create(cls, settings: Settings) -> Self:
        """Make the directories that are missing, then open. Raises as open() does, and OSError."""
        paths = settings.library
        for directory in (paths.state, paths.cartridges, paths.disks):
            directory.mkdir(parents=True, exist_ok=True, mode=0o750)
        return cls.open(settings)

    @classmethod
    def open(cls, settings: Settings) -> Self:
        """Raises OperatorError: IN_USE, CONFIGURATION (no library), REFUSED (damaged state); OSError."""
        missing = missing_directories(settings)
        if missing:
            message = (
                f"there is no library: {missing[0]} is missing; mount its volume, or make a new, empty library of this "
                "tapebay.toml: tapebay serve --init"
            )
            raise OperatorError(Failure.CONFIGURATION, message)
        lock = LibraryLock(settings.library.state / "lock")
        try:
            return cls(settings, lock)
        except (StateDamaged, InventoryError) as error:
            lock.release()
            raise OperatorError(Failure.REFUSED, str(error)) from error
        except BaseException:
            lock.release()
            raise

    def serial_number(self, name: str, configured: str | None) -> str:
        """A device's serial number: the configured one, or ten characters made from the library's identity and `name`.

        It stays the same as long as the library and the name do, and differs between libraries.
        """
        return configured or f"TB{hashlib.sha256(f'{self._library_id}/{name}'.encode()).hexdigest()[:8].upper()}"

    def close(self) -> None:
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
            found = str(uuid.uuid4())
            self.store.put(IDENTITY, LIBRARY_ID, found)
        return found
