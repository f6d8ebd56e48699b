"""What is on tape and not durable is kept in memory, so it is bounded: there is a checkpoint before it is too much."""

from pathlib import Path

import pytest

from appliance.backup import job, pending
from appliance.backup.archive import Member
from appliance.backup.catalogue import Catalogue
from appliance.backup.entries import Entry, FileExtent, Kind
from appliance.backup.pending import CHECKPOINT_FILES, CHECKPOINT_MEMORY_BYTES, PendingMembers, joined
from appliance.backup.records import BackupState
from tests.unit.backup.test_faults import FIRST, Site

EXTENTS = [FileExtent(4096 * number, 8192 * number, 4096) for number in range(100_000)]


@pytest.mark.parametrize(
    ("entry", "at_most"),
    [
        (Entry(b"usual", Kind.FILE, size=4096, extents=EXTENTS[:1]), CHECKPOINT_FILES),
        (Entry(b"in pieces", Kind.FILE, size=1 << 30, extents=EXTENTS), 10),
        (Entry(b"attributes", Kind.DIRECTORY, attributes={b"user.a": bytes(1 << 20)}), 128),
        (Entry(b"content", Kind.FILE, size=64 << 10, content=bytes(64 << 10)), 2048),
        (Entry(b"many names", Kind.DIRECTORY, dumpdir=bytes(16 << 20)), 8),
    ],
)
def test_a_checkpoint_is_due_before_they_are_too_much(entry: Entry, at_most: int) -> None:
    members = PendingMembers()
    while not members.are_many:
        members.add(1, Member(len(members.members), 0, entry))
    kept = len(members.members)
    assert kept <= at_most
    assert (kept - 1) * Member(0, 0, entry).memory_bytes < CHECKPOINT_MEMORY_BYTES
    members.safe(None)
    assert (members.members, members.are_many) == ([], False)


def test_a_backup_makes_checkpoints_for_their_sake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pending, "CHECKPOINT_MEMORY_BYTES", 5 * 2500)
    monkeypatch.setattr(job, "COMMAND_BYTES", 2 << 20)
    commit, made = Catalogue.commit, []

    def counted(self: Catalogue, place: object, members: list[tuple[int, Member]]) -> None:
        made.append(len(members))
        commit(self, place, members)  # type: ignore[arg-type]

    monkeypatch.setattr(Catalogue, "commit", counted)
    site = Site(tmp_path / "library")
    try:
        backup = site.backup(FIRST, checkpoint_bytes=1 << 30)
        assert backup.state is BackupState.DONE, backup.reason
        assert len(made) >= 2
        assert site.on_tape(backup) == site.expected
    finally:
        site.library.stop()
        site.library.close()


def test_what_a_later_member_needs_is_not_given_back() -> None:
    members = PendingMembers()
    for number in range(4):
        members.add(
            1, Member(number, number % 2, Entry(b"x", Kind.FILE, size=4096, extents=EXTENTS[number : number + 1]))
        )
    assert members.safe(2) == {0: [(0, 4096)], 1: [(8192, 4096)]}
    assert members.safe(None) == {0: [(16384, 4096)], 1: [(24576, 4096)]}


@pytest.mark.parametrize(
    ("extents", "expected"),
    [
        ([], []),
        ([(0, 0)], []),
        ([(8, 4), (0, 8)], [(0, 12)]),
        ([(0, 8), (9, 1)], [(0, 8), (9, 1)]),
        ([(0, 10), (2, 3), (4, 10)], [(0, 14)]),
        ([(5, 0), (5, 1)], [(5, 1)]),
    ],
)
def test_extents_that_touch_are_one(extents, expected) -> None:
    assert joined(extents) == expected
