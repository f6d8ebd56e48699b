"""Sizes and network addresses as people write them."""

import re
from typing import NamedTuple

from pydantic import ByteSize, TypeAdapter

_SIZE = re.compile(r"\d*\.?\d+\s*(?:[kmgtpe]i?)?b?", re.IGNORECASE | re.ASCII)
_BYTES = TypeAdapter(ByteSize)
_LIMIT_BYTES = 1 << 63  # off_t
LEAST_MEDIUM_BYTES = 1 << 20  # of a disk or cartridge that an operator makes; less is a forgotten unit


class HostAndPort(NamedTuple):
    """A TCP address; str() is HOST:PORT with an IPv6 host in brackets."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_size(text: str | int) -> int:
    """Bytes of "256 MiB", "1.5 TB", "10G" (decimal, as "10 GB"), "4096" or 4096. Raises ValueError that says what a
    size looks like."""
    written = str(text).strip()
    if not _SIZE.fullmatch(written):  # pydantic's own pattern takes the beginning of "1,5 GB" and of bits
        raise ValueError(f'{text!r} is not a size; write for example "256 MiB", "2.5 TB" or a number of bytes')
    length_bytes = int(_BYTES.validate_python(f"{written}B" if written[-1] in "iI" else written))
    if length_bytes >= _LIMIT_BYTES:
        raise ValueError(f"{text!r} is more than any file can hold; the most is just below 8 EiB")
    return length_bytes


def parse_size_of_at_least(text: str | int, floor_bytes: int) -> int:
    """As parse_size(); raises ValueError also for a size below `floor_bytes`, which is more likely a forgotten unit."""
    length_bytes = parse_size(text)
    if length_bytes < floor_bytes:
        raise ValueError(
            f"{text!r} is {format_size(length_bytes)}; the least is {format_size(floor_bytes)}, so write a unit, for "
            'example "10 GiB"'
        )
    return length_bytes


def format_size(length_bytes: int) -> str:
    """A size for people, with one decimal at most: decimal units where they say it exactly ("2.5 TB", as a cartridge's
    capacity is printed on it), else binary ones ("256 MiB")."""
    for base, suffix in ((1024, "iB"), (1000, "B")):
        for power, letter in enumerate("KMGTPE", start=1):
            tenths, rest = divmod(length_bytes * 10, base**power)
            if not rest and 10 <= tenths < base * 10:
                return f"{_tenths(tenths)} {letter}{suffix}"
    for power, letter in ((6, "E"), (5, "P"), (4, "T"), (3, "G"), (2, "M"), (1, "K")):
        if length_bytes >= 1024**power:
            return f"{_tenths(length_bytes * 10 // 1024**power)} {letter}iB"
    return f"{length_bytes} B"


def _tenths(tenths: int) -> str:
    return f"{tenths / 10:.1f}".removesuffix(".0")


def parse_address(text: str) -> HostAndPort:
    """An Address of "HOST:PORT" or "[IPV6]:PORT". Raises ValueError that says what is wrong."""
    host, separator, port = text.strip().rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    if not separator or not host or not port.isdecimal() or (":" in host and not bracketed):
        raise ValueError(f'{text!r} is not an address; write HOST:PORT or [IPV6]:PORT, for example "0.0.0.0:3260"')
    if int(port) > 0xFFFF:
        raise ValueError(f"port {port} in {text!r} is above 65535")
    return HostAndPort(host.strip("[]"), int(port))
