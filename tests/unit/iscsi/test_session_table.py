"""Numbers, bounds and reinstatement."""

import threading
from itertools import count, pairwise

import pytest

from scsi_targets.devices.unit.principal import Principal
from scsi_targets.devices.unit.view import View
from scsi_targets.iscsi.directory import Portal, Who
from scsi_targets.iscsi.limits import Limits
from scsi_targets.iscsi.login import LoginRefused, LoginResult
from scsi_targets.iscsi.negotiation import Negotiation
from scsi_targets.iscsi.pdu import LoginStatus
from scsi_targets.iscsi.session_table import SessionTable


def new_table(limits: Limits | None = None) -> "SessionTable[Member]":
    """One that numbers its sessions from 1."""
    return SessionTable(limits or Limits(), numbers=count(1).__next__)


class Member:
    """Remembers that it was closed; leaves the table by itself if `table` is set."""

    def __init__(self) -> None:
        self.reasons: list[str] = []
        self.closed = threading.Event()

    def close(self, reason: str) -> None:
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


def test_waiting_for_the_end() -> None:
    table = new_table()
    assert table.wait_until_empty(0)
    tsih = table.admit(Member(), login())
    assert not table.wait_until_empty(0.01)
    threading.Thread(target=table.remove, args=(tsih,)).start()
    assert table.wait_until_empty(60)
