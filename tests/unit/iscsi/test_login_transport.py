"""The login's bytes: in any portions, never one byte too many, limits before memory."""

import pytest

from scsi_targets.iscsi.login_transport import LoginReader
from scsi_targets.iscsi.pdu import LoginRequest, Pdu, PduFormatError


def feed(stream: bytes, step: int) -> tuple[list[Pdu], int]:
    """The PDUs in the stream when it arrives `step` bytes at a time, and how many bytes were taken."""
    reader, pdus, at = LoginReader(), [], 0
    while at < len(stream):
        portion = stream[at : at + min(step, reader.needed)]
        at += len(portion)
        if (pdu := reader.feed(portion)) is not None:
            pdus.append(pdu)
    return pdus, at


REQUESTS = [LoginRequest.make(b"A=1\0" + b"x" * n, cmd_sn=n) for n in (0, 1, 2, 3)] + [LoginRequest.make(cmd_sn=9)]
STREAM = b"".join(request.to_bytes() for request in REQUESTS)


@pytest.mark.parametrize("step", [1, 3, 47, 48, 49, 10_000])
def test_any_portions(step: int) -> None:
    pdus, taken = feed(STREAM, step)
    assert [(pdu.raw, pdu.data) for pdu in pdus] == [(request.raw, request.data) for request in REQUESTS]
    assert taken == len(STREAM)


def test_nothing_is_taken_beyond_the_pdu() -> None:
    reader = LoginReader()
    request = LoginRequest.make(b"abcde")
    stream = request.to_bytes() + b"full feature phase"
    assert reader.needed == 48
    assert reader.feed(stream[:48]) is None
    assert reader.needed == 8
    assert reader.feed(stream[48:56]) is not None
    with pytest.raises(ValueError, match="more bytes"):
        reader.feed(bytes(49))


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        (b"GET / HTTP/1.1\r\n".ljust(48), "no PDU has opcode 0x07"),
        (b"\x16\x03\x01".ljust(48, b"\0"), "no PDU has opcode 0x16"),
        (bytes([0x43, 0, 0, 0, 1]).ljust(48, b"\0"), "additional header segment"),
        (bytes([0x43, 0, 0, 0, 0, 0xFF, 0xFF, 0xFF]).ljust(48, b"\0"), "data segment of 16777215 bytes"),
        (bytes([0x43, 0, 0, 0, 0, 0, 0x20, 0x01]).ljust(48, b"\0"), "data segment of 8193 bytes"),
    ],
)
def test_refused_at_the_header(header: bytes, reason: str) -> None:
    with pytest.raises(PduFormatError, match=reason):
        LoginReader().feed(header)
