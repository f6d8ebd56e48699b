"""READ ELEMENT STATUS data (SMC-3 6.11): which elements, how each is described, and where the data is cut.

What is asked for is counted, not looked at: counts and lengths follow from the ranges of addresses, and only elements
whose descriptors fit into the allocation length are read from the inventory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from itertools import groupby
from typing import NamedTuple

from scsi_targets.devices.changer.models import DriveIdentifier
from scsi_targets.devices.unit.identity import Identity
from scsi_targets.t10 import smc
from scsi_targets.t10.sense import SenseCode
from vlib_images.cartridge.medium import medium_for_barcode
from vlib_images.library.elements import ElementType, Layout


class ElementStatus(NamedTuple):
    """One element as the library reports it. source: an address, None when unknown or this very element."""

    address: int
    barcode: str | None
    source: int | None
    placed_by_operator: bool = False
    accessible: bool = True
    fault: SenseCode | None = None


class Page(NamedTuple):
    """Elements of one kind, by address, in order."""

    kind: ElementType
    addresses: Sequence[int]


Describe = Callable[[Page], Iterable[ElementStatus]]
DriveIdentities = Callable[[Page], Iterable[Identity]]


def select(layout: Layout, type_code: int, starting_address: int, number: int) -> list[Page]:
    """At most `number` elements of a type (0: of all) from `starting_address` on, in order of address."""
    pages = []
    for kind, addresses in sorted(layout.ranges(), key=lambda row: row[1].start):
        if type_code in (smc.ALL_ELEMENTS, kind) and number:
            chosen = addresses[max(0, starting_address - addresses.start) :][:number]
            number -= len(chosen)
            if chosen:
                pages.append(Page(kind, chosen))
    return pages


def pick(layout: Layout, addresses: Iterable[int], type_code: int, starting_address: int, number: int) -> list[Page]:
    """The same for chosen elements: those of `addresses` that select() would choose from."""
    kinds = [(kind, run) for kind, run in layout.ranges() if type_code in (smc.ALL_ELEMENTS, kind)]
    found = sorted(
        (address, kind)
        for address in addresses
        for kind, run in kinds
        if address in run and address >= starting_address
    )
    rows = groupby(found[:number], key=lambda row: row[1])
    return [Page(kind, [address for address, _ in group]) for kind, group in rows]


def element_status(
    pages: list[Page],
    allocation_length: int,
    describe: Describe,
    *,
    volume_tag: bool,
    identifier: DriveIdentifier | None = None,
    identities: DriveIdentities = lambda page: (),
    send_action_code: int | None = None,
) -> bytes:
    """The data: header, a page for each type, whole descriptors only, up to the allocation length. The counts in the
    headers are of all there is to tell (SMC-3 6.11.2). identifier: how drives are named, None without DVCID, and
    identities() the drives of a page. send_action_code: for REQUEST VOLUME ELEMENT ADDRESS, whose header has it."""
    named = [_names(page, identifier, identities) for page in pages]
    lengths = [_descriptor_length(names, volume_tag) for names in named]
    total = sum(
        smc.ElementStatusPageHeader.length + length * len(page.addresses)
        for page, length in zip(pages, lengths, strict=True)
    )
    data = bytearray(_header(pages, total, send_action_code)[:allocation_length])
    for page, names, length in zip(pages, named, lengths, strict=True):
        room = allocation_length - len(data) - smc.ElementStatusPageHeader.length
        if room < 0:
            break
        data += _page_header(page, length, volume_tag)
        shown = Page(page.kind, page.addresses[: room // length])
        data += b"".join(_descriptors(shown, names, length, volume_tag, describe)) if shown.addresses else b""
        if len(shown.addresses) < len(page.addresses):
            break
    return bytes(data)


def _header(pages: list[Page], total: int, send_action_code: int | None) -> bytes:
    values = {
        "first_element_address": pages[0].addresses[0] if pages else 0,
        "number_of_elements": sum(len(page.addresses) for page in pages),
        "byte_count": total,
    }
    if send_action_code is None:
        return smc.ElementStatusHeader.encode(**values)
    return smc.RequestVolumeElementAddressHeader.encode(**values, send_action_code=send_action_code)


def _page_header(page: Page, descriptor_length: int, volume_tag: bool) -> bytes:
    return smc.ElementStatusPageHeader.encode(
        element_type_code=page.kind,
        primary_volume_tag=volume_tag,
        element_descriptor_length=descriptor_length,
        byte_count=descriptor_length * len(page.addresses),
    )


def _descriptor_length(names: list[bytes], volume_tag: bool) -> int:
    """Of every descriptor of a page: that of the longest."""
    tag = smc.VolumeTag.length if volume_tag else 0
    return smc.ElementDescriptor.length + tag + max(map(len, names), default=smc.ElementIdentifier.length)


def _descriptors(page: Page, names: list[bytes], length: int, volume_tag: bool, describe: Describe) -> Iterable[bytes]:
    import_export = page.kind is ElementType.IMPORT_EXPORT
    reachable = page.kind is not ElementType.TRANSPORT
    tag = _volume_tag if volume_tag else _no_volume_tag
    for number, (address, barcode, source, by_operator, accessible, fault) in enumerate(describe(page)):
        medium = None if barcode is None else medium_type(barcode)
        head = _head(
            import_export, reachable and accessible, import_export and by_operator, fault, source is not None, medium
        )
        parts = (address.to_bytes(2, "big"), head, (source or 0).to_bytes(2, "big"), tag(barcode))
        yield b"".join((*parts, names[number] if names else b"")).ljust(length, b"\0")


@lru_cache(maxsize=256)
def _head(
    import_export: bool, access: bool, placed_by_operator: bool, fault: SenseCode | None, source_valid: bool,
    medium: int | None,
) -> bytes:  # fmt: skip
    """What stands between a descriptor's two addresses: thousands of elements differ in nothing else."""
    descriptor = smc.ElementDescriptor.encode(
        import_enabled=import_export,
        export_enabled=import_export,
        access=access,
        exception=fault is not None,
        placed_by_operator=placed_by_operator,
        full=medium is not None,
        additional_sense_code=fault.asc if fault else 0,
        additional_sense_code_qualifier=fault.ascq if fault else 0,
        source_valid=source_valid,
        medium_type=medium or smc.UNSPECIFIED_MEDIUM,
    )
    return descriptor[2:10]


