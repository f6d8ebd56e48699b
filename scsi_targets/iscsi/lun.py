"""The eight-byte LUN field of a PDU (SAM-5 4.7)."""

from __future__ import annotations

NO_LUN = -1  # a number that no logical unit has
PERIPHERAL, FLAT_SPACE = 0, 1


def decode_lun(field: int) -> int:
    """The logical unit number in the field, 0 to 16383; NO_LUN for what a single-level target of this kind never names.

    Peripheral device addressing on bus 0 (SAM-5 4.7.7.2) and flat space addressing (4.7.7.3) name the same unit.
    """
    if field & 0xFFFF_FFFF_FFFF:  # the lower levels
        return NO_LUN
    head = field >> 48
    if head < 256:
        return head
    return head & 0x3FFF if head >> 14 == FLAT_SPACE else NO_LUN


def encode_lun(lun: int) -> list[int]:
    """Every field that addresses this unit, the one that initiators use most first."""
    flat = (FLAT_SPACE << 14 | lun) << 48
    return [lun << 48, flat] if lun < 256 else [flat]
