"""What an initiator would see if it logged in now, and why: the answer of the directory that logins ask."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from appliance.failures import Failure, OperatorError
from appliance.operations.content import refuse_missing
from appliance.operations.verb import OnFiles, Parameters, Positional, Result, Scope, verb

if TYPE_CHECKING:
    from appliance.access.directory import Directory
    from appliance.settings.settings import Settings
    from scsi_targets.iscsi.directory import Who


class Asked(Parameters):
    initiator: Annotated[str, Positional("INITIATOR"), Field(description="Its iSCSI name.")]
    account: Annotated[str | None, Field(description="The CHAP user that it proves to be; by default each it may.")] = (
        None
    )
    target: Annotated[str | None, Field(description="Only at this target.")] = None
    address: Annotated[str, Field(description="The address that it comes from, for zones of networks.")] = ""
    portal_group: Annotated[int | None, Field(description="The group of the portal that it comes in by.")] = None


class Answer(Result):
    """At one target, as one principal."""

    target: str
    principal: str
    admitted: bool
    zones: list[str]
    luns: dict[str, str]
    partitions: dict[str, str] = Field(description="The partition of each media changer and drive that is in one.")
    reasons: list[str]


@verb("who", Scope.READ)
def who(context: OnFiles, parameters: Asked) -> list[Answer]:
    """What an initiator would see, at each target and as each account that it may prove to be, and why."""
    from appliance.access.directory import Directory

    settings = context.files.settings
    directory = Directory(settings, {})
    targets = [section.iqn for section in settings.targets]
    if parameters.target is not None and parameters.target.lower() not in targets:
        raise OperatorError(Failure.NOT_FOUND, f"there is no target {parameters.target}; see: tapebay target list")
    if parameters.account is not None:
        refuse_missing("account", [parameters.account], dict.fromkeys(one.user for one in settings.chap.accounts))
    wanted = targets if parameters.target is None else [parameters.target.lower()]
    asking = [_who(directory, parameters, target) for target in wanted]
    return [answer for one in asking for answer in _answers(settings, directory, one)]


def _who(directory: Directory, parameters: Asked, target: str) -> Who:
    from scsi_targets.iscsi.directory import Who

    portals = [
        portal
        for portal in directory.all_portals
        if parameters.portal_group is None or portal.portal_group_tag == parameters.portal_group
    ]
    if not portals:
        raise OperatorError(Failure.NOT_FOUND, f"there is no portal of group {parameters.portal_group}")
    initiator = parameters.initiator.strip().lower()
    return Who(initiator, bytes(6), target, portals[0], parameters.address, parameters.account)


def _answers(settings: Settings, directory: Directory, asking: Who) -> Iterator[Answer]:
    """As the account that was named; else as each that is possible, or as the mere name."""
    from scsi_targets.iscsi.directory import DirectoryError

    assert asking.target_name is not None
    accounts = directory.accounts_for(asking.initiator_name, asking.target_name)
    if asking.account is None and accounts:
        for account in accounts:
            yield from _answers(settings, directory, replace(asking, account=account))
        return
    name = f"initiator {asking.initiator_name}" if asking.account is None else f"account {asking.account}"
    try:
        principal, seen = directory.decide(asking)
    except DirectoryError as error:
        yield Answer(
            target=asking.target_name,
            principal=name,
            admitted=False,
            zones=[],
            luns={},
            partitions={},
            reasons=str(error).split("; "),
        )
        return
    luns = {str(lun): device for lun, device in seen.luns.items()}
    yield Answer(
        target=asking.target_name,
        principal=str(principal),
        admitted=True,
        zones=list(seen.zones),
        luns=luns,
        partitions={name: owner for name in luns.values() if (owner := settings.partition_of(name)) is not None},
        reasons=list(seen.reasons),
    )
