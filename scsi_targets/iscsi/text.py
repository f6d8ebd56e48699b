"""Text keys on the wire: `key=value` pairs, each ended by a NUL, spread over PDUs by the C bit (RFC 7143 6.1)."""

from __future__ import annotations

import re
from collections.abc import Iterable

Pair = tuple[str, str]

# A standard-label: a letter (iSCSIProtocolLevel starts with a small one), at most 63 characters; X# is RFC 7143 13.22.
KEY_NAME = re.compile(r"[A-Za-z][A-Za-z0-9.\-+@_#]{0,62}", re.ASCII)


class TextError(ValueError):
    """Text that breaks RFC 7143 6.1, or passes a limit; str is one line for the log, without the text itself."""


def parse(text: bytes) -> list[Pair]:
    """The pairs in `text`, in order. Raises TextError."""
    if text and text[-1] != 0:
        raise TextError("the last key=value pair has no NUL after it")
    parts = [part for part in text.split(b"\0") if part]
    return [_parse_pair(part) for part in parts]


def _parse_pair(part: bytes) -> Pair:
    try:
        key, separator, value = part.decode("utf-8").partition("=")
    except UnicodeDecodeError:
        raise TextError("a key=value pair is not UTF-8") from None
    if not separator:
        raise TextError("a key has no '=' after it")
    if not KEY_NAME.fullmatch(key):
        raise TextError(f"{key[:64]!r} is no key name")
    return key, value


def encode(pairs: Iterable[Pair]) -> bytes:
    """The pairs as they go on the wire."""
    return b"".join(f"{key}={value}\0".encode() for key, value in pairs)


class TextAssembler:
    """Joins the data segments of PDUs whose C bit says that the text goes on; never holds more than `limit_bytes`."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._text = bytearray()

    @property
    def empty(self) -> bool:
        """Whether nothing waits for a continuation."""
        return not self._text

    def add(self, data: bytes, more: bool) -> list[Pair] | None:
        """Take one data segment: None while `more` is to come, then all the pairs. Raises TextError."""
        if len(self._text) + len(data) > self._limit_bytes:
            raise TextError(f"more than {self._limit_bytes} bytes of text")
        self._text += data
        if more:
            return None
        text = bytes(self._text)
        self._text.clear()
        return parse(text)


class TextSender:
    """Hands out a long text in data segments of at most `segment_bytes`."""

    def __init__(self) -> None:
        self._text = memoryview(b"")

    @property
    def pending(self) -> bool:
        """Whether a part is still to be sent."""
        return bool(self._text)

    def start(self, text: bytes) -> None:
        """Begin a new text; what was left of an old one is dropped."""
        self._text = memoryview(text)

    def take(self, segment_bytes: int) -> tuple[bytes, bool]:
        """The next data segment, and whether more follows it."""
        segment = bytes(self._text[:segment_bytes])
        self._text = self._text[segment_bytes:]
        return segment, self.pending
