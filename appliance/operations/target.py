"""Targets: what initiators log in to, and who sees them."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from appliance.failures import Failure, OperatorError
from appliance.operations import content
from appliance.operations.verb import Nothing, OnFiles, Parameters, Positional, Result, Scope, verb

Iqn = Annotated[str, Positional("IQN"), Field(description="The target's iSCSI name.")]
Initiators = Annotated[
    str, Field(description="iSCSI names of the initiators that see it, with commas; * and ? match any characters.")
]


class Target(Result):
    """A target: who sees it, and what it holds."""

    iqn: str
    initiators: list[str]
    luns: dict[str, str]


class Create(Parameters):
    iqn: Iqn
    initiators: Initiators = "*"


class Change(Parameters):
    iqn: Iqn
    initiators: Initiators


class OneTarget(Parameters):
    iqn: Iqn


@verb("target.list", Scope.READ)
def list_(context: OnFiles, parameters: Nothing) -> list[Target]:
    """List the targets: who sees each, and what it holds."""
    return [_target(context, section.iqn) for section in context.files.settings.targets]


@verb("target.create", Scope.ADMINISTER)
def create(context: OnFiles, parameters: Create) -> Target:
    """Add a target that holds every device; initiators find it at their next discovery."""
    from appliance.settings.settings import TargetSettings

    made = content.section(TargetSettings, iqn=parameters.iqn, initiators=content.names(parameters.initiators))
    if any(section.iqn == made.iqn for section in context.files.settings.targets):
        raise OperatorError(Failure.REFUSED, f"there is a target {made.iqn} already")
    content.change(context, lambda now: {"targets": [*now.targets, made]})
    return _target(context, made.iqn)


@verb("target.change", Scope.ADMINISTER)
def change(context: OnFiles, parameters: Change) -> Target:
    """Say who sees a target; sessions of initiators that no longer do are ended."""
    iqn = _found(context, parameters.iqn)
    names = content.names(parameters.initiators)
    content.change(
        context,
        lambda now: {
            "targets": [
                section.model_copy(update={"initiators": names}) if section.iqn == iqn else section
                for section in now.targets
            ]
        },
    )
    return _target(context, iqn)


@verb("target.remove", Scope.ADMINISTER)
def remove(context: OnFiles, parameters: OneTarget) -> Target:
    """Remove a target; its sessions are ended. The devices stay in the others."""
    gone = _target(context, _found(context, parameters.iqn))
    content.change(context, lambda now: {"targets": [one for one in now.targets if one.iqn != gone.iqn]})
    return gone


def _found(context: OnFiles, iqn: str) -> str:
    targets = context.files.settings.targets
    return content.found(targets, lambda one: one.iqn == iqn.lower(), f"target {iqn}; see: tapebay target list").iqn


def _target(context: OnFiles, iqn: str) -> Target:
    settings = context.files.settings
    section = next(one for one in settings.targets if one.iqn == iqn)
    luns = {str(lun): name for lun, name in settings.lun_map(section).items()}
    return Target(iqn=iqn, initiators=list(section.initiators), luns=luns)
