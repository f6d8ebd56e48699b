"""The files of a backup are found once, and kept in a file that gives them again and again."""

import itertools
from pathlib import Path

import pytest

from appliance.backup.archive import Member
from appliance.backup.entries import Entry, FileExtent, Kind, Skipped
from appliance.backup.sources import KEPT_SKIPPED, SourcePart, Sources
from appliance.backup.spool import Spool

KINDS = [
    Entry(b".", Kind.DIRECTORY, 0o755, 1000, 0xFFFFFFFE, -1),
    Entry(b"\xff\n\x80", Kind.FILE, 0o4755, 0, 0, 1 << 64, 12288, [FileExtent(0, 512, 4096), FileExtent(8192, 0, 9)]),
    Entry(b"within", Kind.FILE, size=3, content=b"\0\n\xff"),
    Entry(b"empty", Kind.FILE, content=b""),
    Entry(b"hole", Kind.FILE, size=1 << 50),
    Entry(b"hard", Kind.HARD_LINK, link=b"within"),
    Entry(b"soft", Kind.SYMBOLIC_LINK, link=b"../\xfe", attributes={b"user.a": b"\0", b"user.b": b""}),
    Entry(b"device", Kind.CHARACTER_DEVICE, device=(4095, 1048575)),
    Entry(b"pipe", Kind.FIFO),
]  # fmt: skip


class Walked:
    """A file system of these entries, which counts how often it is walked."""

    def __init__(self, found: list[Entry | Skipped]) -> None:
        self.found, self.walks = found, 0

    def walk(self):
        self.walks += 1
        yield from self.found


def sources_of(*found: Entry | Skipped) -> tuple[Sources, Walked]:
    walked = Walked(list(found))
    return Sources([], [SourcePart(b"", 3, "made up", walked)]), walked


def spooled(directory: Path, sources: Sources) -> Spool:
    spool = Spool(directory)
    sources.totals(spool.add)
    spool.end()
    return spool


def facts(members) -> list:
    return [(m.number, m.disk, m.entry.identity(), m.content_bytes) for m in members]


@pytest.mark.parametrize("count", [0, 1, 255, 256, 257, 1000])
def test_what_was_found_is_given_again_and_again(tmp_path: Path, count: int) -> None:
    sources, walked = sources_of(*itertools.islice(itertools.cycle([*KINDS, Skipped(b"left out", "why")]), count))
    expected = facts(member for member in sources.members() if isinstance(member, Member))
    before = walked.walks
    spool = spooled(tmp_path, sources)
    assert walked.walks == before + 1
    for first in (0, 1, len(expected) // 2, len(expected)):
        assert facts(spool.members(first)) == expected[first:]
    spool.close()
    assert list(tmp_path.iterdir()) == []


def test_what_is_known_of_large_files_is_read_a_little_at_a_time(tmp_path: Path) -> None:
    """Of a thousand that have as many attributes as a file may have, a few are in memory."""
    sources, walked = sources_of(
        *[Entry(b"%d" % number, Kind.FIFO, attributes={b"user.a": bytes([number]) * (1 << 20)}) for number in range(30)]
    )
    spool = spooled(tmp_path, sources)
    for first in (0, 7, 29, 30):
        names = [member.entry.name for member in spool.members(first)]
        assert names == [entry.name for entry in walked.found[first:]]  # type: ignore[union-attr]
    batches = []
    assert len(list(spool.members(tick=lambda: batches.append(1)))) == 30
    assert len(batches) == 8
    spool.close()


def test_two_who_read_do_not_disturb_each_other(tmp_path: Path) -> None:
    sources, _ = sources_of(*[Entry(b"%d" % number, Kind.FIFO) for number in range(1000)])
    spool = spooled(tmp_path, sources)
    one, other = spool.members(), spool.members(300)
    for expected, (first, second) in enumerate(zip(one, other, strict=False)):
        assert (first.number, second.number) == (expected, expected + 300)
    spool.close()


def test_what_is_read_of_a_disk(tmp_path: Path) -> None:
    sources, _ = sources_of(*KINDS)
    spool = spooled(tmp_path, sources)
    assert list(spool.extents(3)) == [(512, 4096), (0, 9)]
    assert list(spool.extents(0)) == []
    spool.close()


def test_whoever_waits_is_asked_on_the_way(tmp_path: Path) -> None:
    class Enough(Exception):
        pass

    def enough() -> None:
        raise Enough

    sources, _ = sources_of(*KINDS)
    spool = spooled(tmp_path, sources)
    with pytest.raises(Enough):
        next(spool.members(tick=enough))
    spool.close()


def test_of_files_that_are_left_out_so_many_are_kept_and_all_are_counted() -> None:
    sources, walked = sources_of()
    walked.found = itertools.repeat(Skipped(b"x", "why"), KEPT_SKIPPED + 5)  # type: ignore[assignment]
    totals = sources.totals()
    assert (len(totals.skipped), totals.skipped_files, totals.files) == (KEPT_SKIPPED, KEPT_SKIPPED + 5, 0)
