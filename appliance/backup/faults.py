"""What ended a copy to tape: whose fault it was, which decides how a backup goes on; and an operator's words for it."""

from __future__ import annotations

from appliance.failures import Failure, OperatorError
from scsi_targets.client.tape_stream import StreamFailed
from scsi_targets.client.unit import CommandFailed
from scsi_targets.devices.unit.local_session import Aborted, Stopped
from scsi_targets.t10 import sense, sense_data
from scsi_targets.t10.sense import SenseCode

# Another drive may do better: SPC-5 4.4.5 on what these keys mean.
_OF_A_DRIVE = (sense.NOT_READY, sense.HARDWARE_ERROR, sense.ABORTED_COMMAND, sense.UNIT_ATTENTION)


class DriveUnfit(OperatorError):
    """A drive that cannot be used now: it is reserved, or the robot cannot bring the cartridge to it."""

    def __init__(self, message: str) -> None:
        super().__init__(Failure.REFUSED, message)


def told_by_tape(error: BaseException) -> SenseCode | None:
    """What the drive said, to a copy or by itself; None where it was not the drive that failed."""
    if isinstance(error, StreamFailed):
        forwarded = error.failed.sense.forwarded if error.failed.sense is not None else None
        told = sense_data.decode(forwarded.sense) if forwarded is not None and forwarded.by_destination else None
        return told.code if told is not None else None
    if isinstance(error, CommandFailed) and error.sense is not None and error.sense.code.key != sense.COPY_ABORTED:
        return error.sense.code
    return None


def is_overflow(error: BaseException) -> bool:
    """Whether the tape has come to its end."""
    told = told_by_tape(error)
    return told is not None and told.key == sense.VOLUME_OVERFLOW


def is_of_the_medium(error: BaseException) -> bool:
    """Whether the tape takes nothing more where it stands."""
    told = told_by_tape(error)
    return told is not None and told.key == sense.MEDIUM_ERROR_KEY


def is_of_the_drive(error: BaseException) -> bool:
    """Whether the same may go well on another drive."""
    if isinstance(error, DriveUnfit) or (isinstance(error, Aborted) and not isinstance(error, Stopped)):
        return True
    told = told_by_tape(error)
    return told is not None and (told.key in _OF_A_DRIVE or told.key == sense.MEDIUM_ERROR_KEY)


def words_of(error: StreamFailed | CommandFailed) -> str:
    """What happened, for an operator."""
    failed = error.failed if isinstance(error, StreamFailed) else error
    after = f" after {error.whole_bytes} bytes of the archive" if isinstance(error, StreamFailed) else ""
    if failed.sense is None:
        return f"a command failed with status {failed.status:02X}h{after}"
    forwarded = failed.sense.forwarded
    told = sense_data.decode(forwarded.sense) if forwarded is not None else None
    if forwarded is None:
        return f"the drive answered {sense.name_of(failed.sense.code)}{after}"
    who = "the drive" if forwarded.by_destination else "the disk's snapshot"
    what = sense.name_of(told.code) if told is not None else f"status {forwarded.status:02X}h"
    return f"{who} answered {what}{after}"
