"""What a daemon and the process that reads a file system for it tell each other: frames of a letter, a length, a body.

From the daemon: WALK. From the process: KIND (JSON: words, whether files can be seen), READ (offset and length: the
daemon answers with DATA, FAILED or NOT_KEPT), LINES (files, as appliance.backup.listing writes them), END (of the
walk), REFUSED (why the file system cannot be read).
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Final

WALK, KIND, READ, DATA, FAILED, LINES, END, REFUSED = b"W", b"K", b"R", b"D", b"F", b"L", b"E", b"X"
NOT_KEPT: Final = b"N"  # of a snapshot: content of files that is on tape already
HEAD: Final = struct.Struct(">cI")
RANGE: Final = struct.Struct(">QI")
# Lines are sent when there are so many bytes of them; a line is ASCII, and one that is longer than a frame is not sent.
LINES_BYTES: Final = 64 << 10
LIMIT_LINE_BYTES: Final = 31 << 20
LIMIT_BODY_BYTES: Final = 32 << 20


def frame(letter: bytes, body: bytes = b"") -> bytes:
    """One frame."""
    return HEAD.pack(letter, len(body)) + body


def read_frame(read: Callable[[int], bytes]) -> tuple[bytes, bytes]:
    """The next frame. read(count): exactly so many bytes, or b"" at the end. Raises EOFError, ValueError."""
    head = read(HEAD.size)
    if len(head) < HEAD.size:
        raise EOFError
    letter, length = HEAD.unpack(head)
    if length > LIMIT_BODY_BYTES:
        raise ValueError(f"a frame of {length} bytes")
    body = read(length) if length else b""
    if len(body) < length:
        raise EOFError
    return letter, body
