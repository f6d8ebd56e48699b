"""The libraries that a media changer can present itself as: rows of data.

Element addresses are those of the real libraries' SCSI references, since backup software keeps them in its own
configuration. A library's addresses are chosen once, with its model and size: see `layout`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from vlib_images.library.inventory import Layout


class DriveIdentifier(Enum):
    """How READ ELEMENT STATUS names a drive when DVCID asks for it (SMC-3 6.11.6, SPC-5 table 478)."""

    SERIAL_NUMBER = 0  # vendor-specific: the drive's serial number as it is
    T10_VENDOR = 1  # T10 vendor identification, product identification and serial number
    NAA = 3  # the drive's NAA designator


@dataclass(frozen=True, slots=True)
class ChangerModel:
    """One emulated library: the INQUIRY strings, the first element addresses, and its habits."""

    vendor: str
    product: str
    revision: str
    first_transport: int
    first_storage: int
    first_import_export: int
    first_drive: int
    drive_identifier: DriveIdentifier = DriveIdentifier.T10_VENDOR
    # Whether MOVE MEDIUM out of a drive unloads it first. Libraries that do not answer 53/02 until a host has unloaded.
    unloads_drives: bool = True

    @property
    def name(self) -> str:
        """What a configuration calls it: vendor and product."""
        return f"{self.vendor} {self.product}"

    def layout(self, *, slots: int, import_export: int, drives: int) -> Layout:
        """The element addresses of such a library with one transport. ValueError: more elements than its address
        ranges can hold."""
        try:
            return Layout(
                transport=range(self.first_transport, self.first_transport + 1),
                storage=range(self.first_storage, self.first_storage + slots),
                import_export=range(self.first_import_export, self.first_import_export + import_export),
                drives=range(self.first_drive, self.first_drive + drives),
            )
        except ValueError as error:
            raise ValueError(
                f"a {self.name} cannot have {slots} slots, {import_export} import/export slots and {drives} drives: "
                f"its {error}"
            ) from error


_MODELS = (
    # TS3500 and TS4500; then TS3100, TS3200 and TS4300.
    ChangerModel("IBM", "03584L32", "A510", 1, 1025, 769, 257),
    ChangerModel("IBM", "3573-TL", "F.11", 1, 4096, 16, 256),
    # MSL2024, MSL4048, MSL6480; then ESL G3.
    ChangerModel("HP", "MSL G3 Series", "8.70", 0, 1001, 101, 1, DriveIdentifier.SERIAL_NUMBER),
    ChangerModel("HP", "ESL G3 Series", "665H", 1, 4096, 16, 256),
    ChangerModel("QUANTUM", "Scalar i3", "210G", 1, 4096, 16, 256),
    ChangerModel("QUANTUM", "Scalar i6", "210G", 1, 4096, 16, 256),
    ChangerModel("ADIC", "Scalar i2000", "735A", 1, 4096, 16, 256),
    ChangerModel("STK", "L700", "0318", 0, 1000, 10, 500, DriveIdentifier.SERIAL_NUMBER),
    ChangerModel("STK", "SL500", "1501", 0, 1000, 10, 500, DriveIdentifier.SERIAL_NUMBER),
)

MODELS: dict[str, ChangerModel] = {model.name: model for model in _MODELS}


def find_model(name: str) -> ChangerModel:
    """The model that a configuration names. KeyError, with a text that lists the names, when there is none."""
    try:
        return MODELS[name]
    except KeyError:
        raise KeyError(f"no library model {name!r}; there are: {', '.join(sorted(MODELS))}") from None
