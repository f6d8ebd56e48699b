"""The cartridges of a library on disk: making, opening, describing and deleting them.

What the inventory knows and what lies in the directory may differ after a crash, or because somebody copied a cartridge
in. reconcile() settles it: the directory decides which cartridges there are, the inventory decides where they are.
"""

import fcntl
import os
import re
import shutil
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import structlog

from appliance.failures import Failure, OperatorError
from appliance.library.cartridge_facts import CartridgeFacts, stamp_of
from appliance.settings.units import LEAST_MEDIUM_BYTES, parse_size_of_at_least
from scsi_targets.devices.tape.base import CleaningCartridge, Loadable
from vlib_images.atomic import sync_directory, synchronized_together
from vlib_images.cartridge.cartridge import Cartridge
from vlib_images.cartridge.medium import MEDIA, MediumType, medium_for_barcode
from vlib_images.cartridge.storage import CartridgeStorage
from vlib_images.errors import CartridgeError
from vlib_images.library.inventory import BARCODE, Inventory
from vlib_images.plain_files import is_folder

log = structlog.get_logger(__name__)

INCOMING = ".incoming-"  # a cartridge that a command of its own makes, which owns the directory meanwhile
_DELETED = ".deleted-"
_UNFINISHED = ".new-"
_NUMBERED = re.compile(r"(?P<prefix>.*?)(?P<number>\d+)(?P<suffix>[A-Z][A-Z0-9]|)")


def numbered_on(barcode: str, count: int) -> list[str]:
    """`count` barcodes from `barcode` on: A00001L6, A00002L6, ... Raises OperatorError USAGE when they run out."""
    if count == 1:
        return [barcode]
    match = _NUMBERED.fullmatch(barcode)
    if match is None:
        raise OperatorError(Failure.USAGE, f"{barcode} has no number to count on from; make cartridges one by one")
    digits, first = len(match["number"]), int(match["number"])
    if len(str(first + count - 1)) > digits:
        raise OperatorError(Failure.USAGE, f"{count} barcodes from {barcode} on do not fit its {digits} digits")
    return [f"{match['prefix']}{number:0{digits}}{match['suffix']}" for number in range(first, first + count)]


def medium_of(barcode: str, name: str | None, worm: bool) -> MediumType:
    """The kind of medium an operator asked for, or that the barcode's end says. Raises OperatorError USAGE; also for a
    standard label that says another generation, which would lead people and robots astray."""
    labelled = medium_for_barcode(barcode)
    medium = MEDIA.get(name) if name else labelled
    if medium and labelled and medium.name.removesuffix(" WORM") != labelled.name.removesuffix(" WORM"):
        raise OperatorError(Failure.USAGE, f"barcode {barcode} is a label of {labelled.name}, not of {medium.name}")
    if medium is None:
        kinds = ", ".join(MEDIA)
        what = f"there is no medium {name!r}" if name else f"barcode {barcode} does not say what medium it is"
        raise OperatorError(Failure.USAGE, f"{what}; give one with --medium: {kinds}")
    return MEDIA.get(f"{medium.name} WORM", medium) if worm else medium


def capacity_of(text: str | None) -> int | None:
    """What an operator gave as the capacity, in bytes; None: what the medium holds. Raises OperatorError USAGE."""
    try:
        return None if text is None else parse_size_of_at_least(text, LEAST_MEDIUM_BYTES)
    except ValueError as error:
        raise OperatorError(Failure.USAGE, f"capacity: {error}") from None


