"""Tape drives and the densities they read and write, as rows of data.

What a generation reads and writes is in vlib_images.cartridge.medium; here are the names that drives are sold under and
the numbers that drives report about a density and initiators compare with their own tables.
"""

from __future__ import annotations

from dataclasses import dataclass

from scsi_targets.t10.ssc_pages import CRC32C, REED_SOLOMON_CRC
from vlib_images.cartridge.medium import DRIVES, MEDIA, MediumType

MEGABYTE = 1_000_000


@dataclass(frozen=True, slots=True)
class Density:
    """One recording format, as REPORT DENSITY SUPPORT describes it (SSC-3 7.8.3)."""

    code: int
    bits_per_mm: int
    tracks: int
    wraps: int  # a partition is a whole number of wraps, two at least
    name: str  # U-<generation><data tracks written at once>
    description: str


DENSITIES: dict[int, Density] = {
    row.code: row
    for row in (
        Density(0x58, 15142, 1280, 80, "U-516", "Ultrium 5/16T"),
        Density(0x5A, 15143, 2176, 136, "U-616", "Ultrium 6/16T"),
        Density(0x5C, 19107, 3584, 112, "U-732", "Ultrium 7/32T"),
        Density(0x5D, 19107, 5376, 168, "M8", "Ultrium 8 Type M"),  # its names are ours: no published report has them
        Density(0x5E, 20669, 6656, 208, "U-832", "Ultrium 8/32T"),
        Density(0x60, 23031, 8960, 280, "U-932", "Ultrium 9/32T"),
    )
}


@dataclass(frozen=True, slots=True)
class DriveModel:
    """A drive as INQUIRY shows it."""

    vendor: str
    product: str
    revision: str
    generation: int  # of LTO
    # Logical block protection. Real drives of LTO-5 and LTO-6 do the first only; hosts ask (VPD page B5h), or take the
    # first for these generations, as LTFS does.
    block_protection_methods: tuple[int, ...] = (REED_SOLOMON_CRC, CRC32C)
    medium_type_tells_generation: bool = True  # IBM and Quantum; HP's MEDIUM TYPE tells WORM (01h) or not (00h) only
    ibm_pages: bool = True  # mode pages 24h and 25h, diagnostic page 80h: IBM's drives, which Quantum sells as well

    @property
    def name(self) -> str:
        """How a configuration names the model: vendor and product."""
        return f"{self.vendor} {self.product}"

    @property
    def media(self) -> tuple[MediumType, ...]:
        """The data media that this drive reads, oldest first, WORM behind its generation's data cartridge."""
        return tuple(medium for medium in MEDIA.values() if medium.name in DRIVES[self.generation].reads)

    @property
    def native_medium(self) -> MediumType:
        """The medium of the drive's own generation."""
        return MEDIA[f"LTO-{self.generation}"]


# Revisions above the floors below which LTFS calls a drive's firmware unsupported (LTO-5 B170, LTO-8 HB81).
_IBM_REVISIONS = {5: "G9Q1", 6: "KAJ9", 7: "Q3F3", 8: "R3G3", 9: "S2R3"}
_HP_REVISIONS = {5: "Z6ED", 6: "35GD", 7: "Y6GM", 8: "S2SM", 9: "R3G3"}


def _models(generation: int) -> list[DriveModel]:
    ibm, hp = _IBM_REVISIONS[generation], _HP_REVISIONS[generation]
    models = [
        DriveModel("IBM", f"{family}-{height}{generation}", ibm, generation)
        for family in ("ULT3580", "ULTRIUM")
        for height in ("TD", "HH")
    ]
    models.append(DriveModel("IBM", f"HH LTO Gen {generation}", ibm, generation))
    models.append(DriveModel("QUANTUM", f"ULTRIUM-HH{generation}", ibm, generation))
    vendor = "HP" if generation < 8 else "HPE"
    hp_like = DriveModel(
        vendor, f"Ultrium {generation}-SCSI", hp, generation, medium_type_tells_generation=False, ibm_pages=False
    )
    models.append(hp_like)
    return models


DRIVE_MODELS: dict[str, DriveModel] = {model.name: model for number in DRIVES for model in _models(number)}


def drive_model(name: str) -> DriveModel:
    """The row of that name ("IBM ULT3580-TD6"). Raises ValueError, which says what there is."""
    try:
        return DRIVE_MODELS[name]
    except KeyError:
        raise ValueError(f"there is no drive model {name!r}; known are {', '.join(sorted(DRIVE_MODELS))}") from None
