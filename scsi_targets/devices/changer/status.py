"""READ ELEMENT STATUS data (SMC-3 6.11): which elements, how each is described, and where the data is cut."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import groupby, islice

from scsi_targets.devices.changer.models import DriveIdentifier
from scsi_targets.devices.unit.identity import Identity
from scsi_targets.t10 import smc
from scsi_targets.t10.sense import SenseCode
from vlib_images.library.inventory import Element, ElementType

# The two characters that end an LTO bar code tell the medium: WORM is LT (generation 3) to LZ (generation 9).
WORM_SUFFIXES = frozenset({"LT", "LU", "LV", "LW", "LX", "LY", "LZ"})
CLEANING_PREFIX = "CLN"


@dataclass(frozen=True, slots=True)
class ElementStatus:
    """One element as the library reports it. identity: of the drive in a data transfer element."""

    element: Element
    accessible: bool
    fault: SenseCode | None = None
    identity: Identity | None = None


def select(elements: list[Element], type_code: int, starting_address: int, number: int) -> list[Element]:
    """At most `number` elements of a type (0: of all) from `starting_address` on, in order of address."""
    wanted = (e for e in elements if type_code in (smc.ALL_ELEMENTS, e.type) and e.address >= starting_address)
    return list(islice(sorted(wanted, key=lambda e: e.address), number))


def element_status(
    statuses: list[ElementStatus],
    allocation_length: int,
    *,
    volume_tag: bool,
    identifier: DriveIdentifier | None,
    send_action_code: int | None = None,
) -> bytes:
    """The data: header, a page for each type, whole descriptors only, up to the allocation length. The counts in the
    headers are of all there is to tell (SMC-3 6.11.2). identifier: how drives are named, None without DVCID.
    send_action_code: for REQUEST VOLUME ELEMENT ADDRESS, whose header has it."""
    pages = [_page(list(group), volume_tag, identifier) for _, group in groupby(statuses, key=lambda s: s.element.type)]
    first = statuses[0].element.address if statuses else 0
    total = sum(len(piece) for page in pages for piece in page)
    if send_action_code is None:
        header = smc.ElementStatusHeader.encode(
            first_element_address=first, number_of_elements=len(statuses), byte_count=total
        )
    else:
        header = smc.RequestVolumeElementAddressHeader.encode(
            first_element_address=first,
            number_of_elements=len(statuses),
            send_action_code=send_action_code,
            byte_count=total,
        )
    return _cut(header, (piece for page in pages for piece in page), allocation_length)


def _cut(header: bytes, pieces: Iterator[bytes], allocation_length: int) -> bytes:
    data = bytearray(header[:allocation_length])
    for piece in pieces:
        if len(data) + len(piece) > allocation_length:
            break
        data += piece
    return bytes(data)


def _page(statuses: list[ElementStatus], volume_tag: bool, identifier: DriveIdentifier | None) -> list[bytes]:
    """The page's header, then its descriptors, which all have the length of the longest."""
    names = [_identifier(status.identity, identifier) for status in statuses]
    longest = max(len(name) for name in names)
    descriptors = [
        _descriptor(status) + (_volume_tag(status.element) if volume_tag else b"") + name.ljust(longest, b"\0")
        for status, name in zip(statuses, names, strict=True)
    ]
    header = smc.ElementStatusPageHeader.encode(
        element_type_code=statuses[0].element.type,
        primary_volume_tag=volume_tag,
        element_descriptor_length=len(descriptors[0]),
        byte_count=len(descriptors[0]) * len(descriptors),
    )
    return [header, *descriptors]


def _descriptor(status: ElementStatus) -> bytes:
    element = status.element
    import_export = element.type is ElementType.IMPORT_EXPORT
    return smc.ElementDescriptor.encode(
        element_address=element.address,
        import_enabled=import_export,
        export_enabled=import_export,
        access=status.accessible and element.type is not ElementType.TRANSPORT,
        exception=status.fault is not None,
        placed_by_operator=import_export and element.placed_by_operator,
        full=element.barcode is not None,
        additional_sense_code=status.fault.asc if status.fault else 0,
        additional_sense_code_qualifier=status.fault.ascq if status.fault else 0,
        source_valid=element.source is not None,
        medium_type=medium_type(element.barcode),
        source_storage_element_address=element.source or 0,
    )


def medium_type(barcode: str | None) -> int:
    """MEDIUM TYPE of an element, from its cartridge's bar code as libraries do."""
    if barcode is None:
        return smc.UNSPECIFIED_MEDIUM
    if barcode.startswith(CLEANING_PREFIX):
        return smc.CLEANING_MEDIUM
    return smc.WORM_MEDIUM if len(barcode) == 8 and barcode[-2:] in WORM_SUFFIXES else smc.DATA_MEDIUM


def _volume_tag(element: Element) -> bytes:
    if element.barcode is None:
        return bytes(smc.VolumeTag.length)
    return smc.VolumeTag.encode(volume_identification_field=element.barcode)


_NAMES: dict[DriveIdentifier, Callable[[Identity], tuple[int, bytes]]] = {  # code set (1 binary, 2 ASCII), identifier
    DriveIdentifier.SERIAL_NUMBER: lambda drive: (2, drive.serial_number.encode("ascii")),
    DriveIdentifier.T10_VENDOR: lambda drive: (2, drive.t10_vendor_identifier),
    DriveIdentifier.NAA: lambda drive: (1, drive.naa),
}


def _identifier(identity: Identity | None, form: DriveIdentifier | None) -> bytes:
    if identity is None or form is None:
        return smc.ElementIdentifier.encode()
    code_set, name = _NAMES[form](identity)
    return (
        smc.ElementIdentifier.encode(code_set=code_set, identifier_type=form.value, identifier_length=len(name)) + name
    )