@lru_cache(maxsize=1 << 16)
def medium_type(barcode: str) -> int:
    """MEDIUM TYPE of an element, from its cartridge's bar code as libraries do: what the drives take it for."""
    medium = medium_for_barcode(barcode)
    if medium is not None and medium.cleaning:
        return smc.CLEANING_MEDIUM
    return smc.WORM_MEDIUM if medium is not None and medium.worm else smc.DATA_MEDIUM


@lru_cache(maxsize=1 << 16)
def _volume_tag(barcode: str | None) -> bytes:
    return smc.VolumeTag.encode(volume_identification_field=barcode) if barcode else bytes(smc.VolumeTag.length)


def _no_volume_tag(_barcode: str | None) -> bytes:
    return b""


_NAMES: dict[DriveIdentifier, Callable[[Identity], tuple[int, bytes]]] = {  # code set (1 binary, 2 ASCII), identifier
    DriveIdentifier.SERIAL_NUMBER: lambda drive: (2, drive.serial_number.encode("ascii")),
    DriveIdentifier.T10_VENDOR: lambda drive: (2, drive.t10_vendor_identifier),
    DriveIdentifier.NAA: lambda drive: (1, drive.naa),
}


def _names(page: Page, form: DriveIdentifier | None, identities: DriveIdentities) -> list[bytes]:
    """What ends each descriptor of a page, where it is more than zeros."""
    if form is None or page.kind is not ElementType.DRIVE:
        return []
    return [_identifier(identity, form) for identity in identities(page)]


def _identifier(identity: Identity, form: DriveIdentifier) -> bytes:
    code_set, name = _NAMES[form](identity)
    return (
        smc.ElementIdentifier.encode(code_set=code_set, identifier_type=form.value, identifier_length=len(name)) + name
    )
