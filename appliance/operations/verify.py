"""verify: is what is on tape what was backed up?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from appliance.failures import Failure, OperatorError
from appliance.operations.backup import DriveName, Number, refusals
from appliance.operations.verb import OnLibrary, Parameters, Result, Scope, verb

if TYPE_CHECKING:
    from appliance.backup.verify import Verified


class VerifyBackup(Parameters):
    number: Number
    disks: Annotated[bool, Field(description="Compare the disks as they are now, instead of reading the tapes.")] = (
        False
    )
    drive: DriveName = None


class Difference(Result):
    """A file that differs; without a name: a cartridge that cannot be read."""

    name: str
    cartridge: str
    what: str


class BackupVerification(Result):
    """What was compared, and the first thousand differences."""

    backup: int
    files: int
    content_bytes: int
    equal: bool
    differences: int
    listed: list[Difference]


@verb("verify", Scope.OPERATE, reports_progress=True)
def verify(context: OnLibrary, parameters: VerifyBackup) -> BackupVerification:
    """Compare the checksums of a backup's files, as its tapes have them, with its catalogue; no byte leaves here."""
    from appliance.backup.filesystems.reader import NotReadable

    service = context.library.backups
    with refusals():
        try:
            if parameters.disks:
                return _shown(parameters.number, service.verify_disks(parameters.number, context.progress))
            return _shown(parameters.number, service.verify(parameters.number, parameters.drive, context.progress))
        except NotReadable as error:
            raise OperatorError(Failure.REFUSED, str(error)) from error


def _shown(number: int, verified: Verified) -> BackupVerification:
    return BackupVerification(
        backup=number,
        files=verified.files,
        content_bytes=verified.content_bytes,
        equal=not verified.found,
        differences=verified.found,
        listed=[
            Difference(
                name=problem.name.decode(errors="surrogateescape"), cartridge=problem.cartridge, what=problem.what
            )
            for problem in verified.problems
        ],
    )
