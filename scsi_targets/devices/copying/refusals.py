"""How a copy manager refuses a parameter list (SPC-5 5.17.7.3)."""

from __future__ import annotations

from scsi_targets.t10 import sense
from scsi_targets.t10.fields import Field
from scsi_targets.t10.sense import CheckCondition, SenseCode


def invalid(
    offset: int, field: Field | None = None, code: SenseCode = sense.INVALID_FIELD_IN_PARAMETER_LIST
) -> CheckCondition:
    """ILLEGAL REQUEST that points into the parameter list: at `field` of the descriptor that begins at `offset`."""
    return CheckCondition(code, offset + (field.byte if field is not None else 0), field_in_cdb=False)
