"""Sizes and network addresses as people write them."""

import re
from typing import NamedTuple

_UNITS = {
    "": 1,
    "b": 1,
    **{f"{letter}b": 1000**power for power, letter in enumerate("kmgt", start=1)},
    **{f"{letter}ib": 1024**power for power, letter in enumerate("kmgt", start=1)},
}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([a-z]*)", re.IGNORECASE)


class Address(NamedTuple):
    """A TCP address; str() is HOST:PORT with an IPv6 host in brackets."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_size(text: str | int) -> int:
    """Bytes of "256 MiB", "1.5 TB", "4096" or 4096. Raises ValueError that says what a size looks like."""
    match = _SIZE.fullmatch(str(text).strip())
    if match is None or match[2].lower() not in _UNITS:
        raise ValueError(f'{text!r} is not a size; write for example "256 MiB", "2.5 TB" or a number of bytes')
    whole = float(match[1]) if "." in match[1] else int(match[1])
    return int(whole * _UNITS[match[2].lower()])


def format_size(length_bytes: int) -> str:
    """A size for people, with one decimal at most: decimal units where they say it exactly ("2.5 TB", as a cartridge's
    capacity is printed on it), else binary ones ("256 MiB")."""
    for base, suffix in ((1024, "iB"), (1000, "B")):
        for power, letter in enumerate("KMGT", start=1):
            tenths, rest = divmod(length_bytes * 10, base**power)
            if not rest and 10 <= tenths < base * 10:
                return f"{_tenths(tenths)} {letter}{suffix}"
    for power, letter in ((4, "T"), (3, "G"), (2, "M"), (1, "K")):
        if length_bytes >= 1024**power:
            return f"{_tenths(length_bytes * 10 // 1024**power)} {letter}iB"
    return f"{length_bytes} B"


def _tenths(tenths: int) -> str:
    return f"{tenths / 10:.1f}".removesuffix(".0")


def parse_address(text: str) -> Address:
    """An Address of "HOST:PORT" or "[IPV6]:PORT". Raises ValueError that says what is wrong."""
    host, separator, port = text.strip().rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    if not separator or not host or not port.isdecimal() or (":" in host and not bracketed):
        raise ValueError(f'{text!r} is not an address; write HOST:PORT or [IPV6]:PORT, for example "0.0.0.0:3260"')
    if int(port) > 0xFFFF:
        raise ValueError(f"port {port} in {text!r} is above 65535")
    return Address(host.strip("[]"), int(port))