class CartridgeStore:
    """The directory of the cartridges of one library. Thread-safe.

    It remembers what open() gave out and is not closed yet, so that a loaded cartridge can be described too.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._lock = threading.Lock()
        self._opened: dict[str, Cartridge] = {}
        self._facts = CartridgeFacts()  # under the lock
        self._media: dict[str, str] = {}  # of those that were asked for
        self._blank: dict[str, str | None] = {}  # of those that were looked at: the medium of the blank ones

    def create_all(self, media: Mapping[str, MediumType], capacity_bytes: int | None) -> None:
        """New, empty cartridges, by barcode, each made whole or not at all; None: what the medium holds.

        Raises OperatorError REFUSED when the directory of one is there (none is made then), OSError, CartridgeError.
        """
        for barcode in media:
            if os.path.lexists(path := self._directory / barcode):
                raise OperatorError(Failure.REFUSED, f"{path} exists already")
        with synchronized_together(self._directory):
            for barcode, medium in media.items():
                self._make(self._unfinished(barcode), barcode, medium, capacity_bytes)
        for barcode in media:
            self._unfinished(barcode).rename(self._directory / barcode)
        sync_directory(self._directory)

    def _unfinished(self, barcode: str) -> Path:
        return self._directory / f"{_UNFINISHED}{barcode}"

    def _make(self, unfinished: Path, barcode: str, medium: MediumType, capacity_bytes: int | None) -> None:
        _remove(unfinished)
        if medium.cleaning:
            unfinished.mkdir()
        else:
            CartridgeStorage.make(unfinished, barcode=barcode, medium=medium, capacity_bytes=capacity_bytes)

    def open(self, barcode: str) -> Loadable:
        """Open a cartridge, for a drive: it is in no other. One that is open still was lost by a move whose thread was
        ended. Raises CartridgeError, OSError."""
        if _is_cleaning(barcode):
            return CleaningCartridge(barcode)
        with self._lock:
            self._blank.pop(barcode, None)
            if (lost := self._opened.pop(barcode, None)) is not None and not lost.closed:
                lost.close()
            cartridge = self._opened[barcode] = Cartridge.open(self._directory / barcode)
            return cartridge

    def has(self, barcode: str) -> bool:
        """Whether there is a directory of that name; a link to one is none."""
        return is_folder(self._directory / barcode)

    def describe(self, barcode: str, *, anew: bool = False) -> dict[str, Any]:
        """What `cartridge list` and `show` tell of a cartridge; `problem` is None, or why it cannot be read. anew: open
        it even if its files look as they did when it was last told."""
        if _is_cleaning(barcode):
            return _facts(barcode, medium="Cleaning")
        with self._lock:
            opened = self._opened.get(barcode)
            if opened is not None and not opened.closed:
                return _describe(opened)
            stamp = stamp_of(self._directory / barcode)
            known = None if anew else self._facts.get(barcode, stamp)
            if known is None:
                known = self._look_into(barcode)
                self._facts.keep(barcode, stamp, known)
            return known

    def _look_into(self, barcode: str) -> dict[str, Any]:
        try:
            cartridge = Cartridge.open(self._directory / barcode, read_only=True)
        except (CartridgeError, OSError) as error:
            return _facts(barcode, problem=str(error))
        try:
            return _describe(cartridge)
        finally:
            cartridge.close()

    def medium(self, barcode: str) -> str | None:
        """What kind of medium a cartridge is, which it stays; None: it cannot be read."""
        if barcode not in self._media and (medium := self.describe(barcode)["medium"]) is not None:
            self._media[barcode] = medium
        return self._media.get(barcode)

    def blank(self, barcode: str) -> str | None:
        """The medium of a cartridge that was blank when it was last looked at, and in no drive since; None: it was not,
        or nobody has looked."""
        return self._blank.get(barcode)

    def look_at(self, barcodes: Iterable[str], seconds: float) -> bool:
        """Find out which of these are blank: of those in no drive that nobody has looked at, in so much time. Whether
        all are known now."""
        deadline = time.monotonic() + seconds
        for barcode in barcodes:
            if barcode in self._blank:
                continue
            if time.monotonic() > deadline:
                return False
            told = self.describe(barcode)
            with self._lock:
                opened = self._opened.get(barcode)
                if opened is None or opened.closed:
                    self._blank[barcode] = told["medium"] if is_blank(told) else None
        return True

    def protect(self, barcode: str, protected: bool) -> None:
        """Set the write-protect tab of a cartridge that is in no drive. Raises CartridgeError, OSError."""
        with self._lock, Cartridge.open(self._directory / barcode) as cartridge:
            self._blank.pop(barcode, None)
            cartridge.write_protected = protected

    def delete(self, barcode: str, inventory: Inventory) -> None:
        """Delete a cartridge that is not open, and its place in the inventory. Once its directory is renamed it is
        deleted, whatever happens: reconcile() finishes what a crash interrupts. Raises OSError, InventoryError."""
        path = self._directory / barcode
        with self._lock:
            self._blank.pop(barcode, None)
            self._media.pop(barcode, None)
        if os.path.lexists(path):
            path.rename(self._directory / f"{_DELETED}{barcode}")
            sync_directory(self._directory)
        self._finish_deleting(barcode, inventory)

    def reconcile(self, inventory: Inventory) -> list[str]:
        """Settle the differences and say, a line each, what an operator has to know.

        A cartridge that the inventory does not know goes to the shelf. One whose directory is gone keeps its place: it
        may be on a file system that is not mounted.
        """
        lines = []
        for unfinished in self._directory.glob(f"{_UNFINISHED}*"):
            _remove(unfinished)
        for unfinished in self._directory.glob(f"{INCOMING}*"):
            with owned(unfinished) if is_folder(unfinished) else nullcontext(True) as ours:
                if ours:
                    _remove(unfinished)
                    lines.append(f"removed the unfinished cartridge {unfinished.name.removeprefix(INCOMING)}")
        for doomed in self._directory.glob(f"{_DELETED}*"):
            barcode = doomed.name.removeprefix(_DELETED)
            self._finish_deleting(barcode, inventory)
            lines.append(f"finished deleting cartridge {barcode}")
        there, others = self._found()
        known = set(inventory.barcodes())
        lines += [
            f"{path} is not taken for a cartridge: it is {'a link' if path.is_symlink() else 'no directory'}"
            for path in others
        ]
        found = sorted(there - known)
        for _ in inventory.add_all([(barcode, None) for barcode in found]):
            pass
        for barcode in found:
            log.info("found a cartridge, put it on the shelf", barcode=barcode)  # somebody copied or imported it
        lines += [f"cartridge {barcode} has no directory in {self._directory}" for barcode in sorted(known - there)]
        return lines

    def _found(self) -> tuple[set[str], list[Path]]:
        """The barcodes of the directories that there are, and what has such a name and is none. A name at a time: there
        may be tens of thousands."""
        with os.scandir(self._directory) as entries:
            named = {e.name: e.is_dir(follow_symlinks=False) for e in entries if BARCODE.fullmatch(e.name)}
        others = sorted(name for name, is_directory in named.items() if not is_directory)
        return named.keys() - set(others), [self._directory / name for name in others]

    def _finish_deleting(self, barcode: str, inventory: Inventory) -> None:
        if barcode in inventory and not os.path.lexists(self._directory / barcode):
            inventory.discard(barcode)
        _remove(self._directory / f"{_DELETED}{barcode}")


@contextmanager
def owned(directory: Path) -> Iterator[bool]:
    """Own a directory while the block runs; yields False where another process owns it. The end of a process gives up
    what it owned. Raises OSError."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True
    finally:
        os.close(descriptor)


