"""Log pages of the drive and its medium (SSC-3 8.2, SSC-4 for 17h and 1Bh, ADC-3 for 11h; 30h, 31h and 37h are IBM's).

Every number is counted or known. A virtual tape rewrites and retries nothing, so those counts are truly zero; a
parameter that would need an invented number (temperature, passes over the tape) says "unknown" or is zero.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from scsi_targets.devices.tape.base import LoadState
from scsi_targets.devices.tape.models import MEGABYTE
from scsi_targets.devices.tape.part import TapePart
from scsi_targets.devices.unit.part import log_page
from scsi_targets.devices.unit.task import Nexus
from scsi_targets.t10.log_pages import (
    CompressionEnabled,
    LogParameter,
    Temperature,
    VeryHighFrequencyData,
    counter,
)

if TYPE_CHECKING:
    from scsi_targets.devices.tape.alert import TapeAlerts
    from scsi_targets.devices.tape.compression import Compression
    from scsi_targets.devices.tape.encryption import DriveEncryption
    from scsi_targets.devices.tape.transfer import TapeTransfers
    from scsi_targets.devices.tape.usage import DriveUsage
    from vlib_images.cartridge.cartridge import Cartridge

MEBIBYTE = 1 << 20
NO_TEMPERATURE = 0xFF
UNKNOWN_CAPACITY = 0xFFFFFFFF
HUNDRED_PERCENT = 100


class DriveLogPages(TapePart):
    """What the drive counts for itself."""

    def __init__(
        self,
        drive: TapeTransfers,
        usage: DriveUsage,
        alerts: TapeAlerts,
        compression: Compression,
        encryption: DriveEncryption,
    ) -> None:
        super().__init__(drive)
        self._usage = usage
        self._alerts = alerts
        self._compression = compression
        self._encryption = encryption

    def reset_log_page(self, page: int, subpage: int) -> None:
        if page in (0x02, 0x03, 0x0C, 0x1B, 0x32):
            self._usage.reset_amounts()
        if page == 0x14:
            self._usage.loads_since_reset = 0

    @log_page(0x02)
    def write_error_counters(self, nexus: Nexus) -> list[LogParameter]:
        """Write Error Counters (SPC-5 7.3.20), of this mount."""
        return _error_counters(self._usage.amounts().written, self._usage.mount_write_errors)

    @log_page(0x03)
    def read_error_counters(self, nexus: Nexus) -> list[LogParameter]:
        """Read Error Counters (SPC-5 7.3.16), of this mount."""
        return _error_counters(self._usage.amounts().read, self._usage.mount_read_errors)

    @log_page(0x0C)
    def sequential_access_device(self, nexus: Nexus) -> list[LogParameter]:
        """Sequential-Access Device (SSC-3 8.2.2): bytes of this mount, capacities in megabytes."""
        moved, medium = self._usage.amounts(), self._drive.medium
        parameters = [
            counter(0x0000, moved.written), counter(0x0001, moved.stored),
            counter(0x0002, moved.fetched), counter(0x0003, moved.read),
        ]  # fmt: skip
        if medium is not None:
            partition = medium.position[0]
            capacity, early = medium.partition_capacity_bytes(partition), medium.early_warning_bytes
            sizes = (medium.used_bytes(partition), capacity - early, early)
            parameters += [counter(0x0004 + n, size // MEGABYTE, 4) for n, size in enumerate(sizes)]
            parameters.append(counter(0x0007, _used_to_position(medium), 4))
        return [*parameters, counter(0x0100, 0)]  # cleaning is never required

    @log_page(0x0D)
    def temperature(self, nexus: Nexus) -> list[LogParameter]:
        """Temperature (SPC-5 7.3.21): there is none to measure."""
        return [LogParameter(0x0000, Temperature.encode(temperature=NO_TEMPERATURE), 0x01)]

    @log_page(0x11)
    def device_status(self, nexus: Nexus) -> list[LogParameter]:
        """DT Device Status (ADC-3 6.1.2): what a library reads to learn what a drive is up to."""
        present = self._drive.load_state is not LoadState.EMPTY
        loaded = self._drive.load_state is LoadState.LOADED
        data = VeryHighFrequencyData.encode(
            prevented=self._drive.removal_prevented,
            host_initiated_unload=self._drive.load_state is LoadState.EJECTED,
            memory_accessible=present,
            compress=self._compression.on,
            write_protect=self._drive.write_protection() is not None,
            robotic_access_allowed=self._drive.load_state in (LoadState.EMPTY, LoadState.EJECTED),
            medium_present=present,
            medium_seated=loaded or self._drive.load_state is LoadState.HELD,
            medium_threaded=loaded,
            mounted=loaded,
            encryption_parameters_present=bool(self._encryption.parameters.sets()),
            tape_alert_flags_changed=bool(self._alerts.bits()),
        )
        return [LogParameter(0x0000, data)]

    @log_page(0x14)
    def device_statistics(self, nexus: Nexus) -> list[LogParameter]:
        """Device Statistics (SSC-3 8.2.5)."""
        life, serial_number = self._usage.life, self._drive.identity.serial_number.encode("ascii")
        return [
            counter(0x0000, life.loads, 4), counter(0x0001, life.cleanings, 4),
            counter(0x0002, int(self._usage.power_on_seconds() // 3600), 4), counter(0x000C, life.power_cycles, 4),
            counter(0x000D, self._usage.loads_since_reset, 4), counter(0x000E, life.hard_write_errors, 4),
            counter(0x000F, life.hard_read_errors, 4),
            *(LogParameter(code, serial_number, 0x01) for code in (0x0040, 0x0041)),
        ]  # fmt: skip

    @log_page(0x1B)
    def data_compression(self, nexus: Nexus) -> list[LogParameter]:
        """Data Compression (SSC-4): ratios in hundredths, amounts of this mount in megabytes and bytes left over."""
        moved = self._usage.amounts()
        parameters = [
            counter(0x0000, compression_ratio(moved.read, moved.fetched), 2),
            counter(0x0001, compression_ratio(moved.written, moved.stored), 2),
        ]
        for code, amount in ((0x02, moved.read), (0x04, moved.fetched), (0x06, moved.written), (0x08, moved.stored)):
            parameters += [counter(code, amount // MEGABYTE, 4), counter(code + 1, amount % MEGABYTE, 4)]
        return [*parameters, LogParameter(0x0100, CompressionEnabled.encode(enabled=self._compression.on))]

    @log_page(0x32)
    def older_data_compression(self, nexus: Nexus) -> list[LogParameter]:
        """Data Compression where drives up to LTO-4 had it, and software still looks."""
        return [parameter for parameter in self.data_compression(nexus) if parameter.code < 0x0100]

    @log_page(0x37)
    def performance(self, nexus: Nexus) -> list[LogParameter]:
        """Performance Characteristics (IBM): drive and media efficiency, where 0 is "unknown"."""
        return [counter(0x0000, 0, 1), counter(0x0001, 0, 1)]

    @log_page(0x37, 0x64)
    def performance_capacity(self, nexus: Nexus) -> list[LogParameter]:
        """Performance Characteristics, mount values of capacity (IBM), as LTFS asks for them: no capacity is lost."""
        return [counter(0x7113, 0, 4)]


def compression_ratio(original: int, stored: int) -> int:
    """In hundredths; 0 when nothing was moved."""
    return original * HUNDRED_PERCENT // stored if stored else 0


def _error_counters(amount: int, hard_errors: int) -> list[LogParameter]:
    # Corrected without and with delay, total, total corrected, times the algorithm ran: a file needs no correction.
    corrected = [counter(code, 0, 4) for code in range(5)]
    return [*corrected, counter(0x0005, amount), counter(0x0006, hard_errors, 4)]


def _used_to_position(medium: Cartridge) -> int:
    if medium.at_bop:
        return 0
    # What lies before a position in the middle is not kept count of.
    return medium.used_bytes(medium.position[0]) // MEGABYTE if medium.at_eod else UNKNOWN_CAPACITY
