"""Cuts, returns, logouts and revocations in any order, beside what the initiator knows.

What must hold: whatever the initiator does not know, a command that was done or a reservation that was lost, is told by
a unit attention before the unit answers GOOD; and who has lost nothing is told nothing.
"""

import contextlib
from dataclasses import dataclass, field

from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from hypothesis.strategies import integers, just, sampled_from

from scsi_targets.iscsi.directory import Forbidden
from scsi_targets.iscsi.limits import Limits
from tests.fuzz import layers
from tests.fuzz.peer import HungUp, Peer
from tests.support.waiting import becomes, eventually
from tests.unit.iscsi.dummy import Served
from tests.unit.iscsi.support import TARGET
from tests.unit.iscsi.test_session import DAWDLE, STORE, TEST_UNIT_READY
from tests.unit.iscsi.test_waiting_nexus import RESERVE, cut

RESET = (6, 0x29, 0x03)
FAR_OFF = just(0) | integers(100, 2**32 - 100)


@dataclass
class Knowledge:
    """What the initiator may rely on, as far as it was told."""

    kept: bytes = b""
    reserved: bool = False
    sure: bool = True  # nothing that it asked for is without an answer
    told: bool = True  # nothing has been lost of which it was not told
    pending: list[tuple[int, int, int]] = field(default_factory=list)


class Returns(RuleBasedStateMachine):
    """One initiator port, one unit of a target whose nexuses wait."""

    def __init__(self) -> None:
        super().__init__()
        self.served = Served(Limits(logout_grace_seconds=0.0))
        self.served.directory.nexus_waits = True
        self.unit = self.served.units[0]
        self.here: Peer | None = None
        self.last: Peer | None = None
        self.known = Knowledge(told=False)
        self.number = 0

    def teardown(self) -> None:
        for peer in (self.here, self.last):
            if peer is not None:
                peer.close()
        self.served.stop()
        assert not self.unit.nexuses
        becomes(0, lambda: self.served.server.pool.in_use_bytes)

    # ---- the initiator -------------------------------------------------------------------------------------------

    def come(self, stat: int, command: int) -> None:
        before, self.here = self.last or self.here, Peer(self.served.address)
        if before is not None:
            self.here.cmd_sn = (before.cmd_sn + command) & 0xFFFFFFFF
            self.here.exp_stat_sn = (before.exp_stat_sn + stat) & 0xFFFFFFFF
            before.close()
        self.here.login(TARGET)
        if stat or command:
            self.known.told = False
        self.last = None

    @rule(stat=FAR_OFF, command=FAR_OFF)
    def log_in(self, stat: int, command: int) -> None:
        """Whether the one before is still there or not. Numbers far off are those of an initiator that was started
        anew: it does not claim to have what it has not."""
        self.come(stat, command)
        self.look()

    def look(self) -> None:
        """TEST UNIT READY tells what was lost, or answers GOOD and has nothing to tell."""
        status, sense = self.ask(TEST_UNIT_READY)
        if not self.known.told or not self.known.sure:
            assert (status, sense) == (2, (6, 0x29, 0)), self.known
            self.known = Knowledge(self.unit.kept)
        elif self.known.pending:
            assert (status, sense) == (2, self.known.pending.pop(0)), self.known
            self.known.reserved = False
        else:
            assert (status, sense) == (0, None), self.known

    def ask(self, cdb: bytes, data: bytes = b"") -> tuple[int, tuple[int, int, int] | None]:
        assert self.here is not None
        write = {"write": 1, "expected_data_transfer_length": len(data)} if data else {}
        command = self.here.command(0, cdb, **write)
        self.here.send(command / data if data else command)
        answer = self.here.receive()
        assert isinstance(answer, layers.ScsiResponse)
        sense = answer.data[2:]
        return answer.status, (sense[2] & 15, sense[12], sense[13]) if answer.status == 2 else None

    @precondition(lambda self: self.here is not None and not self.known.pending)
    @rule()
    def write(self) -> None:
        self.number += 1
        data = b"%08d" % self.number
        assert self.ask(STORE, data) == (0, None)
        self.known.kept = data

    @precondition(lambda self: self.here is not None and not self.known.pending)
    @rule()
    def reserve(self) -> None:
        assert self.ask(RESERVE) == (0, None)
        self.known.reserved = True

    @precondition(lambda self: self.here is not None)
    @rule()
    def look_again(self) -> None:
        self.look()

    # ---- the network ---------------------------------------------------------------------------------------------

    @precondition(lambda self: self.here is not None)
    @rule(how=sampled_from(["reset", "closed", "answer lost", "half a command", "never sent", "while it runs"]))
    def lose(self, how: str) -> None:
        peer = self.here
        assert peer is not None
        if how == "answer lost":
            self.number += 1
            peer.send(self.store(peer) / (b"%08d" % self.number))
            if not self.known.pending:
                becomes(b"%08d" % self.number, lambda: self.unit.kept)
        elif how == "half a command":
            peer.send_bytes(peer.encode(self.store(peer) / bytes(8))[:50])
        elif how == "never sent":
            self.store(peer)
        elif how == "while it runs":
            self.unit.started.clear()
            peer.send(peer.command(0, DAWDLE))
            assert self.known.pending or self.unit.started.wait(60)
        if how not in ("reset", "closed"):
            self.known.sure = False
        peer.close() if how == "closed" else cut(peer)
        self.here, self.last = None, peer

    @staticmethod
    def store(peer: Peer) -> layers.ScsiCommand:
        return peer.command(0, STORE, write=1, expected_data_transfer_length=8)

    @precondition(lambda self: self.here is not None)
    @rule()
    def log_out(self) -> None:
        peer = self.here
        assert peer is not None
        peer.send(layers.LogoutRequest(initiator_task_tag=peer.tag(), cmd_sn=peer.cmd_sn))
        assert peer.receive().response == 0
        peer.close()
        self.here, self.last, self.known.told = None, peer, False

    # ---- the library ---------------------------------------------------------------------------------------------

    @precondition(lambda self: self.here is not None or self.last is not None)
    @rule()
    def reset(self) -> None:
        """Only those who are there, or wait, have something to be told."""
        eventually(lambda: not self.unit.tasks.running)
        self.unit.reset()
        self.known.pending = [RESET]

    @rule()
    def revoke(self) -> None:
        self.served.directory.errors[TARGET] = Forbidden("revoked")
        self.served.server.views_changed()
        eventually(lambda: not self.unit.nexuses)
        eventually(lambda: not self.served.server.sessions())
        del self.served.directory.errors[TARGET]
        if self.here is not None:
            with contextlib.suppress(HungUp):
                while True:
                    self.here.receive()
            self.here.close()
            self.here, self.last = None, self.here
        self.known.told = False

    @invariant()
    def what_it_was_told_is_so(self) -> None:
        if self.here is not None and self.known.told and self.known.sure and not self.known.pending:
            assert self.unit.kept == self.known.kept
            assert (self.unit.reservations.legacy_holder is not None) == self.known.reserved


Returns.TestCase.settings = settings(
    max_examples=30,
    stateful_step_count=25,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.explicit, Phase.reuse, Phase.generate],  # a failure waits for a minute: too long to be made smaller
)
TestReturns = Returns.TestCase
