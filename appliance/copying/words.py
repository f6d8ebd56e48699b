"""Failures of commands in words."""

from __future__ import annotations

from scsi_targets.client.unit import CommandFailed
from scsi_targets.t10 import sense, sense_data
from scsi_targets.t10.sense import Sense

RESERVATION_CONFLICT = 0x18


def told(error: BaseException) -> str:
    """What went wrong, for an operator."""
    if not isinstance(error, CommandFailed):
        return str(error)
    if error.sense is None:
        return _status(error.status)
    forwarded = error.sense.forwarded
    if forwarded is None:
        return _sense(error.sense)
    side = "destination" if forwarded.by_destination else "source"
    found = sense_data.decode(forwarded.sense)
    return f"the {side} says: {_sense(found) if found is not None else _status(forwarded.status)}"


def _status(status: int) -> str:
    if status == RESERVATION_CONFLICT:
        return "it is reserved by somebody else; see: tapebay reservation list"
    return f"status {status:02X}h"


def _sense(found: Sense) -> str:
    key, asc, ascq = found.code
    full = ", end of medium" if found.end_of_medium else ""
    return f"{sense.NAMES.get(found.code, 'sense').lower()} ({key:X}/{asc:02X}/{ascq:02X}{full})"
