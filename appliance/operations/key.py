"""Working keys of the gate, which make the keys of grants, and what is denied."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from appliance.failures import Failure, OperatorError
from appliance.operations.verb import Nothing, OnLibrary, Parameters, Result, Scope, verb

if TYPE_CHECKING:
    from appliance.broker.keyring import Keyring

PolicyTag = Annotated[
    str, Field(min_length=1, max_length=64, description="The policy tag that requests were made with.")
]


class WorkingKey(Result):
    """One that is valid, by its version. current: it makes the keys of new grants. grants: live ones that it made."""

    version: int
    current: bool
    grants: int


class Keys(Result):
    """The working keys themselves are shown to nobody."""

    working_keys: list[WorkingKey]
    denied_tags: list[str]


class RotateKey(Parameters):
    force: Annotated[bool, Field(description="End live grants whose key the oldest working key made.")] = False


class DenyTag(Parameters):
    tag: Annotated[PolicyTag | None, Field(description="Every key with that policy tag.")] = None
    key_version: Annotated[
        int | None, Field(ge=0, le=255, description="Every key that this working key made (see `key list`).")
    ] = None


class AllowTag(Parameters):
    tag: PolicyTag


class GrantsEnded(Result):
    """How many grants ended."""

    grants_ended: int


@verb("key.list", Scope.ADMINISTER)
def list_(context: OnLibrary, parameters: Nothing) -> Keys:
    """List the working keys of the gate, by version, and the policy tags that are denied."""
    return _shown(_keyring(context))


@verb("key.rotate", Scope.ADMINISTER, changes="key.list")
def rotate(context: OnLibrary, parameters: RotateKey) -> Keys:
    """Make a new working key of the gate. The one before stays valid until the next rotation."""
    from appliance.broker.keyring import StillUsed

    keyring = _keyring(context)
    try:
        with context.files.changing:
            version = keyring.rotate(force=parameters.force)
    except StillUsed as error:
        raise OperatorError(Failure.IN_USE, str(error)) from None
    context.log.info("working key rotated", version=version)
    return _shown(keyring)


@verb("key.deny", Scope.ADMINISTER, changes="key.list")
def deny(context: OnLibrary, parameters: DenyTag) -> GrantsEnded:
    """Revoke every key with a policy tag, or every key that a working key made; a single grant: `request revoke`."""
    keyring = _keyring(context)
    if (parameters.tag is None) == (parameters.key_version is None):
        raise OperatorError(Failure.USAGE, "say what is denied: either --tag or --key-version")
    with context.files.changing:
        if parameters.tag is not None:
            ended = keyring.deny(parameters.tag)
        else:
            ended = _withdraw(keyring, int(parameters.key_version or 0))
    context.log.warning("keys denied", tag=parameters.tag, key_version=parameters.key_version, grants_ended=ended)
    return GrantsEnded(grants_ended=ended)


@verb("key.allow", Scope.ADMINISTER, changes="key.list")
def allow(context: OnLibrary, parameters: AllowTag) -> Keys:
    """Allow a policy tag again that was denied. Grants that ended stay ended."""
    keyring = _keyring(context)
    with context.files.changing:
        allowed = keyring.allow(parameters.tag)
    if not allowed:
        raise OperatorError(Failure.NOT_FOUND, f"the policy tag {parameters.tag} is not denied; see: tapebay key list")
    return _shown(keyring)


def _withdraw(keyring: Keyring, version: int) -> int:
    try:
        return keyring.withdraw(version)
    except KeyError:
        raise OperatorError(Failure.NOT_FOUND, f"no working key {version} is valid; see: tapebay key list") from None
    except ValueError:
        message = f"working key {version} makes the keys of new grants; make another one first: tapebay key rotate"
        raise OperatorError(Failure.REFUSED, message) from None


def _keyring(context: OnLibrary) -> Keyring:
    from appliance.operations.request import broker_of

    broker_of(context)
    keyring = context.library.keyring
    assert keyring is not None
    return keyring


def _shown(keyring: Keyring) -> Keys:
    keys = keyring.keys
    rows = [
        WorkingKey(version=version, current=version == keys.current, grants=len(keyring.grants_of(version)))
        for version in sorted(keys.keys)
    ]
    return Keys(working_keys=rows, denied_tags=sorted(keyring.denied_tags))
