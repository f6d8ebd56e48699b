"""Cartridges: making, listing, protecting and deleting them."""

from __future__ import annotations

from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from appliance.failures import Failure, OperatorError
from appliance.operations.reach import barcodes_in_reach, refuse_unknown
from appliance.operations.verb import (
    OPTIONAL_SIZE,
    Barcode,
    Flag,
    OnFiles,
    Parameters,
    Result,
    Scope,
    library_of,
    verb,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from vlib_images.library.elements import Element

SHELF = "shelf"
CREATED_TOGETHER = 100  # cartridges that wait for the disk together


class CartridgeDetails(Result):
    """One cartridge: where it is and what it is. problem: None, or why it cannot be read."""

    barcode: str
    place: str
    library_partition: str | None = Field(description="The partition of the library that it is in.")
    pool: str | None = Field(description="The pool that it is in.")
    medium: str | None
    capacity_bytes: int
    used_bytes: int
    partitions: int
    worm: bool
    write_protected: bool
    problem: str | None


class NoParameters(Parameters):
    pass


class OneCartridge(Parameters):
    barcode: Barcode


class CreateCartridges(Parameters):
    barcode: Barcode
    count: Annotated[int, Field(ge=1, le=65535, description="How many, numbered on from the barcode.")] = 1
    medium: Annotated[str | None, Field(description="LTO-5 to LTO-9; by default what the barcode's end says.")] = None
    capacity: Annotated[
        str | None, OPTIONAL_SIZE, Field(description='"100 GiB"; by default what such a medium holds.')
    ] = None
    worm: Annotated[bool, Field(description="Write once, read many.")] = False
    place: Annotated[
        str | None, Flag("--to"), Field(description="slot:3, shelf, ...; by default the first free slot.")
    ] = None
    partition: Annotated[
        str | None, Field(description="In its free slots; by default where only one has a rule that the barcode fits.")
    ] = None
    skip_existing: Annotated[
        bool, Field(description="Make only those of the range that are not there: completes an interrupted run.")
    ] = False


class ProtectCartridge(Parameters):
    barcode: Barcode
    protected: Annotated[bool, Field(description="Whether drives only read it.")]


class DeleteCartridge(Parameters):
    barcode: Barcode
    count: Annotated[int, Field(ge=1, le=65535, description="A range of them, numbered on from the barcode.")] = 1


class Deleted(Result):
    """What is gone."""

    barcodes: list[str]


@contextmanager
def still(context: OnFiles, parameters: Parameters) -> Iterator[None]:
    """Nobody else changes or moves a cartridge without it."""
    library = library_of(context)
    with context.files.changing, library.robot.turn if library is not None else nullcontext():
        yield


@verb("cartridge.create", Scope.OPERATE, reports_progress=True)
def create(context: OnFiles, parameters: CreateCartridges) -> list[CartridgeDetails]:
    """Make new, empty cartridges, in the first free slots or where it is said."""
    from appliance.library.cartridges import capacity_of, medium_of, new_cartridge, numbered_on

    files = context.files
    barcodes = numbered_on(parameters.barcode, parameters.count)
    capacity_bytes = capacity_of(parameters.capacity)
    media = {new: medium_of(new, parameters.medium, parameters.worm) for new in barcodes}
    with files.changing:
        wanted = [new for new in barcodes if not (parameters.skip_existing and new in files.inventory)]
        places = _places_for(context, wanted, parameters.place, parameters.partition)
        for new in wanted:  # all of them, before any is made
            files.inventory.check_new(new)
        for first in range(0, len(wanted), CREATED_TOGETHER):
            batch = wanted[first : first + CREATED_TOGETHER]
            files.cartridges.create_all({new: media[new] for new in batch}, capacity_bytes)
            for _ in context.mover.add_all(list(zip(batch, places[first:], strict=False))):
                pass  # a batch is whole before anything may stop it: its directories are there
            context.log.info(
                "cartridges made", first=batch[0], last=batch[-1], count=len(batch), medium=media[batch[0]].name
            )
            context.progress(first + len(batch), len(wanted))
    made = {new: new_cartridge(new, media[new], capacity_bytes) for new in wanted}
    return _all_described(context, barcodes, made)


def _places_for(
    context: OnFiles, barcodes: list[str], place: str | None, partition: str | None
) -> Sequence[int | None]:
    from appliance.operations.free_places import places_in_partitions

    if place == SHELF:
        return [None] * len(barcodes)
    if place is not None:
        return [_given_place(context, barcodes, place)]
    return places_in_partitions(context.files, barcodes, partition)


def _given_place(context: OnFiles, barcodes: list[str], place: str) -> int:
    from appliance.operations.places import parse_place
    from vlib_images.library.elements import ElementType

    element = parse_place(context.files.inventory, context.drives, place, context.files.partitions())
    if len(barcodes) != 1 or element is None:
        raise OperatorError(Failure.USAGE, f"{len(barcodes)} cartridges do not fit into {place}")
    if element.type not in (ElementType.STORAGE, ElementType.IMPORT_EXPORT):
        raise OperatorError(Failure.REFUSED, f"only the robot puts cartridges into {place}; give a slot")
    if element.barcode is not None:
        raise OperatorError(Failure.REFUSED, f"{place} holds cartridge {element.barcode}")
    _refuse_misfit(context, barcodes[0], element)
    return element.address


def _refuse_misfit(context: OnFiles, barcode: str, element: Element) -> None:
    from appliance.library.partitions import partition_at

    partition = partition_at(context.files.partitions(), element)
    if partition is not None and not partition.admits(barcode):
        message = f"{barcode} does not fit the barcode rule of partition {partition.name}: {partition.barcodes}"
        raise OperatorError(Failure.REFUSED, message)


@verb("cartridge.list", Scope.READ, key=("barcode",), confinable=True)
def list_(context: OnFiles, parameters: NoParameters) -> list[CartridgeDetails]:
    """List every cartridge: those in the library by element, then the shelf; page by page, by barcode."""
    inventory = context.files.inventory
    if context.window is not None:
        return [_described(context, barcode) for barcode in context.window.cut(barcodes_in_reach(context))]
    if context.caller.confined:
        return _all_described(context, barcodes_in_reach(context))
    inside = [element for element in inventory.elements() if element.barcode is not None]
    return _all_described(context, [*(str(element.barcode) for element in inside), *inventory.shelf()])


@verb("cartridge.show", Scope.READ, confinable=True)
def show(context: OnFiles, parameters: OneCartridge) -> CartridgeDetails:
    """Show one cartridge in full."""
    refuse_unknown(context, parameters.barcode)
    return _described(context, parameters.barcode)


@verb("cartridge.adopt", Scope.OPERATE)
def adopt(context: OnFiles, parameters: OneCartridge) -> CartridgeDetails:
    """Put a cartridge whose directory has appeared on the shelf; one that has a place keeps it."""
    barcode, files = parameters.barcode, context.files
    if not files.cartridges.has(barcode):
        raise OperatorError(Failure.NOT_FOUND, f"there is no directory of a cartridge {barcode}")
    with files.changing:
        if barcode not in files.inventory:
            files.inventory.add(barcode)
            context.log.info("cartridge adopted", barcode=barcode)
    return _described(context, barcode)


@verb("cartridge.protect", Scope.OPERATE, changes="cartridge.show", still=still)
def protect(context: OnFiles, parameters: ProtectCartridge) -> CartridgeDetails:
    """Slide the write-protect tab of a cartridge that is in no drive."""
    with context.files.changing:
        _refuse_loaded(context, parameters.barcode)
        context.files.cartridges.protect(parameters.barcode, parameters.protected)
    return _described(context, parameters.barcode)


@verb("cartridge.delete", Scope.ADMINISTER, reports_progress=True, changes="cartridge.show", still=still)
def delete(context: OnFiles, parameters: DeleteCartridge) -> Deleted:
    """Delete cartridges, which are in no drive, and what is on them. There is no way back.

    Of a range, those that are there; at least one has to be.
    """
    from appliance.library.cartridges import numbered_on

    files = context.files
    barcodes = numbered_on(parameters.barcode, parameters.count)
    doomed = [barcode for barcode in barcodes if barcode in files.inventory] or barcodes[:1]
    for barcode in doomed:  # all, before any is deleted
        _refuse_loaded(context, barcode)
    for done, barcode in enumerate(doomed, start=1):
        with files.changing:  # one at a time, so that other operators get their turn
            element = _refuse_loaded(context, barcode)
            if element is not None:
                context.mover.remove(element.address)
            files.cartridges.delete(barcode, files.inventory)
        context.log.info("cartridge deleted", barcode=barcode)
        context.progress(done, len(doomed))
    return Deleted(barcodes=doomed)


def _refuse_loaded(context: OnFiles, barcode: str) -> Element | None:
    """Where a cartridge is; None: on the shelf. OperatorError when that is a drive."""
    from appliance.operations.places import format_place
    from vlib_images.library.elements import ElementType

    element = context.files.inventory.find(barcode)
    if element is not None and element.type is ElementType.DRIVE:
        raise OperatorError(Failure.REFUSED, f"cartridge {barcode} is in {format_place(element)}; unload it first")
    return element


def _described(context: OnFiles, barcode: str) -> CartridgeDetails:
    return _all_described(context, [barcode])[0]


def _all_described(
    context: OnFiles, barcodes: Sequence[str], known: Mapping[str, dict[str, Any]] | None = None
) -> list[CartridgeDetails]:
    """known: of cartridges that need not be looked at, as describe() tells."""
    from appliance.operations.places import format_place, partition_names

    files, known = context.files, known or {}
    partition_of = partition_names(files)
    made = []
    for barcode in barcodes:
        element = files.inventory.find(barcode)  # first: there may be no such cartridge
        facts = known.get(barcode) or files.cartridges.describe(barcode)
        where = {
            "place": format_place(element),
            "library_partition": partition_of(element),
            "pool": files.settings.pool_of(barcode),
        }
        made.append(CartridgeDetails.model_validate({**facts, "barcode": barcode, **where}))
    return made
