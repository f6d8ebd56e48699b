"""The sessions of initiators."""

from __future__ import annotations

from typing import TYPE_CHECKING

from appliance.operations.verb import Nothing, OnLibrary, Result, Scope, verb

if TYPE_CHECKING:
    from appliance.library.library import Library


class Session(Result):
    """An initiator that is logged in."""

    initiator: str
    target: str
    address: str
    state: str
    authentication: str
    header_digest: bool
    data_digest: bool
    since: float
    commands: int
    bytes_in: int
    bytes_out: int


@verb("session.list", Scope.READ)
def list_(context: OnLibrary, parameters: Nothing) -> list[Session]:
    """Who is logged in, oldest first."""
    return sessions_of(context.library)


def sessions_of(library: Library) -> list[Session]:
    """Every session of a library that is served."""
    return [
        Session(
            initiator=record.initiator_name,
            target=record.target_name or "(discovery)",
            address=record.peer,
            state=record.state,
            authentication=record.authentication,
            header_digest=record.header_digest,
            data_digest=record.data_digest,
            since=record.since,
            commands=record.commands,
            bytes_in=record.bytes_in,
            bytes_out=record.bytes_out,
        )
        for record in library.server.sessions()
    ]
