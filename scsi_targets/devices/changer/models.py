"""The libraries that a media changer can present itself as: rows of data.

Element addresses are those of the real libraries' SCSI references, since backup software keeps them in its own
configuration. A library's addresses are chosen once, with its model and size: see `layout`. What else a model has of
its own is here too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from vlib_images.library.elements import ElementType, Layout
from vlib_images.library.partition import Partition

# NUMBER OF ELEMENTS of READ ELEMENT STATUS has 16 bits.
MAXIMUM_ELEMENTS = 0xFFFF


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
    # Fields of standard INQUIRY data that are the model's own: where it says that it has a bar code reader.
    inquiry_fields: Mapping[str, Any] = field(default_factory=dict, hash=False)

    @property
    def name(self) -> str:
        """What a configuration calls it: vendor and product."""
        return f"{self.vendor} {self.product}"

    def layout(self, *, slots: int, import_export: int, drives: int) -> Layout:
        """The element addresses of such a library with one transport: the real library's, where they suffice. A range
        that does not fit before the next one pushes that up, and what does not fit below 65536 is moved down.
        ValueError: more elements than a media changer can have."""
        if (total := 1 + slots + import_export + drives) > MAXIMUM_ELEMENTS:
            raise ValueError(
                f"{slots} slots, {import_export} import/export slots and {drives} drives are {total} elements with the "
                f"robot; a media changer has {MAXIMUM_ELEMENTS} at most"
            )
        wanted = {
            "transport": (self.first_transport, 1),
            "storage": (self.first_storage, slots),
            "import_export": (self.first_import_export, import_export),
            "drives": (self.first_drive, drives),
        }
        names = sorted(wanted, key=lambda name: wanted[name])
        starts = _without_overlap([wanted[name] for name in names])
        return Layout(**{name: range(s, s + wanted[name][1]) for name, s in zip(names, starts, strict=True)})

    def partition(
        self,
        name: str,
        serial_number: str,
        *,
        transport: Sequence[int],
        storage: Sequence[int],
        import_export: Sequence[int],
        drives: Sequence[int],
        barcodes: str = "*",
    ) -> Partition:
        """A partition that presents itself as such a library, with these elements of the inventory in this order.
        ValueError: more elements than a media changer can have, or one twice."""
        return Partition(
            name=name,
            model=self.name,
            serial_number=serial_number,
            layout=self.layout(slots=len(storage), import_export=len(import_export), drives=len(drives)),
            elements={
                ElementType.TRANSPORT: transport,
                ElementType.STORAGE: storage,
                ElementType.IMPORT_EXPORT: import_export,
                ElementType.DRIVE: drives,
            },
            barcodes=barcodes,
        )


def _without_overlap(runs: list[tuple[int, int]]) -> list[int]:
    """First addresses for runs of (wanted first address, length), in order, none over another or past 65535."""
    starts = []
    free = 0
    for first, length in runs:
        starts.append(max(first, free))
        free = starts[-1] + length
    limit = 0x10000
    for number in reversed(range(len(runs))):
        starts[number] = min(starts[number], limit - runs[number][1])
        limit = starts[number]
    return starts


_BAR_CODE_READER = {"vendor_specific": bytes(19) + b"\x01"}  # BarC, bit 0 of byte 55
_SCALAR_BAR_CODE_READER = {**_BAR_CODE_READER, "vendor_specific_bit": 1}  # and bit 5 of byte 6

_MODELS = (
    # TS3500 and TS4500; then TS3100, TS3200 and TS4300.
    ChangerModel("IBM", "03584L32", "A510", 1, 1025, 769, 257),
    ChangerModel("IBM", "3573-TL", "F.11", 1, 4096, 16, 256, inquiry_fields=_BAR_CODE_READER),
    # MSL2024, MSL4048, MSL6480; then ESL G3.
    ChangerModel("HP", "MSL G3 Series", "8.70", 0, 1001, 101, 1, DriveIdentifier.SERIAL_NUMBER),
    ChangerModel("HP", "ESL G3 Series", "665H", 1, 4096, 16, 256),
    ChangerModel("QUANTUM", "Scalar i3", "210G", 1, 4096, 16, 256, inquiry_fields=_SCALAR_BAR_CODE_READER),
    ChangerModel("QUANTUM", "Scalar i6", "210G", 1, 4096, 16, 256, inquiry_fields=_SCALAR_BAR_CODE_READER),
    ChangerModel("ADIC", "Scalar i2000", "735A", 1, 4096, 16, 256, inquiry_fields=_SCALAR_BAR_CODE_READER),
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
