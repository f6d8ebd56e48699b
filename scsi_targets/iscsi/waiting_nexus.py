"""An I_T nexus that outlives its connection: it waits until its initiator port logs in again, and then goes on.

RFC 7143 6.3.5.1 has an initiator port that logs in anew lose its nexus, and a tape drive tells it so (29/00), since it
may have lost its place, its RESERVE or its logical block protection to whoever came between. A view that says
`nexus_waits` shows what is its principal's alone, so nobody comes between: there the nexus goes on, with everything
that logical units keep of it. It goes on only where nothing is uncertain, which the first Login Request of the new
session proves by two numbers of the one before: its ExpStatSN (RFC 7143 11.12.8), that the initiator has every answer,
and its CmdSN, that each command it ever sent has arrived here. Linux sends both as they stood. Whoever begins from
other numbers, an initiator that was started anew among them, finds the nexus lost as everywhere.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from time import time

from scsi_targets.devices.unit.task import Nexus
from scsi_targets.devices.unit.view import View
from scsi_targets.iscsi.directory import DirectoryError, TargetDirectory, Who, open_view
from scsi_targets.iscsi.session_record import SessionRecord


@dataclass(slots=True, eq=False)
class WaitingNexus:
    """who: as it logged in. view: what it sees. stat_sn, cmd_sn: what would have come next on its connection. record:
    its session as it ended, under the number that is its own while it waits; None: the session has not quite ended.
    given_up: it is not to go on."""

    nexus: Nexus
    who: Who
    view: View
    stat_sn: int
    cmd_sn: int
    record: SessionRecord | None = None
    given_up: bool = False

    def may_wait(self, directory: TargetDirectory) -> bool:
        """Whether it would see today what it saw, and nobody has given it up. Asks the directory."""
        if self.given_up:
            return False
        try:
            view = open_view(directory, self.who)
        except DirectoryError:
            return False
        if view.ends_at is not None and view.ends_at <= time():
            return False
        if view.principal != self.nexus.principal or not view.shows_as(self.view):
            return False
        self.view = view  # which may end later than the one before
        return True

    def left(self, record: SessionRecord) -> None:
        """Its session is over."""
        self.record = replace(record, state="WAITING", waiting_since=time())

    def shown(self) -> SessionRecord | None:
        """Its session, and how long it waits at the longest."""
        return self.record and replace(self.record, waits_until=self.view.ends_at)

    def lose(self) -> None:
        """It does not come back."""
        self.view.nexus_lost(self.nexus)
