"""Log pages (SPC-5 7.3): parameters and their encoding."""

from __future__ import annotations

from typing import NamedTuple

from scsi_targets.t10.fields import Bits, Structure

SUPPORTED_LOG_PAGES = 0x00
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
