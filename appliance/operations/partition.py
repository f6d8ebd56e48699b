"""Partitions: one library cut into several, each whole to who sees it, with a media changer of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from appliance.failures import Failure, OperatorError
from appliance.operations import content
from appliance.operations.verb import Nothing, OnFiles, Parameters, Positional, Result, Scope, Volatile, verb

if TYPE_CHECKING:
    from collections.abc import Sequence

    from appliance.settings.content import Content
    from appliance.settings.sections import PartitionSettings

Name = Annotated[str, Positional("PARTITION"), Field(description="The partition, and its media changer.")]
SLOTS = "Slots of the library: 1-20,25."
EXITS = "Import/export slots of the library: 1-2."
DRIVES = "Drives, with commas."


class PartitionDetails(Result):
    """A partition: what it has of the library, by the library's numbers; its own element addresses; what it shows
    itself as."""

    name: str
    model: str
    serial: str
    slots: str
    import_export: str
    drives: list[str]
    barcodes: str
    addresses: dict[str, str] = Field(description="First to last element address, by type of element.")
    cartridges: Annotated[int, Volatile(), Field(description="How many are in it.")]
    foreseen: content.Foreseen | None = Field(default=None, description="Of a dry run: nothing was changed.")


class PartitionDescription(Parameters):
    """What a partition is told; what is not given stays as it is, or is the default."""

    name: Name
    slots: Annotated[str | None, Field(description=SLOTS)] = None
    import_export: Annotated[str | None, Field(description=EXITS)] = None
    drives: Annotated[str | None, Field(description=DRIVES)] = None
    barcodes: Annotated[
        str | None, Field(description="The cartridges that may be in it: PAY*,CLN*; * and ? match any characters.")
    ] = None
    model: Annotated[str | None, Field(description="`tapebay models` lists them; by default the library's.")] = None
    serial: Annotated[str | None, Field(description="By default made from the library's identity.")] = None
    dry_run: content.DryRun = False


class CreatePartition(PartitionDescription):
    slots: Annotated[str, Field(description=SLOTS)]


class ChangePartition(PartitionDescription):
    add_slots: Annotated[str | None, Field(description=f"More of them, at the end. {SLOTS}")] = None
    remove_slots: Annotated[str | None, Field(description=f"Fewer of them. {SLOTS}")] = None
    add_import_export: Annotated[str | None, Field(description=f"More of them, at the end. {EXITS}")] = None
    remove_import_export: Annotated[str | None, Field(description=f"Fewer of them. {EXITS}")] = None
    add_drives: Annotated[str | None, Field(description=f"More of them, at the end. {DRIVES}")] = None
    remove_drives: Annotated[str | None, Field(description=f"Fewer of them. {DRIVES}")] = None
    to_shelf: content.ToShelf = False


class OnePartition(Parameters):
    name: Name


class DeletePartition(OnePartition):
    whole: Annotated[
        bool, Field(description="Delete the last partition, too: one media changer shows the whole library again.")
    ] = False
    to_shelf: content.ToShelf = False
    dry_run: content.DryRun = False


@verb("partition.list", Scope.READ, key=("name",), confinable=True)
def list_(context: OnFiles, parameters: Nothing) -> list[PartitionDetails]:
    """List the partitions. Without any, one media changer shows the whole library."""
    return [_partition(context, one) for one in context.files.settings.partitions if context.caller.reaches(one.name)]


@verb("partition.show", Scope.READ, confinable=True)
def show(context: OnFiles, parameters: OnePartition) -> PartitionDetails:
    """One partition: its slots and drives, its element addresses, its barcode rule, what it shows itself as."""
    known = [one for one in context.files.settings.partitions if context.caller.reaches(one.name)]
    return _partition(context, _among(known, parameters.name))


@verb("partition.create", Scope.ADMINISTER)
def create(context: OnFiles, parameters: CreatePartition) -> PartitionDetails:
    """Make a partition of slots and drives that are in none.

    With the first one the media changer of the whole library goes, and what is in no partition is the operators' only.
    """
    from appliance.settings.sections import PartitionSettings

    made = content.section(PartitionSettings, **_given(parameters))

    def with_it(now: Content) -> dict[str, Any]:
        partitions = content.and_a_new(now.partitions, made, "partition")
        content.refuse_known(context, made.name)
        return {"partitions": partitions}

    return _changed(context, made, with_it, parameters.dry_run, to_shelf=False)


@verb("partition.change", Scope.ADMINISTER, changes="partition.show")
def change(context: OnFiles, parameters: ChangePartition) -> PartitionDetails:
    """Give a partition other slots or drives, or another barcode rule; what is not given stays.

    Refused where it would leave a cartridge behind. Initiators are told."""
    from appliance.settings.sections import PartitionSettings

    def made(now: Content) -> PartitionSettings:
        was = _among(now.partitions, parameters.name).model_dump()
        wanted: PartitionSettings = content.section(PartitionSettings, **(was | _given(parameters)))
        return _grown(wanted, parameters)

    def changed(now: Content) -> dict[str, Any]:
        wanted = made(now)
        return {"partitions": [wanted if one.name == wanted.name else one for one in now.partitions]}

    wanted = made(context.files.contents.content)
    return _changed(context, wanted, changed, parameters.dry_run, parameters.to_shelf)


@verb("partition.delete", Scope.ADMINISTER, changes="partition.show")
def delete(context: OnFiles, parameters: DeletePartition) -> PartitionDetails:
    """Delete a partition, which holds no cartridge; its slots and drives are in none then.

    With the last one, the media changer of the whole library comes back."""
    gone = show(context, OnePartition(name=parameters.name))

    def without_it(now: Content) -> dict[str, Any]:
        others = [one for one in now.partitions if one is not _among(now.partitions, gone.name)]
        if not others and not parameters.whole:
            message = f"{gone.name} is the last partition: without it one media changer shows the whole library"
            raise OperatorError(Failure.REFUSED, f"{message}; say --whole to do so")
        return {"partitions": others}

    if parameters.dry_run:
        return gone.model_copy(update={"foreseen": content.foreseen(context, without_it)})
    content.change(context, without_it, to_shelf=parameters.to_shelf)
    return gone


def _changed(context: OnFiles, made: PartitionSettings, make: Any, dry_run: bool, to_shelf: bool) -> PartitionDetails:
    if dry_run:
        return _partition(context, made).model_copy(update={"foreseen": content.foreseen(context, make)})
    content.change(context, make, to_shelf=to_shelf)
    return _partition(context, made)


def _among(partitions: list[PartitionSettings], name: str) -> PartitionSettings:
    return content.found(partitions, lambda one: one.name == name, f"partition {name}; see: tapebay partition list")


def _given(parameters: PartitionDescription) -> dict[str, Any]:
    """What was given, as a [[partitions]] section has it."""
    names = PartitionDescription.model_fields.keys() - {"dry_run"}
    given = {name: value for name, value in parameters.model_dump().items() if name in names and value is not None}
    return given | ({"drives": content.names(given["drives"])} if "drives" in given else {})


def _grown(partition: PartitionSettings, parameters: ChangePartition) -> PartitionSettings:
    """With more at the end, and without what was named. Raises OperatorError USAGE."""
    numbers = {
        "slots": (partition.slot_numbers(), parameters.add_slots, parameters.remove_slots),
        "import_export": (
            partition.import_export_numbers(), parameters.add_import_export, parameters.remove_import_export
        ),
    }  # fmt: skip
    made: dict[str, Any] = {name: _numbers(partition.name, *row) for name, row in numbers.items()}
    added, removed = content.names(parameters.add_drives or ""), content.names(parameters.remove_drives or "")
    made["drives"] = content.more_and_fewer(f"partition {partition.name}", "drive", partition.drives, added, removed)
    return content.section(type(partition), **(partition.model_dump() | made))  # type: ignore[no-any-return]


def _numbers(name: str, there: Sequence[int], more: str | None, fewer: str | None) -> str:
    from appliance.settings.numbers import format_numbers, parse_numbers

    try:
        added, removed = parse_numbers(more or ""), parse_numbers(fewer or "")
    except ValueError as error:
        raise OperatorError(Failure.USAGE, str(error)) from None
    return format_numbers(content.more_and_fewer(f"partition {name}", "slot", there, added, removed))


def _partition(context: OnFiles, one: PartitionSettings) -> PartitionDetails:
    """As it is, or would be."""
    from appliance.library.partitions import addresses_of

    files = context.files
    settings = files.settings
    model = one.model or settings.changer.model
    return PartitionDetails(
        name=one.name,
        model=model,
        serial=files.serial_number(one.name, one.serial),
        slots=one.slots,
        import_export=one.import_export,
        drives=one.drives,
        barcodes=one.barcodes,
        addresses=addresses_of(one, model),
        cartridges=_count(context, one),
    )


def _count(context: OnFiles, one: PartitionSettings) -> int:
    from appliance.library.partitions import Holding

    inside = Holding(one, context.files.settings)
    return sum(place in inside for place in context.files.inventory.places())
