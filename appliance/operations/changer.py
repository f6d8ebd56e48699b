"""The media changer: how many slots the robot reaches."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from appliance.failures import Failure, OperatorError
from appliance.operations import content
from appliance.operations.verb import OnFiles, Parameters, Result, Scope, verb


class Resize(Parameters):
    slots: Annotated[int | None, Field(description="How many storage slots.")] = None
    import_export: Annotated[int | None, Field(description="How many import/export slots.")] = None


class Changer(Result):
    """The media changer; restart: it is so from the daemon's next start on."""

    model: str
    slots: int
    import_export: int
    restart: bool


@verb("changer.resize", Scope.ADMINISTER)
def resize(context: OnFiles, parameters: Resize) -> Changer:
    """Give the library more or fewer slots, at once where it is served; slots that go have to be empty."""
    from appliance.settings.settings import ChangerSettings

    before = context.files.settings.changer
    given = {name: value for name, value in parameters.model_dump().items() if value is not None}
    after = content.section(ChangerSettings, **{**dict(before), **given})
    _refuse_full(context, after.slots, after.import_export)
    waiting = content.change(context, lambda now: {"changer": after})
    return Changer(model=after.model, slots=after.slots, import_export=after.import_export, restart=bool(waiting))


def _refuse_full(context: OnFiles, slots: int, import_export: int) -> None:
    from appliance.operations.places import format_place
    from vlib_images.library.elements import ElementType

    inventory = context.files.inventory
    for kind, count in ((ElementType.STORAGE, slots), (ElementType.IMPORT_EXPORT, import_export)):
        for element in inventory.elements(kind, inventory.layout.elements_of(kind)[count:]):
            if element.barcode is not None:
                place = format_place(element)
                message = f"cartridge {element.barcode} is in {place}, which would go; move it to another place first"
                raise OperatorError(Failure.REFUSED, message)
