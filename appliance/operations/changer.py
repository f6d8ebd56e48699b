"""The media changer: how many slots the robot reaches."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from appliance.operations import content
from appliance.operations.verb import OnFiles, Parameters, Result, Scope, verb


class Resize(Parameters):
    slots: Annotated[int | None, Field(description="How many storage slots.")] = None
    import_export: Annotated[int | None, Field(description="How many import/export slots.")] = None
    to_shelf: content.ToShelf = False


class ChangerDetails(Result):
    """What the robot reaches."""

    model: str
    slots: int
    import_export: int


@verb("changer.resize", Scope.ADMINISTER)
def resize(context: OnFiles, parameters: Resize) -> ChangerDetails:
    """Give the library more or fewer slots, at once where it is served; slots that go have to be empty."""
    from appliance.settings.sections import ChangerSettings

    before = context.files.settings.changer
    given = parameters.model_dump(exclude_none=True, exclude={"to_shelf"})
    after = content.section(ChangerSettings, **{**dict(before), **given})
    content.change(context, lambda now: {"changer": after}, to_shelf=parameters.to_shelf)
    return ChangerDetails(model=after.model, slots=after.slots, import_export=after.import_export)
