"""Which backups a cartridge holds; and what is lost when another is written over it.

A backup begins every cartridge at the beginning of its tape, so whatever was there is gone. It is told here first: the
backups whose files these were are LOST, and so are the increments that rest on them; their catalogues say which
cartridge it was. None that runs is taken from, nor one that what is written rests on itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

import structlog

from appliance.backup.catalogue import Catalogue, CatalogueDamaged
from appliance.backup.records import Backup, Backups, BackupState, BackupStateError
from appliance.failures import Failure, OperatorError

log = structlog.get_logger(__name__)


class Holdings:
    """open_catalogue: of a backup; raises CatalogueDamaged, OSError. exists: whether the library has a cartridge."""

    def __init__(
        self, records: Backups, open_catalogue: Callable[[Backup], Catalogue], exists: Callable[[str], bool]
    ) -> None:
        self._records = records
        self._open_catalogue = open_catalogue
        self._exists = exists

    def on(self, barcode: str) -> list[Backup]:
        """The backups that have files there, the oldest first; those whose catalogue cannot be read may have."""
        return [backup for backup in self._records.all() if barcode in backup.cartridges and self._has(backup, barcode)]

    def named(self, barcode: str) -> str:
        """The backups that are lost when the cartridge is written over, in words; empty: none."""
        held = self._records.resting_on([backup.number for backup in self.on(barcode)])
        return " and ".join(f"backup {backup.number}" for backup in held)

    def _has(self, backup: Backup, barcode: str) -> bool:
        try:
            return barcode in self._cartridges_of(backup)
        except (CatalogueDamaged, OSError):
            return backup.state is not BackupState.LOST

    def _cartridges_of(self, backup: Backup) -> list[str]:
        """Those that hold files of it."""
        catalogue = self._open_catalogue(backup)
        try:
            return [volume.barcode for volume in catalogue.volumes() if not volume.lost]
        finally:
            catalogue.close()

    def _rests_on(self, backup: Backup) -> Iterator[Backup]:
        """The backups that an increment follows, the newest first."""
        while backup.since is not None:
            backup = self._records.get(backup.since)
            yield backup

    def refuse_bases(self, since: int | None, cartridges: Iterable[str]) -> None:
        """An increment does not go over what it rests on. since: what it follows. Raises OperatorError."""
        if since is None:
            return
        base = self._records.get(since)
        for barcode in cartridges:
            for needed in (base, *self._rests_on(base)):
                if barcode in needed.cartridges and self._has(needed, barcode):
                    message = f"cartridge {barcode} holds backup {needed.number}, which this increment rests on"
                    raise OperatorError(Failure.REFUSED, f"{message}; give another cartridge")

    def missing(self, backup: Backup) -> str:
        """Why nothing can rest on a backup any more, where it is its cartridges that are gone; or empty."""
        for needed in (backup, *self._rests_on(backup)):
            try:
                gone = [barcode for barcode in self._cartridges_of(needed) if not self._exists(barcode)]
            except (CatalogueDamaged, OSError) as error:
                return str(error)
            if gone:
                return f"cartridge {gone[0]} of backup {needed.number} is no longer in the library"
        return ""

    def give_up(self, barcode: str, writer: Backup) -> None:
        """What is on a cartridge goes, as a backup is about to write there. Raises OperatorError, OSError."""
        gone = [backup for backup in self.on(barcode) if backup.number != writer.number]
        if not gone:
            return
        self.refuse_bases(writer.since, [barcode])
        reason = f"backup {writer.number} was written over cartridge {barcode}"
        try:
            lost = self._records.lose([backup.number for backup in gone], reason)
        except BackupStateError as error:
            raise OperatorError(Failure.REFUSED, f"cartridge {barcode} is needed: {error}; give another") from error
        log.warning("backups are lost", cartridge=barcode, backups=[one.number for one in lost], by=writer.number)
        for backup in gone:
            self._mark(backup, barcode)

    def _mark(self, backup: Backup, barcode: str) -> None:
        try:
            catalogue = self._open_catalogue(backup)
        except (CatalogueDamaged, OSError) as error:
            log.warning("a catalogue cannot say what is lost", backup=backup.number, reason=str(error))
            return
        try:
            for volume in catalogue.volumes():
                if volume.barcode == barcode:
                    catalogue.put_volume(replace(volume, lost=True))
        finally:
            catalogue.close()
