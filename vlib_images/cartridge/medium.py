"""Kinds of media, as rows of data: what a barcode suffix means, what a drive generation can do with it.

Sources: Ultrium format specifications (capacities, lengths), IBM LTO SCSI Reference (density and medium type codes),
LTO barcode label specification (suffixes).
"""

import re
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class MediumType:
    """One kind of cartridge.

    density_code: primary density code (MODE SENSE block descriptor, MAM 0405h). medium_type: mode parameter header.
    capacity_bytes: native capacity (10**9-based as printed on the cartridge). length_meters: tape length (MAM 0402h).
    """

    name: str
    generation: int
    suffix: str
    density_code: int
    medium_type: int
    capacity_bytes: int
    maximum_partitions: int
    length_meters: int
    worm: bool = False
    cleaning: bool = False


_GB: Final = 10**9


def _pair(
    generation: int, suffixes: str, density: int, type_code: int, size: int, parts: int, length: int
) -> list[MediumType]:
    data, worm = suffixes.split()
    row = (density, type_code, size * _GB, parts, length)
    worm_row = (density, type_code | 0x04, size * _GB, parts, length)
    return [
        MediumType(f"LTO-{generation}", generation, data, *row),
        MediumType(f"LTO-{generation} WORM", generation, worm, *worm_row, worm=True),
    ]


MEDIA: Final[dict[str, MediumType]] = {
    row.name: row
    for row in [
        *_pair(5, "L5 LV", 0x58, 0x58, 1500, 2, 846),
        *_pair(6, "L6 LW", 0x5A, 0x68, 2500, 4, 846),
        *_pair(7, "L7 LX", 0x5C, 0x78, 6000, 4, 960),
        MediumType("LTO-7 M8", 8, "M8", 0x5D, 0x78, 9000 * _GB, 4, 960),
        *_pair(8, "L8 LY", 0x5E, 0x88, 12000, 4, 960),
        *_pair(9, "L9 LZ", 0x60, 0x98, 18000, 4, 1035),
        MediumType("Cleaning", 0, "CU", 0x00, 0x01, 0, 0, 319, cleaning=True),
    ]
}
"""Every kind of medium, by name."""

BY_SUFFIX: Final[dict[str, MediumType]] = {row.suffix: row for row in MEDIA.values()}
"""Every kind of medium, by the last two characters of its barcode."""


@dataclass(frozen=True, slots=True)
class Compatibility:
    """What the drives of one generation can read, and write, by medium name (WORM media go with their generation)."""

    reads: frozenset[str]
    writes: frozenset[str]


def _with_worm(*names: str) -> frozenset[str]:
    return frozenset(names) | {f"{name} WORM" for name in names if f"{name} WORM" in MEDIA}


DRIVES: Final[dict[int, Compatibility]] = {
    5: Compatibility(_with_worm("LTO-5"), _with_worm("LTO-5")),
    6: Compatibility(_with_worm("LTO-5", "LTO-6"), _with_worm("LTO-5", "LTO-6")),
    7: Compatibility(_with_worm("LTO-5", "LTO-6", "LTO-7"), _with_worm("LTO-6", "LTO-7")),
    8: Compatibility(_with_worm("LTO-7", "LTO-7 M8", "LTO-8"), _with_worm("LTO-7", "LTO-7 M8", "LTO-8")),
    9: Compatibility(_with_worm("LTO-8", "LTO-9"), _with_worm("LTO-8", "LTO-9")),
}
"""Drive generation to what it can do."""

LABEL: Final = re.compile(r"[A-Z0-9]{6}(?P<suffix>[A-Z0-9]{2})")


def medium_for_barcode(barcode: str) -> MediumType | None:
    """The kind of medium that a standard label (6 characters and a suffix) names; None for any other barcode.

    CLN and three digits name a cleaning cartridge whatever generation the suffix says.
    """
    match = LABEL.fullmatch(barcode)
    if match is None:
        return None
    if re.fullmatch(r"CLN[A-Z0-9]\d\d", barcode[:6]):
        return MEDIA["Cleaning"]
    return BY_SUFFIX.get(match["suffix"])


def can_read(generation: int, medium: MediumType) -> bool:
    """Whether a drive of this generation reads the medium; never a cleaning cartridge. KeyError: no such drive."""
    return medium.name in DRIVES[generation].reads


def can_write(generation: int, medium: MediumType) -> bool:
    """Whether a drive of this generation writes the medium. KeyError: no such drive."""
    return medium.name in DRIVES[generation].writes
