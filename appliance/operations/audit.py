"""The audit record: who changed what, when; and whether nobody has changed the record itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from appliance.operations.verb import OnFiles, Parameters, Result, Scope, verb

if TYPE_CHECKING:
    from vlib_images.library.database.events import RecordedEvent

LIMIT_EVENTS = 1000


class EventDetails(Result):
    """One change. actor: "operator", "token NAME", an initiator's name, "library"."""

    number: int
    at_microseconds: int = Field(description="Since 1970-01-01 00:00 UTC.")
    actor: str
    action: str
    subject: str = Field(description="What it was done to: a barcode, a device, ...")
    details: dict[str, Any]


class AuditFault(Result):
    """What is wrong with the record, and at which event; number 0: with the record as a whole."""

    number: int
    problem: str


class AuditVerification(Result):
    """events: how many there are, from the first to the last one. The last one's hash is worth keeping elsewhere."""

    events: int
    first: int
    last: int
    hash: str
    faults: list[AuditFault]


class ListAudit(Parameters):
    count: Annotated[int, Field(ge=1, le=LIMIT_EVENTS, description="How many of the newest.")] = 100
    action: Annotated[str, Field(description='Only these: "cartridge moved", ...')] = ""
    subject: Annotated[str, Field(description="Only what was done to this barcode, device, ...")] = ""


class VerifyAudit(Parameters):
    known: Annotated[
        str | None,
        Field(
            pattern=r"^[0-9]{1,18}:[0-9a-f]{64}$",
            description="NUMBER:HASH that an earlier verify printed: still the same?",
        ),
    ] = None


@verb("audit.list", Scope.READ, key=("number",))
def list_(context: OnFiles, parameters: ListAudit) -> list[EventDetails]:
    """List the newest events of the audit record, oldest first; all of them page by page."""
    from vlib_images.library.database import events

    only = {"action": parameters.action, "subject": parameters.subject}
    with context.files.database.read() as connection:
        if (window := context.window) is not None:
            rows = events.after(connection, window.after[0] if window.after else 0, window.limit + 1, **only)
        else:
            rows = events.latest(connection, parameters.count, **only)[::-1]
    return [event_of(row) for row in rows]


@verb("audit.verify", Scope.READ, reports_progress=True)
def verify(context: OnFiles, parameters: VerifyAudit) -> AuditVerification:
    """Check the chain of hashes over the audit record: what was changed, removed, inserted or reordered is named."""
    from vlib_images.library.database import audit_chain

    known = None
    if parameters.known is not None:
        number, _, hash_ = parameters.known.partition(":")
        known = audit_chain.ChainMark(int(number), hash_)
    with context.files.database.read() as connection:
        found = audit_chain.verify(connection, known, context.progress)
    if found.faults:
        context.log.error("the audit record has been tampered with, or is damaged", first=found.faults[0].problem)
    return AuditVerification(
        events=found.events,
        first=found.first,
        last=found.head.number,
        hash=found.head.hash,
        faults=[AuditFault(number=fault.number, problem=fault.problem) for fault in found.faults],
    )


def event_of(row: RecordedEvent) -> EventDetails:
    """An event as the API shows it."""
    return EventDetails(
        number=row.number,
        at_microseconds=row.at_microseconds,
        actor=row.actor,
        action=row.action,
        subject=row.subject,
        details=row.details,
    )
