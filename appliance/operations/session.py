"""The sessions of initiators: who is logged in, what each holds, and its end."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from appliance.failures import Failure, OperatorError
from appliance.operations.verb import Nothing, OnLibrary, Parameters, Positional, Result, Scope, Volatile, verb

if TYPE_CHECKING:
    from appliance.library.library import Library
    from scsi_targets.iscsi.session_record import SessionRecord

END_SECONDS = 10.0  # for a session to give back all that it holds


class SessionStatus(Result):
    """An initiator that is logged in, or that a key let in and whose connection was cut: it goes on when it is back."""

    id: int = Field(description="Of this session, until it ends; who is back after a cut has another one.")
    initiator: str
    principal: str = Field(description='Who it proved to be: "account payroll", or its mere name.')
    target: str
    address: str
    portal: str
    state: str = Field(description="Of its connection (RFC 7143 8.1.3), as LOGGED_IN; WAITING: that was cut.")
    waiting_since: float | None = Field(description="When it was cut, if it waits for its host to be back.")
    waits_until: Annotated[float | None, Volatile()] = Field(
        description="How long it waits at the longest: until its grant ends, if that is not renewed."
    )
    authentication: str
    header_digest: bool
    data_digest: bool
    since: float
    commands: Annotated[int, Volatile()]
    bytes_in: Annotated[int, Volatile()]
    bytes_out: Annotated[int, Volatile()]
    holds: Annotated[list[str], Volatile()] = Field(description="The devices that it has reserved.")


class OneSession(Parameters):
    id: Annotated[int, Positional("SESSION"), Field(description="Its number in `tapebay session list`.")]


@verb("session.list", Scope.READ, key=("id",))
def list_(context: OnLibrary, parameters: Nothing) -> list[SessionStatus]:
    """Who is logged in or waits for its host to be back, oldest first."""
    return sessions_of(context.library)


@verb("session.show", Scope.READ)
def show(context: OnLibrary, parameters: OneSession) -> SessionStatus:
    """One session: who it is, from where, since when, what it holds, its commands and bytes."""
    for session in sessions_of(context.library):
        if session.id == parameters.id:
            return session
    raise OperatorError(Failure.NOT_FOUND, f"there is no session {parameters.id}; see: tapebay session list")


def _still(context: OnLibrary, parameters: OneSession) -> AbstractContextManager[Any]:
    """Its number is of that session alone, and what makes its version stays as it is."""
    return nullcontext()


@verb("session.end", Scope.OPERATE, changes="session.show", still=_still)
def end(context: OnLibrary, parameters: OneSession) -> SessionStatus:
    """End a session at once, or its wait; its commands are aborted, its RESERVE is released. It may log in again."""
    from vlib_images.library.database.events import Event

    session = show(context, parameters)
    details = {"initiator": session.initiator, "principal": session.principal, "address": session.address}
    with context.files.database.change(Event("session ended", str(session.id), details)):
        pass
    context.log.warning("a session is ended by an operator", session=session.id, **details)
    if not context.library.server.end_session(session.id, "ended by an operator", END_SECONDS):
        raise OperatorError(Failure.REFUSED, f"session {session.id} is closed, but what it does takes long to end")
    return session


def sessions_of(library: Library) -> list[SessionStatus]:
    """Every session of a library that is served, those that wait for their hosts too."""
    records = [*library.server.sessions(), *library.server.waiting()]
    return [
        SessionStatus(
            id=record.tsih,
            initiator=record.initiator_name,
            principal=record.principal or "nobody",
            target=record.target_name or "(discovery)",
            address=record.peer,
            portal=record.portal,
            state=record.state,
            waiting_since=record.waiting_since,
            waits_until=record.waits_until,
            authentication=record.authentication,
            header_digest=record.header_digest,
            data_digest=record.data_digest,
            since=record.since,
            commands=record.commands,
            bytes_in=record.bytes_in,
            bytes_out=record.bytes_out,
            holds=_holds(library, record),
        )
        for record in sorted(records, key=lambda record: record.since)
    ]


def _holds(library: Library, record: SessionRecord) -> list[str]:
    from appliance.library.reservations import reservations_of

    ports = record.initiator_name, record.isid, record.target_name
    return [
        name
        for name, unit in library.units.items()
        if any((one.initiator, one.isid, one.target) == ports and one.holder for one in reservations_of(name, unit))
    ]
