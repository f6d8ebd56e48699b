"""How many lines one peer may cause."""

from scsi_targets.iscsi.log_lines import MAX_PEERS, LogLines


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def admitted(lines: LogLines, peer: str, count: int) -> int:
    return sum(lines.admit(peer) is not None for _ in range(count))


def test_a_burst_then_one_at_a_time_and_the_count_of_the_rest() -> None:
    clock = Clock()
    lines = LogLines(burst=3, pause_seconds=10, clock=clock)
    assert [lines.admit("192.0.2.1") for _ in range(5)] == [{}, {}, {}, None, None]
    clock.now = 10
    assert lines.admit("192.0.2.1") == {"left_out": 2}
    assert lines.admit("192.0.2.1") is None
    clock.now = 1000
    assert lines.admit("192.0.2.1") == {"left_out": 1}
    assert admitted(lines, "192.0.2.1", 10) == 2, "no more than a burst is saved up"


def test_a_count_is_told_though_the_peer_is_gone() -> None:
    clock = Clock()
    lines = LogLines(burst=1, pause_seconds=10, clock=clock)
    admitted(lines, "192.0.2.1", 5)
    assert lines.left_out() == []
    clock.now = 10
    assert lines.left_out() == [("192.0.2.1", 4)]
    clock.now = 20
    assert lines.left_out() == []


def test_peers_do_not_take_each_others_lines() -> None:
    lines = LogLines(burst=2, pause_seconds=10, clock=Clock())
    assert admitted(lines, "192.0.2.1", 100) == 2
    assert admitted(lines, "192.0.2.2", 100) == 2
    assert admitted(lines, "2001:db8::1", 100) == 2
    assert admitted(lines, "2001:db8::2", 100) == 0, "the same host with another address of its network"
    assert admitted(lines, "2001:db8:0:1::1", 100) == 2


def test_many_peers_together_have_a_bound_too() -> None:
    clock = Clock()
    lines = LogLines(burst=5, pause_seconds=10, together=4, clock=clock)
    assert sum(admitted(lines, f"192.0.2.{n}", 5) for n in range(200)) == 20
    clock.now = 10
    assert sum(admitted(lines, f"192.0.2.{n}", 5) for n in range(200)) == 4


def test_not_every_peer_is_remembered() -> None:
    lines = LogLines(burst=1, pause_seconds=10, together=10 * MAX_PEERS, clock=Clock())
    for n in range(3 * MAX_PEERS):
        assert lines.admit(f"peer {n}") == {}
    assert len(lines._allowances) == MAX_PEERS
