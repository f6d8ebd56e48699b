"""The eight-byte LUN field of a PDU (SAM-5 4.7)."""

from __future__ import annotations

NO_LUN = -1  # a number that no logical unit has
PERIPHERAL, FLAT_SPACE = 0, 1
LAST_LUN = 0x3FFF


def decode_lun(field: int) -> int:
    """The logical unit number in the field, 0 to 16383; NO_LUN for what a single-level target of this kind never names.

    Flat space addressing (SAM-5 4.7.7.3) and peripheral device addressing (4.7.7.2) name the same unit. The bus
    identifier of the latter counts as the number's upper bits: there is no bus but 0 here, and initiators such as
    libiscsi write LUN 300 plainly, as 012Ch.
    """
    if field & 0xFFFF_FFFF_FFFF:  # the lower levels
        return NO_LUN
    head = field >> 48
    return head & LAST_LUN if head >> 14 in (PERIPHERAL, FLAT_SPACE) else NO_LUN


def encode_lun(lun: int) -> list[int]:
    """Every field that addresses this unit, the plain one first."""
    return [lun << 48, (FLAT_SPACE << 14 | lun) << 48]
