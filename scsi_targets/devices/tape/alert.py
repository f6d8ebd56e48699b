"""TapeAlert: log pages 2Eh and 12h, VPD page B2h (SSC-3 8.2.3, 4.2.17; the flags' numbers are those of table A.1)."""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING

from scsi_targets.devices.tape.part import TapePart
from scsi_targets.devices.unit.part import log_page, vpd_page
from scsi_targets.t10 import sense
from scsi_targets.t10.log_pages import LogParameter, TapeAlertFlag, TapeAlertFlags

if TYPE_CHECKING:
    from scsi_targets.devices.tape.transfer import TapeTransfers
    from scsi_targets.devices.unit.task import Nexus, Task
    from scsi_targets.t10.sense import SenseCode

TAPE_ALERT_PAGE, RESPONSE_PAGE = 0x2E, 0x12
FLAGS = 64


class Alert(IntEnum):
    """The flags that this drive can set."""

    HARD_ERROR = 3
    MEDIA = 4
    READ_FAILURE = 5
    WRITE_FAILURE = 6
    WRITE_PROTECT = 9
    NO_REMOVAL = 10
    CLEANING_MEDIA = 11
    WORM_OVERWRITE_ATTEMPTED = 60


class TapeAlerts(TapePart):
    """A flag is set when its condition occurs, and cleared for a nexus that has read it, for all with the next load."""

    def __init__(self, drive: TapeTransfers) -> None:
        super().__init__(drive)
        self._alerts: set[Alert] = set()
        self._alerts_read: dict[Nexus, set[Alert]] = {}

    def alert(self, *flags: Alert) -> None:
        """Sets flags, for every nexus anew."""
        self._alerts.update(flags)
        for read in self._alerts_read.values():
            read.difference_update(flags)

    def bits(self) -> int:
        """All flags as a 64-bit number, flag 1 in its most significant bit."""
        return sum(1 << (FLAGS - flag) for flag in self._alerts)

    def on_log_page_read(self, page: int, subpage: int, nexus: Nexus) -> None:
        if page == TAPE_ALERT_PAGE:
            self._alerts_read.setdefault(nexus, set()).update(self._alerts)  # SSC-3 8.2.3: what is read is cleared

    @log_page(TAPE_ALERT_PAGE)
    def tape_alert_page(self, nexus: Nexus) -> list[LogParameter]:
        """64 parameters of one byte each."""
        active = self._alerts - self._alerts_read.get(nexus, set())
        return [LogParameter(flag, TapeAlertFlag.encode(flag=flag in active), 0x40) for flag in range(1, FLAGS + 1)]

    @log_page(RESPONSE_PAGE)
    def tape_alert_response_page(self, nexus: Nexus) -> list[LogParameter]:
        """The same flags as one number; reading it clears nothing (ADC-3 6.1.3)."""
        return [LogParameter(0, TapeAlertFlags.encode(flags=self.bits()))]

    @vpd_page(0xB2)
    def tape_alert_supported_flags(self, task: Task) -> bytes:
        """TapeAlert Supported Flags VPD page (SSC-3 8.4.4)."""
        return TapeAlertFlags.encode(flags=sum(1 << (FLAGS - flag) for flag in Alert))

    # ---- events --------------------------------------------------------------------------------------------------

    def on_loaded(self) -> None:
        self._alerts.clear()
        self._alerts_read.clear()

    def on_nexus_lost(self, nexus: Nexus) -> None:
        self._alerts_read.pop(nexus, None)

    def on_read_error(self) -> None:
        self.alert(Alert.HARD_ERROR, Alert.MEDIA, Alert.READ_FAILURE)

    def on_write_error(self) -> None:
        self.alert(Alert.HARD_ERROR, Alert.WRITE_FAILURE)

    def on_write_refused(self, code: SenseCode) -> None:
        worm = code == sense.WORM_MEDIUM_OVERWRITE_ATTEMPTED
        self.alert(Alert.WORM_OVERWRITE_ATTEMPTED if worm else Alert.WRITE_PROTECT)

    def on_removal_refused(self) -> None:
        self.alert(Alert.NO_REMOVAL)

    def on_cleaned(self) -> None:
        self.alert(Alert.CLEANING_MEDIA)
