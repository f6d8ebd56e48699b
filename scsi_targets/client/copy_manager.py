"""A logical unit as a copy manager: EXTENDED COPY sent to it."""

from __future__ import annotations

from collections.abc import Sequence

from scsi_targets.client.unit import Unit
from scsi_targets.t10 import copy_descriptors as copy

PARAMETERS_BYTES = 1024


class CopyManager(Unit):
    """Any disk or drive that copies; timeouts are those of whole copies."""

    def extended_copy(
        self, cscds: Sequence[bytes], segments: Sequence[bytes], inline_data: bytes = b"", *, list_identifier: int = 1
    ) -> None:
        """EXTENDED COPY(LID1), to its end. Raises CommandFailed, whose sense says which segment (its command_specific)
        and what the source or destination said (forwarded)."""
        data = copy.parameter_list(cscds, segments, inline_data, list_identifier=list_identifier)
        self.run(copy.ExtendedCopyLid1.encode(parameter_list_length=len(data)), data)

    def operating_parameters(self) -> copy.OperatingParameters:
        """RECEIVE COPY OPERATING PARAMETERS: the limits of a list."""
        cdb = copy.ReceiveCopyOperatingParameters.encode(allocation_length=PARAMETERS_BYTES)
        return copy.OperatingParameters.decode(self.run(cdb, data_in_length=PARAMETERS_BYTES))

    def status(self, list_identifier: int = 1) -> copy.CopyStatus:
        """RECEIVE COPY STATUS(LID1), from another session of the same nexus' name: this one waits for the copy."""
        cdb = copy.ReceiveCopyStatusLid1.encode(
            list_identifier=list_identifier, allocation_length=copy.CopyStatus.length
        )
        return copy.CopyStatus.decode(self.run(cdb, data_in_length=copy.CopyStatus.length))
