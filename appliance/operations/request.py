"""Requests for a drive with a volume, and the grants that come of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from appliance.failures import Failure, OperatorError
from appliance.operations.reach import refuse_unknown
from appliance.operations.verb import Nothing, OnLibrary, Parameters, Positional, Result, Scope, Volatile, verb

if TYPE_CHECKING:
    from appliance.broker.broker import Broker
    from appliance.broker.requests import Request as Made
    from appliance.broker.requests import RequestedUnit as MadeUnit
    from appliance.broker.requests import Wanted as WantedUnit

MOST_UNITS = 8  # of one request


Name = Annotated[
    str, Positional("REQUEST"), Field(description="What `tapebay requests` calls it: 16 digits and letters.")
]


class RequestedUnitDetails(Result):
    """One logical unit of a request that has its devices (by the gate's choice: once its host has logged in).

    permissions: what the host may do with it. cartridge: the volume that the drive is to hold; none: it is no drive.
    serial_number: as the unit tells it (INQUIRY, page 80h)."""

    lun: int
    device: str
    serial_number: str | None
    permissions: list[str]
    cartridge: str | None


class WantedDetails(Result):
    """One of what was asked for: a drive with that volume (none: a blank one of that pool), or that device."""

    write: bool
    volume: str | None
    device: str | None
    group: str
    pool: str | None


class Grant(Result):
    """What a host logs in with. portals: HOST:PORT,GROUP, as hosts reach them. expires_at_ms: for the first login,
    since 1970-01-01 00:00 UTC."""

    portals: list[str]
    target: str
    user: str = Field(description="The CHAP name.")
    secret: str = Field(repr=False)
    mutual_user: str
    mutual_secret: str = Field(repr=False)
    expires_at_ms: int


class RequestDetails(Result):
    """A request. why: what it waits for, or why it ended. lease_seconds_left: until it has to be renewed."""

    request: str
    state: str
    initiator: str
    wanted: list[WantedDetails]
    by_gate: bool
    priority: int
    tag: str
    owner: str = Field(description="Who made it; nobody else is told what its host logs in with.")
    units: list[RequestedUnitDetails]
    created_at_ms: int
    lease_seconds_left: Annotated[float | None, Volatile()]
    why: Annotated[str, Volatile()]


class RequestWithGrant(RequestDetails):
    """grant: none until it has a drive, and when it is over. Its drive becomes ready when its state is granted."""

    grant: Grant | None = None


class CreateRequest(Parameters):
    initiator: Annotated[str, Field(description="The iSCSI name of the host that will log in.")]
    volume: Annotated[
        list[str], Field(max_length=MOST_UNITS, description="The barcode of a cartridge; a drive for each.")
    ] = []
    scratch: Annotated[
        int | None,
        Field(ge=0, le=MOST_UNITS, description="So many drives with blank cartridges; 1 where nothing is named."),
    ] = None
    pool: Annotated[
        str | None, Field(description="The pool that the volumes are of; by default blank ones are of no pool.")
    ] = None
    device: Annotated[
        list[str], Field(max_length=MOST_UNITS, description="A device that only grants show, a snapshot's; read only.")
    ] = []
    read_only: Annotated[bool, Field(description="The host will not write.")] = False
    group: Annotated[str, Field(description='Which drives: a group of [gate.groups] in tapebay.toml, or "all".')] = (
        "all"
    )
    by_gate: Annotated[
        bool, Field(description="The gate chooses the drives at the first login, not the broker when it is their turn.")
    ] = False
    priority: Annotated[
        int, Field(ge=0, le=7, description="Of several hosts that wait at the gate for a drive the highest is first.")
    ] = 0
    tag: Annotated[
        str, Field(max_length=64, description="A policy tag, by which grants can be denied: `key deny --tag`.")
    ] = ""
    lease_seconds: Annotated[
        float, Field(ge=10, le=86400, description="The drive is freed when the grant is not renewed for so long.")
    ] = 180.0


class OneRequest(Parameters):
    request: Name


class Renewed(Result):
    """For how many seconds the grant holds from now on."""

    request: str
    lease_seconds: float


def _still(context: OnLibrary, parameters: OneRequest) -> AbstractContextManager[Any]:
    """Neither the broker nor anybody else makes a step of a request without it."""
    return broker_of(context).requests.changing


@verb("request.create", Scope.OPERATE, confinable=True)
def create(context: OnLibrary, parameters: CreateRequest) -> RequestWithGrant:
    """Ask for drives with volumes, for one host; watch it with `request show`.

    The host gets all that it asks for at once, or waits for all of it."""
    initiator = _initiator(parameters.initiator)
    wanted = _wanted(context, parameters)
    _refuse_beyond(context, wanted)
    broker = broker_of(context)
    if context.library.keyring is not None and parameters.tag in context.library.keyring.denied_tags:
        raise OperatorError(Failure.REFUSED, f"the policy tag {parameters.tag} is denied; see: tapebay key list")
    options = parameters.model_dump(include={"lease_seconds", "by_gate", "priority", "tag"})
    with _told():
        made = broker.ask(initiator, wanted, **options)
    return _with_grant(context, broker, made)


@verb("request.list", Scope.READ, key=("created_at_ms", "request"), confinable=True)
def list_(context: OnLibrary, parameters: Nothing) -> list[RequestDetails]:
    """List the requests: those that wait, those that have a drive, and the latest that are over."""
    broker = broker_of(context)
    seen = [made for made in broker.requests.all() if not context.caller.confined or _may_use(context, made)]
    return [RequestDetails.model_validate(_facts(context, broker, made)) for made in seen]


@verb("request.show", Scope.OPERATE, confinable=True)
def show(context: OnLibrary, parameters: OneRequest) -> RequestWithGrant:
    """Show a request, and what its host logs in with."""
    if context.caller.confined:
        _own(context, parameters.request)
    broker = broker_of(context)
    with _told():
        return _with_grant(context, broker, broker.requests.get(parameters.request))


@verb("request.cancel", Scope.OPERATE, confinable=True, changes="request.show", still=_still)
def cancel(context: OnLibrary, parameters: OneRequest) -> RequestDetails:
    """Cancel a request, whatever it has: its drive is freed."""
    return _end(context, parameters, "CANCEL", "cancelled")


@verb("grant.renew", Scope.OPERATE, confinable=True, changes="request.show", still=_still)
def renew(context: OnLibrary, parameters: OneRequest) -> Renewed:
    """Say that a grant is still used."""
    _own(context, parameters.request)
    broker = broker_of(context)
    with _told():
        return Renewed(request=parameters.request, lease_seconds=broker.renew(parameters.request))


@verb("grant.release", Scope.OPERATE, confinable=True, changes="request.show", still=_still)
def release(context: OnLibrary, parameters: OneRequest) -> RequestDetails:
    """Give a drive back: what was written is made durable, and the cartridge goes home."""
    return _end_grant(context, parameters, "FREE", "released")


@verb("grant.revoke", Scope.ADMINISTER, changes="request.show", still=_still)
def revoke(context: OnLibrary, parameters: OneRequest) -> RequestDetails:
    """Take a drive away: at once no command is done, and the host is logged out and cannot come back."""
    return _end_grant(context, parameters, "FAIL", "revoked")


def broker_of(context: OnLibrary) -> Broker:
    """Raises OperatorError: the library has no gate."""
    broker = context.library.broker
    if broker is None:
        message = 'this library has no gate; add to tapebay.toml: [gate] with target = "iqn...", and start it again'
        raise OperatorError(Failure.REFUSED, message)
    return broker


def _initiator(name: str) -> str:
    from appliance.settings.values import iscsi_name

    try:
        return iscsi_name(name)
    except ValueError as error:
        raise OperatorError(Failure.USAGE, f"--initiator: {error}") from None


def _wanted(context: OnLibrary, parameters: CreateRequest) -> tuple[WantedUnit, ...]:
    from appliance.broker.requests import Wanted as WantedUnit

    write, scratch, pool = not parameters.read_only, parameters.scratch, _pool(context, parameters)
    if scratch is None:
        scratch = 0 if parameters.volume or parameters.device else 1
    if scratch and not write:
        raise OperatorError(Failure.USAGE, "a blank cartridge has nothing to be read; name a volume to read")
    volumes = [
        WantedUnit(write, volume, group=parameters.group, pool=_pool_of(context, volume, pool))
        for volume in [*parameters.volume, *[None] * scratch]
    ]
    wanted = (*volumes, *(WantedUnit(False, None, device) for device in parameters.device))
    if not 0 < len(wanted) <= MOST_UNITS:
        raise OperatorError(Failure.USAGE, f"a request is for 1 to {MOST_UNITS} devices, not {len(wanted)}")
    return wanted


def _pool(context: OnLibrary, parameters: CreateRequest) -> str | None:
    """The pool that is asked for: the only one that the caller is for, if it names none. Raises OperatorError
    NOT_FOUND, REFUSED: a volume is of another."""
    settings, caller = context.files.settings, context.caller
    if parameters.pool is None:
        return next(iter(caller.pools)) if caller.pools is not None and len(caller.pools) == 1 else None
    if parameters.pool not in [pool.name for pool in settings.pools if caller.reaches_pool(pool.name)]:
        raise OperatorError(Failure.NOT_FOUND, f"there is no pool {parameters.pool}; see: tapebay pool list")
    for volume in parameters.volume:
        refuse_unknown(context, volume)
        if volume in context.files.inventory and (pool := settings.pool_of(volume)) != parameters.pool:
            where = "no pool" if pool is None else f"pool {pool}"
            raise OperatorError(Failure.REFUSED, f"cartridge {volume} is in {where}, not in {parameters.pool}")
    return parameters.pool


def _pool_of(context: OnLibrary, volume: str | None, pool: str | None) -> str | None:
    """Who is for pools gets a volume only while it is in one of them."""
    if volume is not None and context.caller.pools is not None:
        return context.files.settings.pool_of(volume)
    return pool


def _refuse_beyond(context: OnLibrary, wanted: tuple[WantedUnit, ...]) -> None:
    """A caller for a part of the library asks for volumes that are in it. Raises OperatorError."""
    caller = context.caller
    if not caller.confined:
        return
    for one in wanted:
        if one.volume is not None:
            refuse_unknown(context, one.volume)
        elif one.device is not None or caller.pools is None or caller.partitions is not None:
            message = f"{caller.name} is for a part of the library: name the volumes"
            raise OperatorError(Failure.NOT_PERMITTED, message)
        elif one.pool is None:
            raise OperatorError(Failure.NOT_PERMITTED, f"{caller.name} is for several pools: say of which (--pool)")


@contextmanager
def _told() -> Iterator[None]:
    """What the broker refuses, in an operator's terms."""
    from appliance.broker.broker import BrokerDown, NeverGranted, NoSuchDevice
    from appliance.broker.requests import NoSuchRequest, TooManyRequests
    from appliance.broker.states import RequestStateError

    try:
        yield
    except (NoSuchRequest, NoSuchDevice) as error:
        raise OperatorError(Failure.NOT_FOUND, str(error)) from None
    except (RequestStateError, TooManyRequests, NeverGranted, BrokerDown) as error:
        raise OperatorError(Failure.REFUSED, str(error)) from None


def _end_grant(context: OnLibrary, parameters: OneRequest, ends_as: str, reason: str) -> RequestDetails:
    made = _own(context, parameters.request)
    if not made.state.holds:
        message = f"the request is {made.state.value}: there is no grant; see: tapebay request show {made.name}"
        raise OperatorError(Failure.REFUSED, message)
    return _end(context, parameters, ends_as, reason)


def _end(context: OnLibrary, parameters: OneRequest, ends_as: str, reason: str) -> RequestDetails:
    from appliance.broker.states import RequestStep

    _own(context, parameters.request)
    broker, step = broker_of(context), RequestStep[ends_as]
    with _told():
        made = broker.end(parameters.request, step, reason)
    context.log.info("request ended by the operator", request=made.name, how=reason)
    return RequestDetails.model_validate(_facts(context, broker, made))


def _may_use(context: OnLibrary, made: Made) -> bool:
    """Whether whoever asks may have the grant of a request: it is its own, or it decides about everything."""
    caller = context.caller
    return made.owner == caller.name or (caller.scope is Scope.ADMINISTER and not caller.confined)


def _own(context: OnLibrary, name: str) -> Made:
    """Raises OperatorError NOT_FOUND, NOT_PERMITTED."""
    with _told():
        made = broker_of(context).requests.get(name)
    if not _may_use(context, made):
        raise OperatorError(
            Failure.NOT_PERMITTED, f"request {name} was made by {made.owner}, not {context.caller.name}"
        )
    return made


def _facts(context: OnLibrary, broker: Broker, made: Made) -> dict[str, object]:
    return {
        "request": made.name,
        "state": made.state.value,
        "initiator": made.initiator,
        "wanted": made.wanted,
        "by_gate": made.by_gate,
        "priority": made.priority,
        "tag": made.tag,
        "owner": made.owner,
        "units": [_unit(context, unit) for unit in made.units if unit.device],
        "created_at_ms": made.created_at_ms,
        "lease_seconds_left": broker.lease_left(made),
        "why": broker.why(made),
    }


def _unit(context: OnLibrary, unit: MadeUnit) -> RequestedUnitDetails:
    device = context.library.gate_units().get(unit.device)
    return RequestedUnitDetails(
        lun=unit.lun,
        device=unit.device,
        serial_number=None if device is None else device.identity.serial_number,
        permissions=[str(permission.name).lower().replace("_", " ") for permission in unit.permissions],
        cartridge=unit.volume,
    )


def _with_grant(context: OnLibrary, broker: Broker, made: Made) -> RequestWithGrant:
    key = broker.key(made) if _may_use(context, made) else None
    grant = None
    if key is not None and context.library.gate is not None:
        target = context.library.gate.target_name
        grant = Grant(
            portals=context.library.advertised(),
            target=target,
            user=key.name,
            secret=key.secret,
            mutual_user=target,
            mutual_secret=key.mutual_secret,
            expires_at_ms=made.key_expires_at_ms,
        )
    return RequestWithGrant.model_validate({**_facts(context, broker, made), "grant": grant})
