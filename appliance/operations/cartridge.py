"""Cartridges: making, listing, protecting and deleting them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from appliance.failures import Failure, OperatorError
from appliance.operations.verb import OPTIONAL_SIZE, Barcode, Flag, OnFiles, Parameters, Result, Scope, verb

if TYPE_CHECKING:
    from vlib_images.library.elements import Element

SHELF = "shelf"
CREATED_TOGETHER = 100  # cartridges that wait for the disk together


class Cartridge(Result):
    """One cartridge: where it is and what it is. problem: None, or why it cannot be read."""

    barcode: str
    place: str
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


class Create(Parameters):
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
    skip_existing: Annotated[
        bool, Field(description="Make only those of the range that are not there: completes an interrupted run.")
    ] = False


class Protect(Parameters):
    barcode: Barcode
    protected: Annotated[bool, Field(description="Whether drives only read it.")]


class Delete(Parameters):
    barcode: Barcode
    count: Annotated[int, Field(ge=1, le=65535, description="A range of them, numbered on from the barcode.")] = 1


class Deleted(Result):
    """What is gone."""

    barcodes: list[str]


@verb("cartridge.create", Scope.OPERATE, reports_progress=True)
def create(context: OnFiles, parameters: Create) -> list[Cartridge]:
    """Make new, empty cartridges, in the first free slots or where it is said."""
    from appliance.library.cartridges import capacity_of, medium_of, new_cartridge, numbered_on

    files = context.files
    barcodes = numbered_on(parameters.barcode, parameters.count)
    capacity_bytes = capacity_of(parameters.capacity)
    media = {new: medium_of(new, parameters.medium, parameters.worm) for new in barcodes}
    with files.changing:
        wanted = [new for new in barcodes if not (parameters.skip_existing and new in files.inventory)]
        places = _places_for(context, wanted, parameters.place)
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
    return [_described(context, new, made.get(new)) for new in barcodes]


def _places_for(context: OnFiles, barcodes: list[str], place: str | None) -> list[int | None]:
    from vlib_images.library.homes import free_slots

    if place == SHELF:
        return [None] * len(barcodes)
    if place is not None:
        return [_given_place(context, barcodes, place)]
    free = list(free_slots(context.files.inventory))
    if len(free) < len(barcodes):
        message = f"{len(free)} slots are free, {len(barcodes)} are needed; make the cartridges --to shelf"
        raise OperatorError(Failure.REFUSED, message)
    return list(free[: len(barcodes)])


def _given_place(context: OnFiles, barcodes: list[str], place: str) -> int:
    from appliance.operations.places import parse_place
    from vlib_images.library.elements import ElementType

    element = parse_place(context.files.inventory, context.drives, place)
    if len(barcodes) != 1 or element is None:
        raise OperatorError(Failure.USAGE, f"{len(barcodes)} cartridges do not fit into {place}")
    if element.type not in (ElementType.STORAGE, ElementType.IMPORT_EXPORT):
        raise OperatorError(Failure.REFUSED, f"only the robot puts cartridges into {place}; give a slot")
    if element.barcode is not None:
        raise OperatorError(Failure.REFUSED, f"{place} holds cartridge {element.barcode}")
    return element.address


@verb("cartridge.list", Scope.READ)
def list_(context: OnFiles, parameters: NoParameters) -> list[Cartridge]:
    """List every cartridge: those in the library by element, then the shelf."""
    inventory = context.files.inventory
    inside = [element for element in inventory.elements() if element.barcode is not None]
    return [
        *(_described(context, str(element.barcode)) for element in inside),
        *(_described(context, barcode) for barcode in inventory.shelf()),
    ]


@verb("cartridge.show", Scope.READ)
def show(context: OnFiles, parameters: OneCartridge) -> Cartridge:
    """Show one cartridge in full."""
    return _described(context, parameters.barcode)


@verb("cartridge.adopt", Scope.OPERATE)
def adopt(context: OnFiles, parameters: OneCartridge) -> Cartridge:
    """Put a cartridge whose directory has appeared on the shelf; one that has a place keeps it."""
    barcode, files = parameters.barcode, context.files
    if not files.cartridges.has(barcode):
        raise OperatorError(Failure.NOT_FOUND, f"there is no directory of a cartridge {barcode}")
    with files.changing:
        if barcode not in files.inventory:
            files.inventory.add(barcode)
            context.log.info("cartridge adopted", barcode=barcode)
    return _described(context, barcode)


@verb("cartridge.protect", Scope.OPERATE)
def protect(context: OnFiles, parameters: Protect) -> Cartridge:
    """Slide the write-protect tab of a cartridge that is in no drive."""
    _refuse_loaded(context, parameters.barcode)
    context.files.cartridges.protect(parameters.barcode, parameters.protected)
    return _described(context, parameters.barcode)


@verb("cartridge.delete", Scope.ADMINISTER, reports_progress=True)
def delete(context: OnFiles, parameters: Delete) -> Deleted:
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


def _described(context: OnFiles, barcode: str, facts: dict[str, Any] | None = None) -> Cartridge:
    """facts: what is known of the cartridge already; else it is looked at."""
    from appliance.operations.places import format_place

    place = format_place(context.files.inventory.find(barcode))  # first: there may be no such cartridge
    known = facts or context.files.cartridges.describe(barcode)
    return Cartridge.model_validate({**known, "barcode": barcode, "place": place})
