"""Numbers, bounds and reinstatement."""

import threading
from contextlib import nullcontext
from itertools import count, pairwise
from typing import Any

import pytest

from scsi_targets.devices.unit.principal import Principal
from scsi_targets.devices.unit.view import View
from scsi_targets.iscsi.directory import Portal, Who
from scsi_targets.iscsi.limits import Limits
from scsi_targets.iscsi.login import LoginRefused, LoginResult
from scsi_targets.iscsi.negotiation import Negotiation
from scsi_targets.iscsi.pdu import LoginStatus
from scsi_targets.iscsi.session_record import SessionRecord
from scsi_targets.iscsi.session_table import SessionTable
from scsi_targets.iscsi.waiting_nexus import WaitingNexus


def new_table(limits: Limits | None = None) -> "SessionTable[Member]":
    """One that numbers its sessions from 1."""
    return SessionTable(limits or Limits(), numbers=count(1).__next__)


class Member:
    """Remembers that it was closed; leaves the table by itself if `table` is set."""

    def __init__(self) -> None:
        self.reasons: list[str] = []
        self.closed = threading.Event()

    def close(self, reason: str, *, for_good: bool = True) -> None:
        self.reasons.append(reason)
        self.closed.set()


def login(
    initiator: str = "iqn.i",
    isid: int = 1,
    target: str | None = "iqn.t",
    group: int = 1,
    account: str | None = None,
) -> LoginResult:
    who = Who(initiator, isid.to_bytes(6, "big"), target, Portal("127.0.0.1", portal_group_tag=group), account=account)
    principal = Principal.account(account) if account else Principal.initiator(initiator)
    view = View(principal, target, {}) if target is not None else None
    return LoginResult(who, "", 0, view, "None", Negotiation(Limits()))


def test_a_number_that_is_taken_is_not_given_again() -> None:
    table: SessionTable[Member] = SessionTable(Limits(), numbers=iter([5, 5, 7, 5, 7, 9, 7]).__next__)
    assert [table.admit(Member(), login(isid=i)) for i in range(3)] == [5, 7, 9]
    table.remove(7)
    assert table.admit(Member(), login(isid=9)) == 7


def test_numbers_say_nothing_of_other_sessions() -> None:
    """One after the other, they would tell how many logged in meanwhile."""
    table: SessionTable[Member] = SessionTable(Limits(sessions=100))
    numbers = [table.admit(Member(), login(f"iqn.{i}")) for i in range(50)]
    assert len(set(numbers)) == 50 and set(numbers) <= set(range(1, 0x10000))
    assert len({later - earlier for earlier, later in pairwise(numbers)}) > 25


def test_who_is_there() -> None:
    table = new_table()
    first, second, browser = Member(), Member(), Member()
    table.admit(first, login(isid=1))
    table.admit(second, login(isid=2, target="iqn.other"))
    table.admit(browser, login(isid=1, target=None))
    assert table.members() == [first, second, browser]
    assert table.members_like(login(isid=5)) == [first]
    assert table.exists(login().who, 1)
    assert not table.exists(login().who, 2)
    assert not table.exists(login("iqn.other").who, 1)
    assert not table.exists(login().who, 77)
    assert not table.exists(login(account="somebody").who, 1)


@pytest.mark.parametrize(
    "other", [{"isid": 2}, {"initiator": "iqn.j"}, {"target": "iqn.u"}, {"group": 2}, {"target": None}]
)
def test_another_nexus_is_left_alone(other: dict[str, object]) -> None:
    table = new_table()
    member = Member()
    table.admit(member, login())
    table.admit(Member(), login(**other))
    assert member.reasons == []


def test_two_discovery_sessions_of_one_initiator_live_side_by_side() -> None:
    table = new_table()
    member = Member()
    table.admit(member, login(target=None))
    table.admit(Member(), login(target=None))
    assert member.reasons == []


