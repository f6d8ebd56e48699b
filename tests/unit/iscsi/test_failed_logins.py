"""Wrong proofs are answered ever less often; a right one from who never failed always is."""

import pytest

from scsi_targets.iscsi import failed_logins
from scsi_targets.iscsi.failed_logins import FailedLogins


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def failures(clock: Clock) -> FailedLogins:
    return FailedLogins(burst=3, pause_seconds=10, clock=clock)


def guess(failures: FailedLogins, peer: str, account: str = "backup", tries: int = 10) -> int:
    """How many of a peer's wrong proofs were looked at."""
    looked_at = 0
    for _ in range(tries):
        if failures.admit(peer, account):
            looked_at += 1
            failures.failed(peer, account)
    return looked_at


def test_a_peer_guesses_a_few_times_and_then_once_in_a_while(failures: FailedLogins, clock: Clock) -> None:
    assert guess(failures, "192.0.2.1") == 3
    assert guess(failures, "192.0.2.1", account="other") == 0, "another name is no new chance"
    clock.now += 10
    assert guess(failures, "192.0.2.1") == 1
    clock.now += 1000
    assert guess(failures, "192.0.2.1") == 3


def test_a_right_proof_from_who_never_failed_is_always_looked_at(failures: FailedLogins) -> None:
    for number in range(20):
        assert failures.admit(f"192.0.2.{number}", "backup")
        failures.failed(f"192.0.2.{number}", "backup")
    assert failures.admit("198.51.100.1", "backup")


def test_an_account_that_many_guess_at_refuses_who_has_failed(failures: FailedLogins, clock: Clock) -> None:
    assert [guess(failures, f"192.0.2.{number}") for number in range(5)] == [3, 1, 1, 1, 1]
    assert failures.admit("192.0.2.4", "other")
    clock.now += 10
    assert failures.admit("192.0.2.4", "backup")


def test_an_ipv6_host_has_one_allowance(failures: FailedLogins) -> None:
    assert guess(failures, "2001:db8::1") == 3
    assert guess(failures, "2001:db8::2") == 0
    assert guess(failures, "2001:db8:0:1::1", account="other") == 3


def test_no_more_is_remembered_than_there_is_room_for(failures: FailedLogins, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(failed_logins, "MAX_REMEMBERED", 2)
    for number in range(10):
        failures.failed(f"192.0.2.{number}", f"name{number}")
    assert (len(failures._peers), len(failures._accounts)) == (2, 2)
