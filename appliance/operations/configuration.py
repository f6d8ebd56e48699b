"""What the library contains, beside what tapebay.toml declares: showing it, comparing it, carrying it out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from appliance.failures import Failure, OperatorError
from appliance.operations import content
from appliance.operations.verb import Nothing, OnFiles, Parameters, Result, Scope, verb

if TYPE_CHECKING:
    from appliance.library.plan import Plan


class Planned(Result):
    """changes: what is to be done (apply: what was done). removals: what left the file, which only prune removes.

    drift: what verbs changed since, and apply leaves alone.
    sessions: what each session would gain and lose; refused: cartridges that would lose their place or partition, for
    which apply is refused unless they go to the shelf. Both are said only before it is done."""

    changes: list[str]
    removals: list[str]
    drift: list[str]
    sessions: list[content.SessionForecast] = []
    refused: list[str] = []


class Apply(Parameters):
    prune: Annotated[bool, Field(description="Remove what is no longer in tapebay.toml, too.")] = False
    dry_run: Annotated[bool, Field(description="Only say what would be done, as `tapebay plan` does.")] = False
    to_shelf: content.ToShelf = False


class Shown(Result):
    """The content as TOML; secrets are left out."""

    toml: str


@verb("configuration.plan", Scope.READ)
def plan(context: OnFiles, parameters: Nothing) -> Planned:
    """Compare tapebay.toml with what the library contains: what apply would do."""
    return _foreseen(context, _compare(context, prune=False))


@verb("configuration.apply", Scope.ADMINISTER, changes="configuration.show")
def apply(context: OnFiles, parameters: Apply) -> Planned:
    """Carry out what changed in tapebay.toml since it was last applied."""
    with context.files.changing:
        found = _compare(context, prune=parameters.prune)
        if parameters.dry_run:
            return _foreseen(context, found)
        content.carry_out(context, found.content, found.applied, to_shelf=parameters.to_shelf)
    for line in found.changes:
        context.log.info("applied", change=line)
    return _planned(found)


@verb("configuration.show", Scope.READ)
def show(context: OnFiles, parameters: Nothing) -> Shown:
    """What the library contains, as TOML."""
    from appliance.settings.toml import content_as_toml

    return Shown(toml=content_as_toml(context.files.contents.content))


def _planned(found: Plan) -> Planned:
    return Planned(changes=found.changes, removals=found.removals, drift=found.drift)


def _foreseen(context: OnFiles, found: Plan) -> Planned:
    said = content.described(content.effects(context, found.content))
    return _planned(found).model_copy(update={"sessions": said.sessions, "refused": said.refused})


def _compare(context: OnFiles, *, prune: bool) -> Plan:
    """With tapebay.toml as it is now, which may be another than the daemon started with."""
    from appliance.library.plan import compare
    from appliance.settings import config_file
    from appliance.settings.config_file import ConfigError
    from appliance.settings.content import ContentError, declared_in

    try:
        declared = declared_in(config_file.load(context.config))
    except (ConfigError, ContentError) as error:
        raise OperatorError(Failure.CONFIGURATION, str(error)) from None
    contents = context.files.contents
    return compare(declared, contents.applied, contents.content, prune=prune)