def test_reinstatement_waits_for_the_old_session_to_end() -> None:
    table = new_table()
    old, new, admitted = Member(), Member(), []
    tsih = table.admit(old, login())
    thread = threading.Thread(target=lambda: admitted.append(table.admit(new, login())))
    thread.start()
    assert old.closed.wait(60)
    assert old.reasons == ["reinstated by a new login"]
    assert not admitted
    table.remove(tsih)
    thread.join(60)
    assert admitted == [2]
    assert table.members() == [new]


def test_an_old_session_that_does_not_end_refuses_the_new_one() -> None:
    table = new_table(Limits(reinstatement_seconds=0.01))
    old = Member()
    table.admit(old, login())
    with pytest.raises(LoginRefused) as refusal:
        table.admit(Member(), login())
    assert refusal.value.status is LoginStatus.SERVICE_UNAVAILABLE
    assert table.members() == [old]


def test_nobody_reinstates_the_session_of_another_principal() -> None:
    table = new_table()
    member = Member()
    tsih = table.admit(member, login(account="alice"))
    for impostor in (login(account="bob"), login()):
        with pytest.raises(LoginRefused) as refusal:
            table.admit(Member(), impostor)
        assert refusal.value.status is LoginStatus.AUTHORIZATION_FAILURE
    assert member.reasons == []
    table.remove(tsih)
    assert table.admit(Member(), login(account="bob")) == 2, "when it is over, the name and ISID are free again"


def test_the_oldest_of_too_many_discovery_sessions_gives_way() -> None:
    table = new_table(Limits(discovery_sessions=2, sessions=1))
    browsers = [Member() for _ in range(4)]
    for browser in browsers:
        table.admit(browser, login(target=None))
    assert [len(browser.reasons) for browser in browsers] == [1, 1, 0, 0]
    with pytest.raises(LoginRefused) as refusal:  # those who were asked to go are still there
        table.admit(Member(), login(target=None))
    assert refusal.value.status is LoginStatus.OUT_OF_RESOURCES
    table.admit(Member(), login())  # and none of them takes the place of a session that works


@pytest.mark.parametrize("limits", [Limits(sessions=2), Limits(sessions_per_initiator=2)])
def test_too_many_sessions(limits: Limits) -> None:
    table = new_table(limits)
    for isid in range(2):
        table.admit(Member(), login(isid=isid))
    with pytest.raises(LoginRefused) as refusal:
        table.admit(Member(), login(isid=2))
    assert refusal.value.status is LoginStatus.OUT_OF_RESOURCES
    if limits.sessions_per_initiator == 2:
        table.admit(Member(), login("iqn.j", isid=2))
    table.remove(1)
    if limits.sessions == 2:
        table.admit(Member(), login(isid=2))


# ---- nexuses that wait -----------------------------------------------------------------------------------------------


def cut_off(table: "SessionTable[Member]", **port: Any) -> WaitingNexus:
    """A session has left its nexus waiting."""
    ended = login(**port)
    number = table.admit(Member(), ended)
    assert ended.nexus is not None and ended.view is not None
    ended.waiting = WaitingNexus(ended.nexus, ended.who, ended.view, 5, 6)
    ended.waiting.left(record_of(ended))
    table.remove(number)
    return ended.waiting


def record_of(ended: LoginResult) -> SessionRecord:
    nothing = dict.fromkeys(("connection_id", "since", "commands", "bytes_in", "bytes_out", "pdus_in", "pdus_out"), 0)
    digests = {"header_digest": False, "data_digest": False}
    texts = dict.fromkeys(("initiator_name", "initiator_alias", "target_name", "principal", "isid", "portal", "peer",
                           "state", "authentication"), "")  # fmt: skip
    return SessionRecord(**nothing, **digests, **texts, tsih=ended.tsih, who=ended.who)  # type: ignore[arg-type]


