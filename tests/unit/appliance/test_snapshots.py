"""Snapshot sets of a library: their states, who holds them, until when, and what is left of them in the end."""

import random
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from appliance.failures import Failure, OperatorError
from appliance.library.snapshots.block_list import MOST_EXTENTS, BadList, digest_of
from appliance.library.snapshots.keeper import MOST_LIVE, MOST_OVER, NoSuchSnapshot, Snapshots
from appliance.library.snapshots.kept_set import KeptSet
from appliance.library.snapshots.signals import MOST_SENDERS, OutOfTurn, Signals
from appliance.library.snapshots.states import TRANSITIONS, Life, SetState, SetStep, SnapshotStateError, Terms
from appliance.operations.snapshot import OneSnapshot, SendSignal, show
from appliance.operations.snapshot import signal as send_signal
from scsi_targets.devices.disk.block_device import BlockDevice
from scsi_targets.devices.unit.device import Device
from tests.support.database import new_database
from tests.support.processes import open_files
from tests.support.waiting import becomes, eventually
from tests.unit.devices.disk.support import make_disk, write
from vlib_images.disk.snapshot import SnapshotEnded
from vlib_images.disk.snapshot_store import CHUNK_BYTES
from vlib_images.library.state import LibraryState

OVER = {SetState.RELEASED, SetState.EXPIRED, SetState.BROKEN}
PER_CHUNK = CHUNK_BYTES // 512


