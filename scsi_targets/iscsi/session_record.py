"""What `status` shows of a session."""

from __future__ import annotations

from dataclasses import dataclass

from scsi_targets.iscsi.directory import Who


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionRecord:
    """One session. since: seconds since the epoch. isid: 12 hexadecimal digits. The counters are the connection's.

    waiting_since: its connection broke then, and its nexus waits for the initiator port; None: it is logged in.
    waits_until: at the longest, as what it sees is allowed today; None: for ever, or it does not wait."""

    initiator_name: str
    initiator_alias: str
    target_name: str | None  # None: a discovery session
    principal: str | None  # "initiator <name>", "account <user>"; None: a discovery session
    tsih: int
    isid: str
    connection_id: int
    portal: str
    peer: str
    since: float
    state: str
    authentication: str
    header_digest: bool
    data_digest: bool
    commands: int
    bytes_in: int
    bytes_out: int
    pdus_in: int
    pdus_out: int
    waiting_since: float | None = None
    waits_until: float | None = None
    who: Who  # as it logged in: what the directory is asked about it
