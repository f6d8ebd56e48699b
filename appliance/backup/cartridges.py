"""Which cartridge each volume of a backup is on: its own, or the next of those given that may be written."""

from __future__ import annotations

import structlog

from appliance.backup.catalogue import Catalogue, StreamPlace
from appliance.backup.holdings import Holdings
from appliance.backup.records import Backup
from appliance.backup.volume import MountedDrive
from appliance.failures import Failure, OperatorError

log = structlog.get_logger(__name__)


class BackupCartridges:
    """Of one backup while it runs. Everything raises OperatorError where there is none to go on with."""

    def __init__(self, backup: Backup, catalogue: Catalogue, holdings: Holdings) -> None:
        self._backup = backup
        self._catalogue = catalogue
        self._holdings = holdings
        self._occupied: set[str] = set()  # they hold something else, and stay as they are

    def unused(self) -> str | None:
        """The next that was given; None: there are no more."""
        used = {known.barcode for known in self._catalogue.volumes()} | self._occupied
        return next((barcode for barcode in self._backup.cartridges if barcode not in used), None)

    def of(self, volume: int) -> str:
        """The cartridge of a volume: the one that it has, or the next that is not used."""
        used = {known.number: known.barcode for known in self._catalogue.volumes()}
        barcode = used.get(volume) or self.unused()
        if barcode is not None:
            return barcode
        message = f"the cartridges are full; give more: tapebay backup resume {self._backup.number} --to CARTRIDGE"
        raise OperatorError(Failure.REFUSED, message)

    def first(self, place: StreamPlace, total_files: int) -> str:
        """Where the work goes on: on the last cartridge while that has no index, then on the next."""
        volumes = self._catalogue.volumes()
        all_written = place.checkpoint.first_number >= total_files
        if volumes and (all_written or not (volumes[-1].indexed or volumes[-1].cut)):
            return volumes[-1].barcode
        return self.of(place.volume)

    def mount(self, drive: MountedDrive, place: StreamPlace, comment: str) -> str:
        """The cartridge of a volume, in the drive: its own, or the next that is blank or may be written over. comment:
        what its archive begins with."""
        while True:
            barcode = self.of(place.volume)
            drive.mount(barcode)
            is_begun = place.checkpoint.bytes_on_tape > 0
            refusal = self._refusal(drive, barcode, comment, is_begun=is_begun)
            if refusal is None:
                return barcode
            self._occupied.add(barcode)
            if is_begun or self.unused() is None:
                raise refusal
            log.warning("a backup leaves a cartridge for the next", backup=self._backup.number, reason=str(refusal))

    def _refusal(self, drive: MountedDrive, barcode: str, comment: str, *, is_begun: bool) -> OperatorError | None:
        """Why nothing of it may be written there; None: it may, and what was there before is given up."""
        if is_begun or not (self._backup.overwrite or drive.is_blank()):
            if drive.begins_with(comment.encode()):
                return None
            held = self._holdings.named(barcode)
            what = f"cartridge {barcode} holds something else{f' ({held})' if held else ''}, which stays"
            return OperatorError(Failure.REFUSED, f"{what}; give a blank one, or insist: --overwrite")
        try:
            self._holdings.give_up(barcode, self._backup)
        except OperatorError as refusal:
            return refusal
        return None