class Clock:
    """Seconds that go up when the test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class House:
    """Two disks and their snapshots."""

    def __init__(self, tmp_path: Path) -> None:
        self.folder, self.clock = tmp_path / "stores", Clock()
        self.state = LibraryState(new_database(tmp_path))
        self.disks = {name: make_disk(tmp_path, name=name) for name in ("a", "b")}
        for disk in self.disks.values():
            write(disk, 0, b"old!" * 128 * 8 * PER_CHUNK)
        self.offered: dict[str, Device] = {}
        self.recorded: list[tuple[str, str]] = []
        self.snapshots = self.keeper()

    def keeper(self, budget_bytes: int | None = None) -> Snapshots:
        return Snapshots(
            lambda: self.disks,
            self.folder,
            self.state,
            budget_bytes=budget_bytes,
            clock=self.clock,
            offer=self.offered.__setitem__,
            withdraw=lambda name: self.offered.pop(name, None),
            record=lambda action, name, _details: self.recorded.append((action, name)),
        )

    def close(self) -> None:
        self.snapshots.close()
        for disk in self.disks.values():
            assert disk.medium.before_change is None
            disk.close()


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    made = House(tmp_path)
    yield made
    made.close()


def seen(kept: KeptSet, disk: str, offset: int = 0, length: int = 512) -> bytes:
    buffer = bytearray(length)
    kept.images[disk].read_into(buffer, offset)
    return bytes(buffer)


def dirty(disk: BlockDevice, chunk: int = 0) -> None:
    assert write(disk, chunk * PER_CHUNK, b"new!" * 128).status == 0


def stores(kept: KeptSet, chunks: int) -> bool:
    """Whether it takes that much room, soon: what is given back while it is being written is free after that."""
    becomes(chunks * CHUNK_BYTES, lambda: kept.stored_bytes)
    return True


def assert_nothing_is_left(house: House, kept: KeptSet) -> None:
    assert kept.stored_bytes == 0
    assert all(disk.medium.before_change is None for disk in house.disks.values())
    assert kept.state.over
    kept.join(60)
    assert list(house.folder.iterdir()) == []
    assert eventually(lambda: not any(str(house.folder) in name for name in open_files()))  # the space itself
    assert house.recorded[-1] == (f"snapshot {kept.state.value}", kept.name)
    for disk in kept.images:
        with pytest.raises(SnapshotEnded):
            seen(kept, disk)


# ---- the table -------------------------------------------------------------------------------------------------------


def test_every_state_is_reached_and_can_end() -> None:
    reached = {SetState.FREEZING} | {state for steps in TRANSITIONS.values() for state in steps.values()}
    assert reached == set(SetState)
    assert {state for state in SetState if state.over} == OVER
    for state in set(SetState) - OVER:
        assert set(TRANSITIONS[state].values()) >= OVER


@pytest.mark.parametrize("state", SetState)
def test_a_step_that_does_not_follow_is_refused_and_changes_nothing(state: SetState) -> None:
    for step in set(SetStep) - set(TRANSITIONS[state]):
        life = Life(Terms(), 0.0, state, "why")
        with pytest.raises(SnapshotStateError, match=rf"is {state.value} \(why\): it cannot be {step.value}"):
            life.step(step, 1.0)
        assert (life.state, life.reason, life.renewed_at) == (state, "why", 0.0)


@pytest.mark.parametrize(
    ("steps", "seconds", "reason"),
    [
        ([], 10, "the instant did not come within 10 s"),
        ([SetStep.TAKE], 60, "its lease was not renewed for 60 s"),
        ([SetStep.TAKE, SetStep.LIST], 60, "its lease was not renewed for 60 s"),
        ([SetStep.TAKE, SetStep.LIST, SetStep.START], 60, "its lease was not renewed for 60 s"),
        ([SetStep.TAKE, SetStep.START, SetStep.FINISH], 60, "its lease was not renewed for 60 s"),
    ],
)
def test_each_time_out_says_which_it_was(steps: list[SetStep], seconds: float, reason: str) -> None:
    life = Life(Terms(), 100.0)
    for step in steps:
        life.step(step, 100.0)
    assert not life.expire(100.0 + seconds - 0.01)
    assert life.expire(100.0 + seconds)
    assert life.state is SetState.EXPIRED
    assert reason in life.reason
    assert not life.expire(1e9)


def test_renewals_keep_it_but_a_list_is_due_and_so_is_the_end() -> None:
    life = Life(Terms(), 0.0)
    life.step(SetStep.TAKE, 0.0)
    for now in range(20, 120, 20):
        life.renew(now)
        assert not life.expire(now + 19)
    assert life.expire(120)
    assert "no list of blocks came within 120 s" in life.reason
    life = Life(Terms(), 0.0)
    life.step(SetStep.TAKE, 0.0)
    for now in range(50, 1000, 50):  # a list of very many files, which comes in parts
        life.list_comes(now)
        assert not life.expire(now + 49)
    life.renew(1009)
    life.renew(1060)
    assert life.expire(1070)
    assert "no list of blocks came within 120 s" in life.reason
    life = Life(Terms(most_seconds=100), 0.0)
    life.step(SetStep.TAKE, 0.0)
    life.step(SetStep.LIST, 0.0)
    life.renew(99)
    assert life.expire(100)
    assert "it was not released within 100 s" in life.reason
    with pytest.raises(SnapshotStateError, match="nothing to renew"):
        life.renew(101)


def test_an_operator_renews_nothing() -> None:
    life = Life(Terms(lease_seconds=None, list_seconds=None), 0.0)
    life.step(SetStep.TAKE, 0.0)
    assert not life.expire(86399)
    assert life.expire(86400)


# ---- numbered signals ------------------------------------------------------------------------------------------------


def test_a_signal_has_its_effect_once_whatever_is_lost_late_or_doubled() -> None:
    rng = random.Random(1)
    for _ in range(200):
        signals, effects, sent = Signals(), [], 1
        while sent <= 10:
            number = rng.choice((sent, sent, sent - 1, sent + 1, 1))  # the next one, an old one, one too early
            try:
                if signals.is_new("agent", number):
                    effects.append(number)
                    signals.took_effect("agent", number)
            except OutOfTurn as error:
                assert number == sent + 1
                assert f"send {sent} first" in str(error)
            sent = signals.last.get("agent", 0) + 1
        assert effects == list(range(1, 11))


def test_senders_are_counted_apart_and_are_not_without_number() -> None:
    signals = Signals()
    for number in range(MOST_SENDERS):
        assert signals.is_new(f"s{number}", 1)
        signals.took_effect(f"s{number}", 1)
    with pytest.raises(OutOfTurn, match="one too many"):
        signals.is_new("another", 1)
    assert not signals.is_new("s0", 1)
    assert signals.is_new("s0", 2)


# ---- a set -----------------------------------------------------------------------------------------------------------


def test_several_disks_at_one_instant_and_their_space_is_seen_live(house: House) -> None:
    kept = house.snapshots.create(["a", "b"], budget_bytes=4 * CHUNK_BYTES)
    assert kept.state is SetState.HELD
    assert (kept.disks, kept.budget_bytes, kept.stored_bytes) == (("a", "b"), 4 * CHUNK_BYTES, 0)
    for disk in house.disks.values():
        dirty(disk)
    assert seen(kept, "a") == seen(kept, "b") == b"old!" * 128
    assert stores(kept, 2)
    assert [(row.disk, row.saved_bytes) for row in kept.figures()] == [("a", CHUNK_BYTES), ("b", CHUNK_BYTES)]
    assert 0 <= kept.age_seconds < 60
    assert len({unit.identity.naa for unit in [*kept.units.values(), *house.disks.values()]}) == 4
    kept.release()
    kept.release()
    assert kept.state is SetState.RELEASED
    assert_nothing_is_left(house, kept)


def test_what_a_checkpoint_makes_safe_is_given_back(house: House) -> None:
    kept = house.snapshots.create(["a"])
    kept.narrow({"a": [(100, 1000), (3 * CHUNK_BYTES, 2 * CHUNK_BYTES)]})
    assert kept.state is SetState.LISTED
    for chunk in range(6):
        dirty(house.disks["a"], chunk)
    assert stores(kept, 3)
    kept.start()
    kept.start()  # another mover, after the first was lost
    kept.commit("a", [(0, 512)])  # half of what is wanted of the first chunk
    assert stores(kept, 3)
    kept.commit("a", [(512, 1024)])
    assert seen(kept, "a", 3 * CHUNK_BYTES) == b"old!" * 128
    kept.commit("a", [(3 * CHUNK_BYTES, CHUNK_BYTES)])
    house.clock.now += 59
    kept.fail("drive0 has failed")
    assert (kept.state, kept.reason) == (SetState.LISTED, "drive0 has failed")
    assert seen(kept, "a", 4 * CHUNK_BYTES) == b"old!" * 128  # what is not committed is there for another drive
    kept.start()
    kept.finish()
    assert kept.state is SetState.COMMITTED
    assert stores(kept, 0)
    kept.release()
    assert_nothing_is_left(house, kept)


def test_what_was_given_back_on_its_way_to_the_store_is_seen_to_be_free(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = house.snapshots.create(["a"], terms=Terms(list_seconds=None))
    kept.start()
    dirty(house.disks["a"])
    assert stores(kept, 1)
    spill = kept._set._spill  # type: ignore[union-attr]
    with monkeypatch.context() as patched:
        patched.setattr(spill, "_saver", BeingWritten(spill._saver))
        kept.commit("a", [(0, CHUNK_BYTES)])
        assert kept.stored_bytes == CHUNK_BYTES
    assert stores(kept, 0)


class BeingWritten:
    """A saver that has each chunk in its hands."""

    def __init__(self, saver: Any) -> None:
        self.close, self.failure = saver.close, None

    def forget(self, _slot: int) -> bool:
        return False


def test_release_by_reading(house: House) -> None:
    kept = house.snapshots.create(["a"], release="read")
    dirty(house.disks["a"])
    seen(kept, "a", 0, CHUNK_BYTES)
    with pytest.raises(SnapshotEnded, match="given back"):
        seen(kept, "a")
    kept.release()
    assert_nothing_is_left(house, kept)


@pytest.mark.parametrize("ending", ["release", "lease", "list", "deadline", "budget", "stop", "disk"])
def test_every_end_gives_all_space_back_and_says_why(house: House, ending: str) -> None:
    kept = house.snapshots.create(["a", "b"], budget_bytes=2 * CHUNK_BYTES)
    dirty(house.disks["a"])
    expected = {
        "release": (SetState.RELEASED, "no longer wanted"),
        "lease": (SetState.EXPIRED, "its lease was not renewed for 60 s"),
        "list": (SetState.EXPIRED, "no list of blocks came within 120 s"),
        "deadline": (SetState.EXPIRED, "it was not released within 86400 s"),
        "budget": (SetState.BROKEN, "budget of 131072 bytes is reached"),
        "stop": (SetState.BROKEN, "the appliance is stopped"),
        "disk": (SetState.BROKEN, "its disk is closed"),
    }[ending]
    match ending:
        case "release":
            kept.release("no longer wanted")
        case "lease":
            house.clock.now += 60
        case "list":
            for _ in range(6):
                house.clock.now += 20
                if kept.state is SetState.HELD:
                    kept.renew()
        case "deadline":
            kept.start()
            for _ in range(1440 + 1):
                house.clock.now += 59.99
                if kept.state is SetState.COPYING:
                    kept.renew()
        case "budget":
            for chunk in (1, 2, 3):
                dirty(house.disks["a"], chunk)
        case "stop":
            house.snapshots.close()
        case "disk":
            house.disks["b"].close()
            house.disks["b"] = make_disk(house.folder.parent, name="c")
    house.snapshots.look()
    assert kept.state is expected[0]
    assert expected[1] in kept.reason
    assert_nothing_is_left(house, kept)
    with pytest.raises(SnapshotStateError, match=expected[0].value):
        kept.start()
    dirty(house.disks["a"], 5)


def test_space_is_claimed_before_the_instant(house: House) -> None:
    kept = house.snapshots.prepare(["a"])
    assert kept.state is SetState.FREEZING
    dirty(house.disks["a"])
    house.snapshots.take(kept)
    assert seen(kept, "a")[:4] == b"new!"
    late = house.snapshots.prepare(["a"])
    house.clock.now += 10
    with pytest.raises(SnapshotStateError, match="expired"):
        house.snapshots.take(late)
    assert "the instant did not come" in late.reason


def test_a_disk_that_does_not_come_to_rest_has_no_snapshot_and_goes_on(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("appliance.library.snapshots.kept_set.STILL_SECONDS", 0.05)
    kept = house.snapshots.prepare(["a", "b"])
    with house.disks["a"].gate.shared, pytest.raises(OperatorError, match="did not come to rest") as refused:
        house.snapshots.take(kept)
    assert refused.value.failure is Failure.REFUSED
    assert kept.state is SetState.BROKEN
    assert_nothing_is_left(house, kept)
    for disk in house.disks.values():
        dirty(disk)


def test_what_cannot_be_made_is_refused_by_name(house: House) -> None:
    for names, failure, words in (
        ([], Failure.USAGE, "one disk or several"),
        (["a", "a"], Failure.USAGE, "each named once"),
        (["c"], Failure.NOT_FOUND, "there is no disk c"),
    ):
        with pytest.raises(OperatorError, match=words) as refused:
            house.snapshots.create(names)
        assert refused.value.failure is failure
    for _ in range(MOST_LIVE):
        house.snapshots.create(["a"], budget_bytes=CHUNK_BYTES)
    with pytest.raises(OperatorError, match="64 snapshots are held already"):
        house.snapshots.create(["a"], budget_bytes=CHUNK_BYTES)
    assert list(house.folder.iterdir()) == []


def test_those_that_are_over_are_remembered_for_a_while(house: House) -> None:
    for _ in range(MOST_OVER + 5):
        house.snapshots.create(["a"], budget_bytes=CHUNK_BYTES).release()
    assert len(house.snapshots.all()) == MOST_OVER
    assert house.snapshots.of_disks(["a"]) == []
    assert house.offered == {}
    with pytest.raises(NoSuchSnapshot, match="there is no snapshot"):
        house.snapshots.get("0" * 16)


def test_a_restart_ends_them_and_says_so(house: House) -> None:
    kept = house.snapshots.create(["a"])
    (house.folder / f"{'0' * 16}.snapshot").write_bytes(b"of a daemon that was killed at a bad moment")
    (house.folder / "notes.snapshot").write_bytes(b"not ours")
    again = house.keeper()  # as the next daemon finds it
    with pytest.raises(NoSuchSnapshot, match="is broken: the appliance ended while it was held"):
        again.get(kept.name)
    assert [path.name for path in house.folder.iterdir()] == ["notes.snapshot"]
    assert house.state.items("snapshots") == {}
    (house.folder / "notes.snapshot").unlink()


# ---- the list --------------------------------------------------------------------------------------------------------


def listed(kept: KeptSet, rows: list[tuple[str, int, int]], *, lose: int | None = None) -> None:
    kept.begin_list()
    for number, (disk, offset, length) in enumerate(rows):
        if number != lose:
            kept.add_to_list(disk, [(offset, length)])
    kept.end_list(len(rows), digest_of(kept.name, rows))


def test_a_list_that_is_torn_leaves_the_set_held_until_its_deadline(house: House) -> None:
    kept = house.snapshots.create(["a", "b"])
    rows = [("a", 0, 512), ("b", CHUNK_BYTES, 3 * CHUNK_BYTES), ("a", 5 * CHUNK_BYTES, 4096)]
    with pytest.raises(BadList, match="2 of its 3 extents came"):
        listed(kept, rows, lose=1)
    with pytest.raises(BadList, match="no list was begun"):
        kept.add_to_list("a", [(0, 512)])
    kept.begin_list()
    kept.add_to_list("a", [(0, 512)])
    with pytest.raises(BadList, match="digest does not agree"):
        kept.end_list(1, digest_of("another snapshot", [("a", 0, 512)]))
    for disk, extent, words in (
        ("c", (0, 512), "no disk c"),
        ("a", (0, 0), "is not on disk a"),
        ("a", (-512, 1024), "is not on disk a"),
        ("a", (1 << 40, 512), "is not on disk a"),
    ):
        kept.begin_list()
        with pytest.raises(BadList, match=words):
            kept.add_to_list(disk, [extent])
    with pytest.raises(BadList, match="at most"):
        kept.add_to_list("a", [(0, 512)] * (MOST_EXTENTS + 1))
    assert kept.state is SetState.HELD
    listed(kept, rows)
    assert kept.state is SetState.LISTED
    for disk in house.disks.values():
        for chunk in range(7):
            dirty(disk, chunk)
    assert stores(kept, 5)
    assert seen(kept, "b", 3 * CHUNK_BYTES) == b"old!" * 128
    with pytest.raises(SnapshotEnded, match="not among the ranges"):
        seen(kept, "b")
    with pytest.raises(SnapshotStateError, match="cannot be listed"):
        kept.begin_list()


# ---- silence, and a channel that loses, doubles and delays -----------------------------------------------------------

AGENT_STEPS = ("freezing", "held", "listed", "copying", "failed", "committed")


@pytest.mark.parametrize("until", AGENT_STEPS)
def test_whoever_dies_in_whatever_state_leaves_nothing_behind(house: House, until: str) -> None:
    kept = house.snapshots.prepare(["a", "b"])
    steps = {
        "held": lambda: house.snapshots.take(kept),
        "listed": lambda: kept.narrow({"a": [(0, 4 * CHUNK_BYTES)]}),
        "copying": kept.start,
        "failed": lambda: kept.fail("the drive failed"),
        "committed": lambda: (kept.start(), kept.finish()),
    }
    for name in AGENT_STEPS[1 : AGENT_STEPS.index(until) + 1]:
        steps[name]()
        house.clock.now += 5
    dirty(house.disks["a"])
    house.clock.now += 54.9 if until != "freezing" else 9.9
    house.snapshots.look()
    assert not kept.state.over
    house.clock.now += 0.2
    house.snapshots.look()
    assert kept.state is SetState.EXPIRED
    assert kept.reason == (
        "the instant did not come within 10 s after its space was claimed"
        if until == "freezing"
        else "its lease was not renewed for 60 s"
    )
    assert_nothing_is_left(house, kept)


class Unreliable:
    """A verb as a program far away calls it: requests and answers are lost, requests are doubled, and old ones come
    again later."""

    def __init__(self, snapshots: Snapshots, rng: random.Random) -> None:
        self._context = SimpleNamespace(
            library=SimpleNamespace(snapshots=snapshots), caller=SimpleNamespace(name="agent")
        )
        self._rng = rng
        self._late: list[SendSignal] = []
        self.effects: list[tuple[str, int]] = []

    def send(self, **given: Any) -> dict[str, Any] | None:
        """The answer, if there is one. Raises OperatorError."""
        request = SendSignal(**given)
        if self._rng.random() < 0.3:
            return None
        if self._late and self._rng.random() < 0.5:  # an old one overtakes it; whoever sent it is no longer listening
            with suppress(OperatorError):
                self._do(self._rng.choice(self._late))
        self._late.append(request)
        answer = self._do(request)
        if self._rng.random() < 0.3:
            answer = self._do(request)
        return None if self._rng.random() < 0.3 else answer

    def _do(self, request: SendSignal) -> dict[str, Any]:
        before = self.last(request.snapshot, request.sender)
        answer = send_signal(self._context, request)  # type: ignore[arg-type]
        if answer.signals.get(request.sender, 0) > before:
            self.effects.append((request.sender, request.number))
        return answer.model_dump()

    def last(self, snapshot: str, sender: str) -> int:
        """What `snapshot show` says."""
        shown = show(self._context, OneSnapshot(snapshot=snapshot))  # type: ignore[arg-type]
        return shown.signals.get(sender, 0)


class Sender:
    """Who got no answer asks for the state, and sends again what did not come."""

    def __init__(self, name: str, snapshot: str, channel: Unreliable) -> None:
        self.name, self.snapshot, self.channel, self.number = name, snapshot, channel, 0

    def tell(self, what: str, **more: Any) -> None:
        self.number += 1
        while self.channel.last(self.snapshot, self.name) < self.number:
            self.channel.send(snapshot=self.snapshot, sender=self.name, number=self.number, signal=what, **more)


@pytest.mark.parametrize("seed", range(12))
def test_signals_that_are_lost_late_and_doubled(house: House, seed: int) -> None:
    rng = random.Random(seed)
    kept = house.snapshots.create(["a", "b"], budget_bytes=16 * CHUNK_BYTES)
    channel = Unreliable(house.snapshots, rng)
    agent, application, mover = (Sender(name, kept.name, channel) for name in ("agent", "application", "mover"))
    rows = [("a", chunk * CHUNK_BYTES, CHUNK_BYTES) for chunk in range(6)] + [("b", 0, 1000)]
    agent.tell("list-begin")
    for disk, offset, length in rows:
        agent.tell("list-part", extents={disk: [(offset, length)]})
    agent.tell("list-end", count=len(rows), digest=digest_of(kept.name, rows))
    application.tell("accepted")
    for chunk in range(8):
        dirty(house.disks["a"], chunk)
    mover.tell("started")
    for checkpoint, (disk, offset, length) in enumerate(rows, 1):
        if checkpoint == 4:
            mover.tell("failed", reason="the drive failed")
            mover.tell("started")
        assert seen(kept, disk, offset, 512) == b"old!" * 128
        mover.tell("checkpoint", checkpoint=checkpoint, extents={disk: [(offset, length)]})
        assert stores(kept, max(0, 6 - checkpoint))
    assert kept.checkpoint == len(rows)
    mover.tell("done")
    application.tell("released")
    assert kept.state is SetState.RELEASED
    for sender in (agent, application, mover):
        effects = [number for name, number in channel.effects if name == sender.name]
        assert effects == list(range(1, sender.number + 1))  # each once, in their order
    assert_nothing_is_left(house, kept)
