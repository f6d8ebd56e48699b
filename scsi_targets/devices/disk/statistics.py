"""What a disk has done since it was started: log pages 19h and 2Fh (SPC-5 7.3.9, 7.3.11), and figures for operators."""

from __future__ import annotations

import threading
import time

from scsi_targets.devices.unit.part import Part, log_page
from scsi_targets.devices.unit.task import Nexus
from scsi_targets.t10.log_pages import GeneralStatistics, InformationalException, LogParameter, TimeInterval

GENERAL_STATISTICS, INFORMATIONAL_EXCEPTIONS = 0x19, 0x2F
MICROSECOND_EXPONENT = -6
NO_TEMPERATURE = 0xFF


class Traffic:
    """Counts commands, bytes and the time they took. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.reset()

    def reset(self) -> None:
        with self._lock:
            self.read_commands = self.read_bytes = self.read_nanoseconds = 0
            self.write_commands = self.written_bytes = self.write_nanoseconds = 0

    def was_read(self, length: int, began_nanoseconds: int) -> None:
        """A command that began then has read `length` bytes."""
        took = time.monotonic_ns() - began_nanoseconds
        with self._lock:
            self.read_commands += 1
            self.read_bytes += length
            self.read_nanoseconds += took

    def was_written(self, length: int, began_nanoseconds: int) -> None:
        """A command that began then has written `length` bytes."""
        took = time.monotonic_ns() - began_nanoseconds
        with self._lock:
            self.write_commands += 1
            self.written_bytes += length
            self.write_nanoseconds += took


class DiskStatistics(Part):
    """`traffic` counts what READ and WRITE commands move."""

    def __init__(self, block_length: int) -> None:
        self.traffic = Traffic()
        self._block_length = block_length

    @log_page(GENERAL_STATISTICS)
    def general_statistics_log_page(self, nexus: Nexus) -> list[LogParameter]:
        """General Statistics and Performance, with the Time Interval that its intervals are counted in."""
        traffic = self.traffic
        figures = GeneralStatistics.encode(
            read_commands=traffic.read_commands,
            write_commands=traffic.write_commands,
            logical_blocks_received=traffic.written_bytes // self._block_length,
            logical_blocks_transmitted=traffic.read_bytes // self._block_length,
            read_processing_intervals=traffic.read_nanoseconds // 1000,
            write_processing_intervals=traffic.write_nanoseconds // 1000,
        )
        microsecond = TimeInterval.encode(exponent=MICROSECOND_EXPONENT & 0xFFFFFFFF, integer=1)
        return [LogParameter(0x0001, figures), LogParameter(0x0003, microsecond)]

    @log_page(INFORMATIONAL_EXCEPTIONS)
    def informational_exceptions_log_page(self, nexus: Nexus) -> list[LogParameter]:
        """Informational Exceptions: none, and no temperature."""
        return [LogParameter(0x0000, InformationalException.encode(most_recent_temperature=NO_TEMPERATURE))]

    def reset_log_page(self, page: int, subpage: int) -> None:
        if page == GENERAL_STATISTICS:
            self.traffic.reset()