def test_a_nexus_waits_for_its_own_initiator_port() -> None:
    table = new_table()
    waiting = cut_off(table)
    somebody = login(isid=2), login("iqn.j"), login(group=2), login(target="iqn.u"), login(account="bob")
    for other in (*somebody, login(target=None)):
        table.remove(table.admit(Member(), other))
        assert other.waiting is None
    back = login()
    table.admit(Member(), back)
    assert back.waiting is waiting and not back.continues
    back.first_exp_stat_sn, back.first_cmd_sn = 5, 6
    assert back.continues


def test_a_login_that_is_refused_leaves_it_waiting() -> None:
    table = new_table(Limits(sessions=1))
    waiting = cut_off(table)
    other = table.admit(Member(), login("iqn.j"))
    with pytest.raises(LoginRefused, match="too many"):
        table.admit(Member(), login())
    table.remove(other)
    back = login()
    table.admit(Member(), back)
    assert back.waiting is waiting


def test_a_login_waits_while_its_nexus_is_looked_at() -> None:
    table = new_table(Limits(reinstatement_seconds=0.02))
    waiting = cut_off(table)

    def may_wait(looked_at: WaitingNexus) -> bool:
        assert looked_at is waiting
        with pytest.raises(LoginRefused, match="does not end"):
            table.admit(Member(), login())
        table.remove(table.admit(Member(), login(isid=2)))  # nobody else does
        return True

    table.look_at_waiting(may_wait)
    back = login()
    table.admit(Member(), back)
    assert back.waiting is waiting
    table.look_at_waiting(lambda _: pytest.fail("it does not wait any more"))


@pytest.mark.parametrize("fails", [False, True])
def test_one_that_may_not_wait_is_lost(monkeypatch: pytest.MonkeyPatch, fails: bool) -> None:
    """Also when nobody can say whether it may."""
    table, lost = new_table(), list[WaitingNexus]()
    waiting = cut_off(table)
    monkeypatch.setattr(WaitingNexus, "lose", lambda one: lost.append(one))

    def may_wait(_: WaitingNexus) -> bool:
        if fails:
            raise RuntimeError("a fault of ours")
        return False

    with pytest.raises(RuntimeError) if fails else nullcontext():
        table.look_at_waiting(may_wait)
    assert lost == [waiting]
    back = login()
    table.admit(Member(), back)
    assert back.waiting is None


def test_it_keeps_the_number_of_its_session_while_it_waits() -> None:
    table: SessionTable[Member] = SessionTable(Limits(), numbers=iter([5, 5, 6, 5, 7, 5]).__next__)
    cut_off(table)
    assert [record.tsih for record in table.waiting()] == [5]
    assert table.admit(Member(), login("iqn.j")) == 6
    assert table.admit(Member(), login()) == 7
    assert table.waiting() == []
    table.remove(7)  # before the session began
    assert [record.tsih for record in table.waiting()] == [7]
    assert table.admit(Member(), login("iqn.k")) == 5


def test_one_that_is_given_up_is_lost_by_whoever_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    table, lost = new_table(), list[WaitingNexus]()
    monkeypatch.setattr(WaitingNexus, "lose", lambda one: lost.append(one))
    waiting = cut_off(table)
    assert not table.end(1, "for a test", 0.001), "nobody looks"
    table.look_at_waiting(lambda one: not one.given_up)
    assert lost == [waiting] and table.waiting() == [] and table.end(1, "for a test", 60)


def test_one_that_is_back_after_it_was_given_up_does_not_go_on() -> None:
    table = new_table()
    waiting = cut_off(table)
    assert not table.end(1, "for a test", 0.001)
    back = login()
    table.admit(Member(), back)
    back.first_exp_stat_sn, back.first_cmd_sn = 5, 6
    assert back.waiting is waiting and not back.continues


def test_waiting_for_the_end() -> None:
    table = new_table()
    assert table.wait_until_empty(0)
    tsih = table.admit(Member(), login())
    assert not table.wait_until_empty(0.01)
    threading.Thread(target=table.remove, args=(tsih,)).start()
    assert table.wait_until_empty(60)
