"""Snapshots used as nobody should: of many disks, with next to no room, by the thousand, more than may live; and each
state ended by a restart. TAPEBAY_SNAPSHOT_ROUNDS makes the thousands."""

import os
import random
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from appliance.failures import OperatorError
from appliance.library.snapshots.keeper import MOST_LIVE, MOST_OVER, NoSuchSnapshot
from appliance.library.snapshots.kept_set import KeptSet
from appliance.library.snapshots.states import SetState, SnapshotStateError, Terms
from tests.support.waiting import eventually
from tests.unit.appliance.test_snapshots import (
    House,
    assert_nothing_is_left,
    dirty,
    house,
    open_files,
    seen,
    stores,
)
from tests.unit.devices.disk.support import make_disk, write
from vlib_images.disk.snapshot_store import CHUNK_BYTES

__all__ = ["house"]

ROUNDS = int(os.environ.get("TAPEBAY_SNAPSHOT_ROUNDS", "1"))
SEED = int(os.environ.get("TAPEBAY_TEST_SEED", "1"))
OLD = b"old!" * 128


def resident_bytes() -> int:
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS:")) << 10


def test_forty_disks_at_one_instant_while_all_are_written(house: House, tmp_path: Path) -> None:
    """A writer goes round and writes the same number to all disks; at no instant is a disk ahead of one before it, nor
    more than one behind."""
    names = [f"m{number:02}" for number in range(40)]
    for name in names:
        house.disks[name] = make_disk(tmp_path, name=name)
        write(house.disks[name], 0, bytes(512))
    over, written = threading.Event(), threading.Event()

    def writer() -> None:
        number = 0
        while not over.is_set():
            number += 1
            for name in names:
                write(house.disks[name], 0, number.to_bytes(8, "big") * 64)
            written.set()

    thread = threading.Thread(target=writer)
    thread.start()
    try:
        assert written.wait(60)
        for _ in range(5):
            kept = house.snapshots.create(names, budget_bytes=CHUNK_BYTES * 64)
            numbers = [int.from_bytes(seen(kept, name)[:8], "big") for name in names]
            assert sorted(numbers, reverse=True) == numbers
            assert numbers[0] - numbers[-1] <= 1
            kept.release()
    finally:
        over.set()
        thread.join()
    assert_nothing_is_left(house, kept)


def test_room_for_one_chunk(house: House) -> None:
    kept = house.snapshots.create(["a"], budget_bytes=1)
    for _ in range(3):
        dirty(house.disks["a"], 2)
    assert stores(kept, 1)
    assert seen(kept, "a", 2 * CHUNK_BYTES) == OLD
    dirty(house.disks["a"], 3)
    house.snapshots.look()
    assert (kept.state, "budget of 65536 bytes" in kept.reason) == (SetState.BROKEN, True)
    assert_nothing_is_left(house, kept)


def test_hundreds_are_made_and_end_in_every_way_and_nothing_grows(house: House) -> None:
    choose = random.Random(SEED)
    ends: list[Callable[[KeptSet], object]] = [
        lambda kept: kept.release(),
        lambda kept: kept.break_off("so"),
        lambda kept: house.snapshots.release(kept),
        _expire(house),
        _commit,
        _narrow_and_fail,
    ]

    def once(budget: int) -> KeptSet:
        kept = house.snapshots.create(choose.choice((["a"], ["b"], ["a", "b"])), budget_bytes=budget * CHUNK_BYTES)
        for disk in kept.disks:
            dirty(house.disks[disk], choose.randrange(8))
        with suppress(SnapshotStateError):  # its budget was reached before
            choose.choice(ends)(kept)
        house.snapshots.look()
        if not kept.state.over:
            kept.release()
        assert kept.stored_bytes == 0
        return kept

    def settled() -> bool:
        return not any(str(house.folder) in name for name in open_files()) and list(house.folder.iterdir()) == []

    first = [once(2) for _ in range(MOST_OVER + 2)]  # as many as are remembered: they are not taken for growth
    for kept in first:
        kept.join(60)  # nor are threads that end just now
    assert eventually(settled)
    before = (threading.active_count(), len(open_files()), resident_bytes())
    for _ in range(60 * ROUNDS):
        once(choose.randrange(1, 4))
    assert eventually(settled)
    assert eventually(lambda: threading.active_count() <= before[0])  # fewer, where one of another test has ended
    assert eventually(lambda: len(open_files()) <= before[1] + 2)
    assert resident_bytes() - before[2] < 16 << 20
    assert len(house.snapshots.all()) <= 2 * MOST_LIVE
    assert len(house.state.items("snapshots")) <= 2 * MOST_LIVE
    assert all(disk.medium.before_change is None for disk in house.disks.values())


def _expire(house: House) -> Callable[[KeptSet], object]:
    def expire(_kept: KeptSet) -> None:
        house.clock.now += 120

    return expire


def _commit(kept: KeptSet) -> None:
    kept.start()
    for disk in kept.disks:
        kept.commit(disk, [(0, kept.sizes[disk])])
    kept.finish()


def _narrow_and_fail(kept: KeptSet) -> None:
    kept.narrow({disk: [(0, 4096)] for disk in kept.disks})
    kept.start()
    kept.fail("the drive")
    kept.start()
    kept.fail("the other drive")


def test_more_than_may_live_are_refused_and_each_that_ends_makes_room(house: House) -> None:
    kept = [house.snapshots.create(["a"], budget_bytes=CHUNK_BYTES) for _ in range(MOST_LIVE)]
    with pytest.raises(OperatorError, match=f"{MOST_LIVE} snapshots are held already"):
        house.snapshots.create(["a"], budget_bytes=CHUNK_BYTES)
    dirty(house.disks["a"])  # one write, which all of them save
    assert all(seen(one, "a") == OLD for one in kept)
    kept[0].release()
    kept.append(house.snapshots.create(["a"], budget_bytes=CHUNK_BYTES))
    assert seen(kept[-1], "a") == b"new!" * 128
    for one in kept[1:]:
        one.release()
    assert_nothing_is_left(house, kept[-1])


@pytest.mark.parametrize("until", ["freezing", "held", "listed", "copying", "committed", "over"])
def test_the_appliance_dies_in_each_state(house: House, until: str) -> None:
    """Nothing of it is there at the next start, which says what became of it; the disk has what was written last."""
    kept = house.snapshots.prepare(["a", "b"], budget_bytes=4 * CHUNK_BYTES, terms=Terms(lease_seconds=None))
    steps: list[tuple[str, Callable[[], object]]] = [
        ("freezing", lambda: None),
        ("held", lambda: house.snapshots.take(kept)),
        ("listed", lambda: kept.narrow({"a": [(0, 3 * CHUNK_BYTES)], "b": [(0, 1)]})),
        ("copying", kept.start),
        ("committed", kept.finish),
        ("over", kept.release),
    ]
    for name, step in steps:
        step()
        dirty(house.disks["a"])
        if name == until:
            break
    left = [path for path in house.folder.iterdir() if path.is_file()]
    assert bool(left) == (until not in ("committed", "over")) or not left
    following = house.keeper()  # as the next daemon; this one's is closed by the fixture
    assert list(house.folder.iterdir()) == []
    assert following.all() == []
    with pytest.raises(NoSuchSnapshot, match="broken: the appliance ended" if until != "over" else "there is no"):
        following.get(kept.name)
    assert house.state.items("snapshots") == {}
    following.close()
    found = bytearray(512)
    house.disks["a"].medium.read_into(found, 0)
    assert bytes(found) == b"new!" * 128
