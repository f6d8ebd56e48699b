"""Log pages (SPC-5 7.3): parameters and their encoding."""

from __future__ import annotations

from typing import NamedTuple

SUPPORTED_LOG_PAGES = 0x00
SUPPORTED_SUBPAGES = 0xFF


class LogParameter(NamedTuple):
    """One log parameter. `control`: the control byte; 03h is a binary list parameter, 01h an ASCII one, 00h and 02h
    data counters (SPC-5 table 344)."""

    code: int
    value: bytes
    control: int = 0x03

    def encode(self) -> bytes:
        return self.code.to_bytes(2, "big") + bytes([self.control, len(self.value)]) + self.value


def counter(code: int, value: int, width: int = 8) -> LogParameter:
    """A data counter of `width` bytes that stops at its maximum."""
    limit = (1 << width * 8) - 1
    return LogParameter(code, min(value, limit).to_bytes(width, "big"), 0x02 if value <= limit else 0x00)


def log_page(page: int, subpage: int, parameters: list[LogParameter], *, from_code: int = 0) -> bytes:
    """The page's bytes, parameters in ascending order from `from_code` (PARAMETER POINTER)."""
    body = b"".join(p.encode() for p in sorted(parameters) if p.code >= from_code)
    first = page | (0x40 if subpage else 0)
    return bytes([first, subpage]) + len(body).to_bytes(2, "big") + body
