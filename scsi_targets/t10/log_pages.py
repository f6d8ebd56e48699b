"""Log pages (SPC-5 7.3): parameters and their encoding."""

from __future__ import annotations

from typing import NamedTuple

from scsi_targets.t10.fields import Bits, Structure

SUPPORTED_SUBPAGES = 0xFF


class LogPageHeader(Structure, length=4):
    """What every log page begins with (SPC-5 table 341)."""

    disable_save = Bits(0, 7, 1)
    subpage_format = Bits(0, 6, 1)
    page_code = Bits(0, 5, 6)
    subpage_code = Bits(1, 7, 8)
    page_length = Bits(2, 7, 16)


class LogParameterHeader(Structure, length=4):
    """What every log parameter begins with (SPC-5 table 343)."""

    parameter_code = Bits(0, 7, 16)
    control = Bits(2, 7, 8)
    parameter_length = Bits(3, 7, 8)


class GeneralStatistics(Structure, length=64):
    """General access statistics and performance log parameter (SPC-5 table 305), without its header."""

    read_commands = Bits(0, 7, 64)
    write_commands = Bits(8, 7, 64)
    logical_blocks_received = Bits(16, 7, 64)
    logical_blocks_transmitted = Bits(24, 7, 64)
    read_processing_intervals = Bits(32, 7, 64)
    write_processing_intervals = Bits(40, 7, 64)
    weighted_commands = Bits(48, 7, 64)
    weighted_processing = Bits(56, 7, 64)


class TimeInterval(Structure, length=8):
    """Time interval log parameter, value only: `integer` times ten to the `exponent` seconds (SPC-5 table 309).
    The exponent is in two's complement."""

    exponent = Bits(0, 7, 32)
    integer = Bits(4, 7, 32)


class InformationalException(Structure, length=3):
    """Informational exceptions general log parameter, value only (SPC-5 table 317)."""

    additional_sense_code = Bits(0, 7, 8)
    additional_sense_code_qualifier = Bits(1, 7, 8)
    most_recent_temperature = Bits(2, 7, 8)


class VeryHighFrequencyData(Structure, length=4):
    """Very high frequency data log parameter (ADC-3 6.1.2.2)."""

    prevented = Bits(0, 7, 1)  # PAMR
    host_initiated_unload = Bits(0, 6, 1)  # HUI
    memory_accessible = Bits(0, 5, 1)  # MACC
    compress = Bits(0, 4, 1)
    write_protect = Bits(0, 3, 1)
    cleaning_requested = Bits(0, 2, 1)
    cleaning_required = Bits(0, 1, 1)
    initialized = Bits(0, 0, 1, default=1)  # DINIT
    in_transition = Bits(1, 7, 1)
    robotic_access_allowed = Bits(1, 5, 1)
    medium_present = Bits(1, 4, 1)
    medium_seated = Bits(1, 2, 1)
    medium_threaded = Bits(1, 1, 1)
    mounted = Bits(1, 0, 1)
    activity = Bits(2, 7, 8)
    encryption_parameters_present = Bits(3, 4, 1)  # EPP
    tape_alert_flags_changed = Bits(3, 0, 1)


class Temperature(Structure, length=2):
    """Temperature log parameter, value only (SPC-5 7.3.21): degrees Celsius, FFh where there are none to tell."""

    temperature = Bits(1, 7, 8)


class CompressionEnabled(Structure, length=2):
    """Data compression enabled log parameter, value only (SSC-4 8.2.8)."""

    enabled = Bits(1, 0, 1)


class TapeAlertFlag(Structure, length=1):
    """One flag of the TapeAlert log page, value only (SSC-3 8.2.3)."""

    flag = Bits(0, 0, 1)


class TapeAlertFlags(Structure, length=8):
    """All flags as one number, flag 1 in its most significant bit (ADC-3 6.1.3, SSC-3 8.4.4)."""

    flags = Bits(0, 7, 64)


class VolumePartitionRecord(Structure, length=4):
    """What the record of one partition begins with in the Volume Statistics log page (SSC-4 8.2.10.3)."""

    record_data_length = Bits(0, 7, 8)  # of what follows this field
    partition_number = Bits(2, 7, 16)


class LogParameter(NamedTuple):
    """One log parameter. `control`: the control byte; 03h is a binary list parameter, 01h an ASCII one, 00h and 02h
    data counters (SPC-5 table 344)."""

    code: int
    value: bytes
    control: int = 0x03

    def encode(self) -> bytes:
        header = LogParameterHeader.encode(
            parameter_code=self.code, control=self.control, parameter_length=len(self.value)
        )
        return header + self.value


def counter(code: int, value: int, width: int = 8) -> LogParameter:
    """A data counter of `width` bytes that stops at its maximum."""
    limit = (1 << width * 8) - 1
    return LogParameter(code, min(value, limit).to_bytes(width, "big"), 0x02 if value <= limit else 0x00)


def log_page(page: int, subpage: int, parameters: list[LogParameter], *, from_code: int = 0) -> bytes:
    """The page's bytes, parameters in ascending order from `from_code` (PARAMETER POINTER)."""
    body = b"".join(p.encode() for p in sorted(parameters) if p.code >= from_code)
    header = LogPageHeader.encode(
        subpage_format=bool(subpage), page_code=page, subpage_code=subpage, page_length=len(body)
    )
    return header + body