def _remove(path: Path) -> None:
    """A directory with what is in it; of anything else only the name. Raises OSError."""
    if is_folder(path):
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def is_blank(told: Mapping[str, Any]) -> bool:
    """Whether a cartridge, as describe() tells it, may be taken as a scratch one."""
    unusable = told["problem"] or told["used_bytes"] or told["worm"] or told["write_protected"]
    return not unusable and told["medium"] in MEDIA


def _is_cleaning(barcode: str) -> bool:
    medium = medium_for_barcode(barcode)
    return medium is not None and medium.cleaning


def new_cartridge(barcode: str, medium: MediumType, capacity_bytes: int | None) -> dict[str, Any]:
    """What describe() tells of a cartridge that create_all() has just made, without opening it."""
    if medium.cleaning:
        return _facts(barcode, medium="Cleaning")
    capacity = medium.capacity_bytes if capacity_bytes is None else capacity_bytes
    return _facts(barcode, medium=medium.name, capacity_bytes=capacity, partitions=1, worm=medium.worm)


def _describe(cartridge: Cartridge) -> dict[str, Any]:
    return _facts(
        cartridge.barcode,
        medium=cartridge.medium.name,
        capacity_bytes=cartridge.capacity_bytes,
        used_bytes=sum(cartridge.used_bytes(number) for number in range(cartridge.partition_count)),
        partitions=cartridge.partition_count,
        worm=cartridge.worm,
        write_protected=cartridge.write_protected,
    )


def _facts(
    barcode: str,
    *,
    medium: str | None = None,
    capacity_bytes: int = 0,
    used_bytes: int = 0,
    partitions: int = 0,
    worm: bool = False,
    write_protected: bool = False,
    problem: str | None = None,
) -> dict[str, Any]:
    """The same keys for every cartridge, whatever its state."""
    return dict(locals())
