"""Sense data taken apart: the opposite of sense.Sense.encode(), for whoever gets it from a device (SPC-5 4.4)."""

from __future__ import annotations

from scsi_targets.t10.sense import ForwardedSense, Sense, SenseCode

DESCRIPTOR_FORMATS = {0x72: False, 0x73: True}  # response code to whether the error is a deferred one
FIXED_FORMATS = {0x70: False, 0x71: True}
INFORMATION, COMMAND_SPECIFIC, STREAM_COMMANDS, FORWARDED = 0x00, 0x01, 0x04, 0x0C


def decode(raw: bytes) -> Sense | None:
    """What sense data says, residuals as signed numbers; None when it is none, or cut off before its key is complete.
    What it is too short for is as if it were not there."""
    response = raw[0] & 0x7F if raw else 0
    if response in DESCRIPTOR_FORMATS and len(raw) >= 8:
        return _descriptors(raw, DESCRIPTOR_FORMATS[response])
    if response in FIXED_FORMATS and len(raw) >= 3:
        return _fixed(raw.ljust(18, b"\0"), FIXED_FORMATS[response])
    return None


def _fixed(raw: bytes, deferred: bool) -> Sense:
    return _with_stream_bits(
        Sense(
            SenseCode(raw[2] & 0x0F, raw[12], raw[13]),
            information=int.from_bytes(raw[3:7], "big", signed=True) if raw[0] & 0x80 else None,
            command_specific=int.from_bytes(raw[8:12], "big"),
            deferred=deferred,
            forwarded=_forwarded_in(raw),
        ),
        raw[2],
    )


def _forwarded_in(raw: bytes) -> ForwardedSense | None:
    """COMMAND-SPECIFIC INFORMATION of COPY ABORTED says where the status of an end is (SPC-5 5.17.7.4)."""
    if raw[2] & 0x0F != 0xA:
        return None
    for by_destination in (False, True):
        at = raw[8 + by_destination]
        if 18 <= at < len(raw):
            return ForwardedSense(by_destination, raw[at], raw[at + 1 :])
    return None


def _descriptors(raw: bytes, deferred: bool) -> Sense:
    found = Sense(SenseCode(raw[1] & 0x0F, raw[2], raw[3]), deferred=deferred)
    at, end = 8, min(len(raw), 8 + raw[7])
    while at + 2 <= end:
        body = raw[at : min(end, at + 2 + raw[at + 1])]
        found = _with_descriptor(found, body)
        at += 2 + raw[at + 1]
    return found


def _with_descriptor(found: Sense, body: bytes) -> Sense:
    if body[0] == INFORMATION and len(body) >= 12:
        return found._replace(information=int.from_bytes(body[4:12], "big", signed=True))
    if body[0] == COMMAND_SPECIFIC and len(body) >= 12:
        return found._replace(command_specific=int.from_bytes(body[4:12], "big"))
    if body[0] == STREAM_COMMANDS and len(body) >= 4:
        return _with_stream_bits(found, body[3])
    if body[0] == FORWARDED and len(body) >= 4:
        return found._replace(forwarded=ForwardedSense(body[2] & 0x0F == 2, body[3], body[4:]))
    return found


def _with_stream_bits(found: Sense, bits: int) -> Sense:
    return found._replace(
        filemark=bool(bits & 0x80), end_of_medium=bool(bits & 0x40), incorrect_length=bool(bits & 0x20)
    )
