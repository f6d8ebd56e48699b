"""Tokens: what applications show to be let in by the API on TCP."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from appliance.failures import Failure, OperatorError
from appliance.operations import content
from appliance.operations.verb import Nothing, OnFiles, Parameters, Positional, Result, Scope, Volatile, verb

if TYPE_CHECKING:
    from collections.abc import Sequence

    from appliance.access.tokens import Token as Made
    from appliance.settings.sections import PartitionSettings, PoolSettings

NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}"
DAY_MS = 86_400_000

Name = Annotated[
    str,
    Positional("TOKEN"),
    Field(description="The token's name: letters, digits, '.', '_' and '-', 63 at most.", pattern=f"^{NAME}$"),
]


class TokenDetails(Result):
    """A token, without what its holder shows. Times are since 1970-01-01 00:00 UTC."""

    name: str
    scope: str
    partitions: list[str] | None = Field(description="What is in its reach; none: the whole library.")
    pools: list[str] | None = Field(description="Likewise.")
    created_at_ms: int
    expires_at_ms: int | None
    expired: Annotated[bool, Volatile()]
    last_used_at_ms: Annotated[int | None, Volatile(), Field(description="Since the daemon's start.")]


class NewToken(TokenDetails):
    """A token with what its holder shows, which is said this once."""

    token: str = Field(repr=False)


class CreateToken(Parameters):
    name: Name
    scope: Annotated[
        Literal["read", "operate", "administer"],
        Field(description="read: look; operate: move, load, request; administer: decide what the library is made of."),
    ] = "read"
    partitions: Annotated[
        str | None, Field(description="Only these partitions, with commas; by default the whole library.")
    ] = None
    pools: Annotated[str | None, Field(description="Only these pools, with commas; by default all.")] = None
    days: Annotated[float | None, Field(gt=0, le=36500, description="How long it is valid; by default a year.")] = 365.0


class OneToken(Parameters):
    name: Name


@verb("token.create", Scope.ADMINISTER)
def create(context: OnFiles, parameters: CreateToken) -> NewToken:
    """Make a token for an application. It is shown this once, and only its SHA-256 is kept."""
    with _told(), context.files.changing:
        settings = context.files.settings
        made, secret = context.files.tokens.create(
            parameters.name,
            Scope(parameters.scope),
            partitions=_named("partition", parameters.partitions, settings.partitions),
            pools=_named("pool", parameters.pools, settings.pools),
            valid_ms=None if parameters.days is None else max(1, round(parameters.days * DAY_MS)),
        )
    context.log.info("token created", token=made.name, scope=parameters.scope)
    return NewToken(**_token(context, made).model_dump(), token=secret)


@verb("token.list", Scope.ADMINISTER, key=("name",))
def list_(context: OnFiles, parameters: Nothing) -> list[TokenDetails]:
    """List the tokens."""
    return [_token(context, token) for token in context.files.tokens.all()]


@verb("token.show", Scope.ADMINISTER)
def show(context: OnFiles, parameters: OneToken) -> TokenDetails:
    """One token: what it may do, until when."""
    with _told():
        return _token(context, context.files.tokens.get(parameters.name))


@verb("token.revoke", Scope.ADMINISTER, changes="token.show")
def revoke(context: OnFiles, parameters: OneToken) -> TokenDetails:
    """Revoke a token: it opens nothing from now on, and its event streams end."""
    with _told(), context.files.changing:
        gone = context.files.tokens.revoke(parameters.name)
    context.log.info("token revoked", token=gone.name)
    return _token(context, gone)


@contextmanager
def _told() -> Iterator[None]:
    """What the list of tokens refuses, in an operator's terms."""
    from appliance.access.tokens import NoSuchToken, TokenRefused

    try:
        yield
    except NoSuchToken as error:
        raise OperatorError(Failure.NOT_FOUND, str(error)) from None
    except TokenRefused as error:
        raise OperatorError(Failure.REFUSED, str(error)) from None


def _named(noun: str, text: str | None, known: Sequence[PartitionSettings | PoolSettings]) -> frozenset[str] | None:
    """What is to be in reach; None: everything. Raises OperatorError USAGE: nothing; NOT_FOUND: what is not there."""
    if text is None:
        return None
    listed = content.names(text)
    if not listed:
        raise OperatorError(Failure.USAGE, f"{noun}s: give names with commas, or leave it out: then all are in reach")
    content.refuse_missing(noun, listed, [each.name for each in known])
    return frozenset(listed)


def _token(context: OnFiles, token: Made) -> TokenDetails:
    caller = token.caller
    return TokenDetails(
        name=token.name,
        scope=caller.scope.value,
        partitions=None if caller.partitions is None else sorted(caller.partitions),
        pools=None if caller.pools is None else sorted(caller.pools),
        created_at_ms=token.created_at_ms,
        expires_at_ms=token.expires_at_ms,
        expired=token.expired(time.time_ns() // 1_000_000),
        last_used_at_ms=context.files.tokens.used_at_ms.get(token.name),
    )
