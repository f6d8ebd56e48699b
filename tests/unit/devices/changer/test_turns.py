"""One robot for all partitions: waiting for it is the only influence of one on another, and it is bounded."""

import threading
from collections import deque

import pytest

from tests.unit.devices.changer.support import move
from tests.unit.devices.changer.test_partitions import Site
from tests.unit.devices.support import send

ROUNDS = 25


@pytest.fixture
def site(tmp_path):
    site = Site(tmp_path)
    yield site
    site.close()


def test_who_asks_for_the_robot_waits_for_no_more_than_one_move_of_each_other(site, monkeypatch):
    """b has moves queued all the time; one of a waits for that which is under way, and for one that came before it."""
    moved, queued_at, waited_for, stopping = [], {}, [], threading.Event()
    carry, ask = site.inventory.move, site.robot.move

    def move_and_tell(source, *rest):
        moved.append("a" if source in (4096, 256) else "b")
        return carry(source, *rest)

    class Queue(deque):
        def append(self, entry):
            queued_at[entry[0].ident] = len(moved)  # from here on, and not from when its thread was on its way here
            super().append(entry)

    def ask_and_count(source, destination, **how):
        queued_at.pop(threading.get_ident(), None)
        barcode = ask(source, destination, **how)
        if source in (4096, 256):
            before = queued_at.get(threading.get_ident())
            waited_for.append(0 if before is None else moved[before:].index("a"))
        return barcode

    monkeypatch.setattr(site.robot.turn, "_waiting", Queue())
    monkeypatch.setattr(site.inventory, "move", move_and_tell)
    monkeypatch.setattr(site.robot, "move", ask_and_count)

    def restless(slot, drive):
        while not stopping.is_set():
            for cdb in (move(slot, drive), move(drive, slot)):
                assert send(site.b, cdb).status == 0

    ends = ((1001, 1), (1002, 2), (1003, 1019), (1004, 1018))
    threads = [threading.Thread(target=restless, args=each) for each in ends]
    for thread in threads:
        thread.start()
    try:
        for _ in range(ROUNDS):
            for cdb in (move(4096, 256), move(256, 4096)):
                assert send(site.a, cdb).status == 0
    finally:
        stopping.set()
        for thread in threads:
            thread.join()
    assert len(waited_for) == 2 * ROUNDS
    assert max(waited_for) <= 2, waited_for
