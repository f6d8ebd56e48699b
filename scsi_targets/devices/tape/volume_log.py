"""Log pages about the loaded volume: 17h (SSC-4 8.2.10), and IBM's 30h and 31h, which older software reads."""

from __future__ import annotations

from typing import TYPE_CHECKING

from scsi_targets.devices.tape.log import MEBIBYTE, compression_ratio
from scsi_targets.devices.tape.models import MEGABYTE
from scsi_targets.devices.tape.part import TapePart
from scsi_targets.devices.unit.part import log_page
from scsi_targets.devices.unit.task import Nexus
from scsi_targets.t10.fields import integers
from scsi_targets.t10.log_pages import LogParameter, VolumePartitionRecord, counter

if TYPE_CHECKING:
    from scsi_targets.devices.tape.transfer import TapeTransfers
    from scsi_targets.devices.tape.usage import DriveUsage
    from vlib_images.cartridge.cartridge import Cartridge

NEVER = 0xFFFFFFFFFFFF  # no such logical object in the partition
UNKNOWN = 0xFFFFFFFFFFFE  # there may be one
# (parameter code, width) of counts that nothing here makes grow: data sets, retries, suspended writes and reads.
_ZEROES = ((0x02, 8), (0x03, 4), (0x05, 2), (0x06, 2), (0x07, 8), (0x08, 4), (0x0A, 2), (0x0B, 2))


class VolumeLogPages(TapePart):
    """Without a medium, page 17h says that it is not valid and nothing else."""

    def __init__(self, drive: TapeTransfers, usage: DriveUsage) -> None:
        super().__init__(drive)
        self._usage = usage

    @log_page(0x17)
    def volume_statistics(self, nexus: Nexus) -> list[LogParameter]:
        """Volume Statistics."""
        medium = self._drive.medium
        if medium is None:
            return [counter(0x0000, 0, 1)]
        return [
            counter(0x0000, 1, 1),
            *self._volume_counts(medium),
            *_volume_identity(medium),
            counter(0x0080, self._drive.write_protection() is not None, 1),
            counter(0x0081, medium.worm, 1),
            counter(0x0101, 0, 4),
            counter(0x0102, 0, 4),
            *_partition_records(medium),
        ]

    def _volume_counts(self, medium: Cartridge) -> list[LogParameter]:
        usage, mount = medium.usage, medium.usage.mount
        amounts = self._usage.amounts()
        capacity = sum(medium.partition_capacity_bytes(n) for n in range(medium.partition_count))
        used = sum(medium.used_bytes(n) for n in range(medium.partition_count))
        return [
            counter(0x0001, usage.loads, 4),
            *(counter(code, 0, width) for code, width in _ZEROES),
            counter(0x0004, self._usage.mount_write_errors, 2), counter(0x0009, self._usage.mount_read_errors, 2),
            counter(0x000C, self._usage.mount_write_errors, 2), counter(0x000D, self._usage.mount_read_errors, 2),
            counter(0x000E, mount.bytes_written // MEGABYTE, 4), counter(0x000F, mount.bytes_read // MEGABYTE, 4),
            counter(0x0010, usage.bytes_written // MEGABYTE), counter(0x0011, usage.bytes_read // MEGABYTE),
            counter(0x0012, compression_ratio(amounts.written, amounts.stored), 2),
            counter(0x0013, compression_ratio(amounts.read, amounts.fetched), 2),
            counter(0x0016, capacity // MEGABYTE, 4), counter(0x0017, used // MEGABYTE, 4),
        ]  # fmt: skip

    # ---- IBM's pages ---------------------------------------------------------------------------------------------

    @log_page(0x30)
    def tape_usage(self, nexus: Nexus) -> list[LogParameter]:
        """Tape Usage: mounts, data sets, retries, errors."""
        loads = self._drive.medium.usage.loads if self._drive.medium is not None else 0
        widths = (4, 8, 4, 2, 2, 2, 8, 4, 2, 2, 2)
        values = (loads, 0, 0, self._usage.mount_write_errors, 0, 0, 0, 0, self._usage.mount_read_errors, 0, 0)
        rows = zip(values, widths, strict=True)
        return [counter(code, value, width) for code, (value, width) in enumerate(rows, start=1)]

    @log_page(0x31)
    def tape_capacity(self, nexus: Nexus) -> list[LogParameter]:
        """Tape Capacity: remaining and maximum capacity of partitions 0 and 1, in MiB."""
        medium = self._drive.medium
        remaining, maximum = [0, 0], [0, 0]
        for partition in range(min(2, medium.partition_count) if medium is not None else 0):
            assert medium is not None
            remaining[partition] = medium.remaining_bytes(partition) // MEBIBYTE
            maximum[partition] = medium.partition_capacity_bytes(partition) // MEBIBYTE
        return [counter(code, value, 4) for code, value in enumerate(remaining + maximum, start=1)]


def _volume_identity(medium: Cartridge) -> list[LogParameter]:
    texts = ((0x0040, medium.uuid, 32), (0x0042, medium.barcode, 32), (0x0045, _personality(medium), 9))
    return [LogParameter(code, text.ljust(width).encode("ascii", "replace"), 0x01) for code, text, width in texts]


def _personality(medium: Cartridge) -> str:
    return f"Ultrium-{medium.medium.generation}"[:9]


def _partition_records(medium: Cartridge) -> list[LogParameter]:
    """0200h to 0204h: a record for each partition (SSC-4 8.2.10.3).

    0200h is the first encrypted logical object, 0201h the first unencrypted one behind it (none without the other).
    """
    numbers = range(medium.partition_count)
    early = medium.early_warning_bytes
    capacity = [medium.partition_capacity_bytes(n) // MEGABYTE for n in numbers]
    used = [medium.used_bytes(n) // MEGABYTE for n in numbers]
    remaining = [max(0, medium.remaining_bytes(n) - early) // MEGABYTE for n in numbers]
    encrypted = [medium.encrypted_blocks(n) for n in numbers]
    first = [UNKNOWN if found is None else _object(found.first) for found in encrypted]
    clear_behind = [UNKNOWN if found is None else _object(found.clear_behind) for found in encrypted]
    return [
        _records(0x0200, first, 6), _records(0x0201, clear_behind, 6),
        _records(0x0202, capacity, 4), _records(0x0203, used, 4), _records(0x0204, remaining, 4),
    ]  # fmt: skip


def _object(number: int | None) -> int:
    return NEVER if number is None else number


def _records(code: int, values: list[int], width: int) -> LogParameter:
    limit = (1 << width * 8) - 1
    rest = VolumePartitionRecord.length - 1 + width
    records = (
        VolumePartitionRecord.encode(record_data_length=rest, partition_number=number)
        + integers([min(value, limit)], width)
        for number, value in enumerate(values)
    )
    return LogParameter(code, b"".join(records))
