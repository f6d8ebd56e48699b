"""Failures of commands in words."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from appliance.failures import Failure, OperatorError
from datamover.initiator import InitiatorError
from scsi_targets.client.unit import CommandFailed, NoSuchAnswer
from scsi_targets.t10 import sense, sense_data
from scsi_targets.t10.sense import Sense, SenseCode

if TYPE_CHECKING:
    from appliance.copying.ends import End

RESERVATION_CONFLICT = 0x18
# What to do about it.
_ADVICE: dict[SenseCode, str] = {
    sense.MEDIUM_NOT_PRESENT: "; first: tapebay load BARCODE DRIVE",
    sense.END_OF_DATA_DETECTED: "; the tape does not go that far: tapebay cartridge list says how much is on it",
    sense.WRITE_PROTECTED: "; let it be written to, or take another",
}


@contextmanager
def naming(end: End) -> Iterator[None]:
    """What a command fails with is told of that end. Raises OperatorError."""
    try:
        yield
    except (CommandFailed, NoSuchAnswer, InitiatorError, ValueError) as error:
        words = told(error)
        raise OperatorError(Failure.REFUSED, words if words.startswith(str(end)) else f"{end}: {words}") from error


def told(error: BaseException) -> str:
    """What went wrong, for an operator."""
    if isinstance(error, NoSuchAnswer):
        return error.answer
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


def at_end_of_medium(failed: CommandFailed) -> bool:
    """Whether a copy ended since its tape was full, or nearly."""
    forwarded = failed.sense.forwarded if failed.sense is not None else None
    found = sense_data.decode(forwarded.sense) if forwarded is not None and forwarded.by_destination else None
    return found is not None and found.end_of_medium


def _status(status: int) -> str:
    if status == RESERVATION_CONFLICT:
        return "it is reserved by somebody else; see: tapebay reservation list"
    return f"status {status:02X}h"


def _sense(found: Sense) -> str:
    key, asc, ascq = found.code
    full, advice = ", end of medium" if found.end_of_medium else "", _ADVICE.get(found.code, "")
    name = "a block of another length" if found.incorrect_length else sense.NAMES.get(found.code, "sense").lower()
    return f"{name} ({key:X}/{asc:02X}/{ascq:02X}{full}){advice}"
