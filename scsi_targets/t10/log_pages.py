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
