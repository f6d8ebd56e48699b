"""Zones: which initiators and accounts see which devices. And the question who sees what, and why."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from appliance.failures import Failure, OperatorError
from appliance.operations import content
from appliance.operations.verb import Nothing, OnFiles, Parameters, Positional, Result, Scope, verb

if TYPE_CHECKING:
    from collections.abc import Callable

    from appliance.settings.content import Content
    from appliance.settings.sections import ZoneSettings

Name = Annotated[str, Positional("ZONE"), Field(description="The zone's name.")]
InitiatorNames = Annotated[
    str | None,
    Field(description="iSCSI names of initiators without an account, with commas; * and ? match any characters."),
]
AccountNames = Annotated[str | None, Field(description="CHAP users, with commas.")]
DeviceNames = Annotated[str | None, Field(description="Devices, with commas; they keep the LUNs that they have.")]
Luns = Annotated[str | None, Field(description="LUNs of its own, with commas: 0=changer,1=drive2.")]
NetworkNames = Annotated[str | None, Field(description="Only from these, with commas: 192.0.2.0/24.")]
PortalGroups = Annotated[str | None, Field(description="Only by portals of these groups, with commas.")]
RemoteNames = Annotated[str | None, Field(description="Units of other targets that its copies reach, with commas.")]


class Zone(Result):
    """Who is in a zone, and what they see."""

    name: str
    initiators: list[str]
    accounts: list[str]
    devices: list[str]
    luns: dict[str, str] = Field(description="The devices whose LUN is the zone's own.")
    networks: list[str]
    portal_groups: list[int]
    remotes: list[str]
    foreseen: content.Foreseen | None = Field(default=None, description="Of a dry run: nothing was changed.")


class ZoneDescription(Parameters):
    """What a zone is told; what is not given stays as it is."""

    name: Name
    initiators: InitiatorNames = None
    accounts: AccountNames = None
    devices: DeviceNames = None
    luns: Luns = None
    networks: NetworkNames = None
    portal_groups: PortalGroups = None
    remotes: RemoteNames = None
    dry_run: content.DryRun = False


class ChangeZone(ZoneDescription):
    add_initiators: Annotated[str | None, Field(description="More of them, with commas.")] = None
    remove_initiators: Annotated[str | None, Field(description="Fewer of them, with commas.")] = None
    add_accounts: Annotated[str | None, Field(description="More of them, with commas.")] = None
    remove_accounts: Annotated[str | None, Field(description="Fewer of them, with commas.")] = None
    add_devices: Annotated[str | None, Field(description="More of them, with commas.")] = None
    remove_devices: Annotated[
        str | None, Field(description="Fewer of them, with commas, also those with a LUN of the zone's own.")
    ] = None


class OneZone(Parameters):
    name: Name


class DeleteZone(Parameters):
    name: Name
    open: Annotated[
        bool, Field(description="Delete the last zone, too: from then on every initiator sees every device.")
    ] = False
    dry_run: content.DryRun = False


@verb("zone.list", Scope.READ, key=("name",))
def list_(context: OnFiles, parameters: Nothing) -> list[Zone]:
    """List the zones. Without any, every initiator that a target admits sees all of its devices."""
    return [_zone(zone) for zone in context.files.settings.zones]


@verb("zone.show", Scope.READ)
def show(context: OnFiles, parameters: OneZone) -> Zone:
    """One zone: who is in it, and what they see."""
    return _zone(_among(context.files.settings.zones, parameters.name))


@verb("zone.create", Scope.ADMINISTER)
def create(context: OnFiles, parameters: ZoneDescription) -> Zone:
    """Make a zone. With the first one, whoever is in no zone sees nothing any more; such sessions end."""
    from appliance.settings.sections import ZoneSettings

    made = content.section(ZoneSettings, **_given(context, parameters))

    def with_it(now: Content) -> dict[str, Any]:
        return {"zones": content.and_a_new(now.zones, made, "zone")}

    return _changed(context, made, with_it, parameters.dry_run)


@verb("zone.change", Scope.ADMINISTER, changes="zone.show")
def change(context: OnFiles, parameters: ChangeZone) -> Zone:
    """Say anew who is in a zone or what they see, or add and remove some; what is not given stays.

    Sessions see it between two commands."""
    given = _given(context, parameters)

    def made(now: Content) -> ZoneSettings:
        return _with_more_and_fewer(_among(now.zones, parameters.name), given, parameters)

    def changed(now: Content) -> dict[str, Any]:
        return {"zones": [made(now) if zone.name == parameters.name else zone for zone in now.zones]}

    return _changed(context, made(context.files.contents.content), changed, parameters.dry_run)


@verb("zone.delete", Scope.ADMINISTER, changes="zone.show")
def delete(context: OnFiles, parameters: DeleteZone) -> Zone:
    """Delete a zone; who sees nothing without it is logged out. The devices stay."""
    gone = show(context, OneZone(name=parameters.name))

    def without_it(now: Content) -> dict[str, Any]:
        zones = [zone for zone in now.zones if zone is not _among(now.zones, gone.name)]
        if not zones and not parameters.open:
            message = f"{gone.name} is the last zone: without it every initiator sees every device; say --open to do so"
            raise OperatorError(Failure.REFUSED, message)
        return {"zones": zones}

    if parameters.dry_run:
        return gone.model_copy(update={"foreseen": content.foreseen(context, without_it)})
    content.change(context, without_it)
    return gone


def _changed(context: OnFiles, made: ZoneSettings, make: Callable[[Content], dict[str, Any]], dry_run: bool) -> Zone:
    if dry_run:
        return _zone(made).model_copy(update={"foreseen": content.foreseen(context, make)})
    content.change(context, make)
    return _zone(made)


def _with_more_and_fewer(was: ZoneSettings, given: dict[str, Any], parameters: ChangeZone) -> ZoneSettings:
    """What was given in place of what there was, with more, without some. Raises OperatorError USAGE, REFUSED."""
    from appliance.settings.sections import ZoneSettings

    settings = {**was.model_dump(), **given}
    out = content.names(parameters.remove_devices or "")
    numbered = [name for name in out if name in settings["luns"].values()]
    settings["luns"] = {lun: name for lun, name in settings["luns"].items() if name not in numbered}
    out = [name for name in out if name not in numbered or name in settings["devices"]]
    rows = {
        "initiators": ("initiator", parameters.add_initiators, content.names(parameters.remove_initiators or "")),
        "accounts": ("account", parameters.add_accounts, content.names(parameters.remove_accounts or "")),
        "devices": ("device", parameters.add_devices, out),
    }
    for field, (what, more, fewer) in rows.items():
        added = content.names(more or "")
        settings[field] = content.more_and_fewer(f"zone {was.name}", what, settings[field], added, fewer)
    made: ZoneSettings = content.section(ZoneSettings, **settings)
    return made


def _among(zones: list[ZoneSettings], name: str) -> ZoneSettings:
    return content.found(zones, lambda zone: zone.name == name, f"zone {name}; see: tapebay zone list")


def _given(context: OnFiles, parameters: ZoneDescription) -> dict[str, Any]:
    """What was given, as a [[zones]] section has it. Raises OperatorError USAGE; NOT_FOUND: a remote unit or a portal
    group is not there. Of devices and accounts the library itself asks for that."""
    given, settings = _read(parameters), context.files.settings
    content.refuse_missing("remote unit", given.get("remotes", ()), [remote.name for remote in settings.remotes])
    groups = dict.fromkeys(portal.group for portal in settings.portals)
    content.refuse_missing("portal group", given.get("portal_groups", ()), groups)
    return given


def _read(parameters: ZoneDescription) -> dict[str, Any]:
    fields = ZoneDescription.model_fields.keys() - {"dry_run"}
    given = {name: value for name, value in parameters.model_dump(exclude_none=True).items() if name in fields}
    made: dict[str, Any] = {"name": given.pop("name")}
    if "luns" in given:
        made["luns"] = content.luns(given.pop("luns"))
    if "portal_groups" in given:
        made["portal_groups"] = [
            content.number(text, "portal group") for text in content.names(given.pop("portal_groups"))
        ]
    return made | {name: content.names(text) for name, text in given.items()}


def _zone(zone: ZoneSettings) -> Zone:
    return Zone(
        name=zone.name,
        initiators=zone.initiators,
        accounts=zone.accounts,
        devices=zone.device_names(),
        luns={str(lun): name for lun, name in zone.luns.items()},
        networks=zone.networks,
        portal_groups=zone.portal_groups,
        remotes=zone.remotes,
    )
