"""Targets: what initiators log in to, and who sees them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from appliance.failures import Failure, OperatorError
from appliance.operations import content
from appliance.operations.verb import Nothing, OnFiles, Parameters, Positional, Result, Scope, verb

if TYPE_CHECKING:
    from appliance.settings.content import Content

Iqn = Annotated[str, Positional("IQN"), Field(description="The target's iSCSI name.")]
Initiators = Annotated[
    str, Field(description="iSCSI names of the initiators that see it, with commas; * and ? match any characters.")
]


Luns = Annotated[
    str | None,
    Field(
        description="The devices that it holds, with their LUNs: 0=changer,1=drive0; automatic: all, each with the LUN "
        "that the library gave it."
    ),
]
AUTOMATIC = "automatic"


class TargetDetails(Result):
    """A target: who sees it, and what it holds."""

    iqn: str
    initiators: list[str]
    luns: dict[str, str]
    foreseen: content.Foreseen | None = Field(default=None, description="Of a dry run: nothing was changed.")


class CreateTarget(Parameters):
    iqn: Iqn
    initiators: Initiators = "*"
    luns: Luns = None


class ChangeTarget(Parameters):
    iqn: Iqn
    initiators: Annotated[str | None, Field(description="Who sees it from now on, likewise.")] = None
    luns: Luns = None
    dry_run: content.DryRun = False


class OneTarget(Parameters):
    iqn: Iqn


@verb("target.list", Scope.READ, key=("iqn",))
def list_(context: OnFiles, parameters: Nothing) -> list[TargetDetails]:
    """List the targets: who sees each, and what it holds."""
    return [_target(context, section.iqn) for section in context.files.settings.targets]


@verb("target.show", Scope.READ)
def show(context: OnFiles, parameters: OneTarget) -> TargetDetails:
    """One target: who sees it, and what it holds."""
    return _target(context, _found(context, parameters.iqn))


@verb("target.create", Scope.ADMINISTER)
def create(context: OnFiles, parameters: CreateTarget) -> TargetDetails:
    """Add a target; initiators find it at their next discovery. It holds every device, or those of its LUN map."""
    from appliance.settings.sections import TargetSettings

    made = content.section(TargetSettings, iqn=parameters.iqn, **_given(parameters))
    if any(section.iqn == made.iqn for section in context.files.settings.targets):
        raise OperatorError(Failure.REFUSED, f"there is a target {made.iqn} already")
    content.change(context, lambda now: {"targets": [*now.targets, made]})
    return _target(context, made.iqn)


@verb("target.change", Scope.ADMINISTER, changes="target.show")
def change(context: OnFiles, parameters: ChangeTarget) -> TargetDetails:
    """Say who sees a target, or which devices it holds by which LUNs; what is not given stays.

    Sessions of initiators that no longer see it are ended, the others see the change between two commands."""
    iqn, given = _found(context, parameters.iqn), _given(parameters)

    def changed(now: Content) -> dict[str, Any]:
        was = content.found(now.targets, lambda one: one.iqn == iqn, f"target {iqn}")
        made = content.section(type(was), **(was.model_dump() | given))
        return {"targets": [made if one is was else one for one in now.targets]}

    if parameters.dry_run:
        return _target(context, iqn).model_copy(update={"foreseen": content.foreseen(context, changed)})
    content.change(context, changed)
    return _target(context, iqn)


def _given(parameters: CreateTarget | ChangeTarget) -> dict[str, Any]:
    """What was given, as a [[targets]] section has it."""
    given: dict[str, Any] = {}
    if parameters.initiators is not None:
        given["initiators"] = content.names(parameters.initiators)
    if parameters.luns is not None:
        given["luns"] = None if parameters.luns == AUTOMATIC else content.luns(parameters.luns)
    return given


@verb("target.remove", Scope.ADMINISTER, changes="target.show")
def remove(context: OnFiles, parameters: OneTarget) -> TargetDetails:
    """Remove a target; its sessions are ended. The devices stay in the others."""
    gone = _target(context, _found(context, parameters.iqn))
    content.change(context, lambda now: {"targets": [one for one in now.targets if one.iqn != gone.iqn]})
    return gone


def _found(context: OnFiles, iqn: str) -> str:
    targets = context.files.settings.targets
    return content.found(targets, lambda one: one.iqn == iqn.lower(), f"target {iqn}; see: tapebay target list").iqn


def _target(context: OnFiles, iqn: str) -> TargetDetails:
    settings = context.files.settings
    section = next(one for one in settings.targets if one.iqn == iqn)
    luns = {str(lun): name for lun, name in settings.lun_map(section).items()}
    return TargetDetails(iqn=iqn, initiators=list(section.initiators), luns=luns)
