"""The iSCSI TransportID (SPC-5 7.6.4.6): an initiator port's name in persistent reservations."""

from __future__ import annotations

import re
from collections.abc import Iterator

from scsi_targets.devices.unit.task import ISID_BYTES, MAX_NAME_BYTES, Nexus
from scsi_targets.t10 import sense, vpd
from scsi_targets.t10.persistent_reservation import TransportId
from scsi_targets.t10.sense import CheckCondition

ISCSI_INITIATOR_DEVICE = 0x05  # FORMAT CODE 00b, PROTOCOL IDENTIFIER 5h: the name alone
ISCSI_INITIATOR_PORT = 0x45  # FORMAT CODE 01b
# The longest name with `,i,0x`, an ISID in hexadecimal and the null, padded to a multiple of four.
MAX_TRANSPORT_ID_BYTES = TransportId.length + (MAX_NAME_BYTES + len(",i,0x") + 2 * ISID_BYTES + 1 + 3) // 4 * 4
ISID_TEXT = re.compile(r"[0-9A-Fa-f]{12}")


def transport_id(nexus: Nexus) -> bytes:
    """The TransportID of a nexus's initiator port."""
    name = vpd.scsi_name_string(nexus.initiator_port)
    return TransportId.encode(format_and_protocol=ISCSI_INITIATOR_PORT, additional_length=len(name)) + name


def initiator_port(raw: bytes, offset: int) -> tuple[str, bytes]:
    """(name, ISID) of the initiator port that a TransportID names; `offset` is where it lies in its parameter list.

    Raises CheckCondition when it is not a whole TransportID of an iSCSI initiator port that can be."""
    (name, isid), rest = _first(raw, offset)
    if rest or isid is None:
        raise CheckCondition(sense.INVALID_FIELD_IN_PARAMETER_LIST, offset)
    return name, isid


def initiator_ports(raw: bytes, offset: int) -> Iterator[tuple[str, bytes | None]]:
    """The same of TransportIDs one after another; None for the ISID: of all ports of the initiator of that name."""
    while raw:
        named, rest = _first(raw, offset)
        yield named
        offset += len(raw) - len(rest)
        raw = rest


def _first(raw: bytes, offset: int) -> tuple[tuple[str, bytes | None], bytes]:
    """What the first TransportID names, and what comes after it."""
    if len(raw) <= TransportId.length:
        raise CheckCondition(sense.PARAMETER_LIST_LENGTH_ERROR)
    head = TransportId.decode(raw)
    end = TransportId.length + head.additional_length
    name, isid = None, None
    if end <= len(raw) and head.format_and_protocol in (ISCSI_INITIATOR_PORT, ISCSI_INITIATOR_DEVICE):
        name, isid = _name_and_isid(raw[TransportId.length : end], head.format_and_protocol == ISCSI_INITIATOR_PORT)
    if not name or len(name.encode()) > MAX_NAME_BYTES:
        raise CheckCondition(sense.INVALID_FIELD_IN_PARAMETER_LIST, offset)
    return (name, isid), raw[end:]


def _name_and_isid(raw: bytes, port: bool) -> tuple[str | None, bytes | None]:
    """Of `<name>,i,0x<ISID>` for a port, `<name>` for a device, null terminated and padded with nulls; (None, None)
    when that is not what it is."""
    text, end, padding = raw.partition(b"\0")
    try:
        name, separator, isid = text.decode("utf-8").partition(",i,0x")
    except UnicodeDecodeError:
        return None, None
    if not end or padding.strip(b"\0") or bool(separator) is not port or (port and not ISID_TEXT.fullmatch(isid)):
        return None, None
    return name.lower(), bytes.fromhex(isid) if port else None
