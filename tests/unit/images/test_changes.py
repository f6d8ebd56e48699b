"""The map of changes: an increment is all that has changed, or there is none, and why."""

import os
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.waiting import eventually
from vlib_images.disk.changes import KEPT_MARKS, MOST_MARKS, ChangeMap, Frozen, Mark, NoIncrement, identity_of
from vlib_images.disk.raw import DiskImage
from vlib_images.disk.snapshot_store import CHUNK_BYTES
from vlib_images.disk.watchers import watch

ROUNDS = int(os.environ.get("TAPEBAY_SNAPSHOT_ROUNDS", "1"))
CHUNKS = 9
SIZE = CHUNKS * CHUNK_BYTES - 512
GENERATION = "the map began here"


@pytest.fixture
def image(tmp_path: Path) -> Iterator[DiskImage]:
    made = DiskImage.create(tmp_path / "a.img", SIZE)
    yield made
    made.close()


def watched(image: DiskImage) -> ChangeMap:
    made = ChangeMap(image.size_bytes, GENERATION)
    watch(image, made.note)
    return made


def extents(frozen: Frozen, mark: Mark) -> list[tuple[int, int]]:
    return list(frozen.since(mark))


def content(image: DiskImage) -> bytearray:
    buffer = bytearray(image.size_bytes)
    image.read_into(buffer, 0)
    return buffer


def change(image: DiskImage, rng: random.Random) -> None:
    """Somehow, somewhere."""
    offset = rng.randrange(image.size_bytes // 512) * 512
    length = min(image.size_bytes - offset, rng.choice((512, 512, 4096, CHUNK_BYTES, 3 * CHUNK_BYTES)))
    data = rng.randbytes(512) * (length // 512)
    match rng.choice(("write", "write", "atomic", "deallocate", "anchor", "fill")):
        case "write":
            image.write(data, offset)
        case "atomic":
            image.write_atomic(data, offset)
        case "deallocate":
            image.deallocate(offset, length)
        case "anchor":
            image.anchor(offset, length)
        case "fill":
            image.fill(data[:512], offset, length)


def test_what_has_changed_since_each_mark(image: DiskImage) -> None:
    changes = watched(image)
    image.write(b"before any mark", 0)
    first = changes.mark(SIZE)
    assert extents(first, first.mark) == []
    image.write(b"x" * 1000, CHUNK_BYTES - 500)
    image.write(b"e" * 512, SIZE - 512)
    second = changes.mark(SIZE)
    image.deallocate(4 * CHUNK_BYTES, CHUNK_BYTES)
    third = changes.mark(SIZE)
    image.write(b"after it", 6 * CHUNK_BYTES)
    last = (8 * CHUNK_BYTES, CHUNK_BYTES - 512)
    assert extents(second, first.mark) == [(0, 2 * CHUNK_BYTES), last]
    assert extents(third, second.mark) == [(4 * CHUNK_BYTES, CHUNK_BYTES)]
    assert extents(third, first.mark) == [(0, 2 * CHUNK_BYTES), (4 * CHUNK_BYTES, CHUNK_BYTES), last]
    assert Mark.parse(str(first.mark)) == first.mark
    with pytest.raises(NoIncrement, match="no longer told apart"):
        second.since(third.mark)  # of a later one


def test_marks_without_end_leave_the_latest_that_a_byte_tells_apart(image: DiskImage) -> None:
    changes, marks, replicas = watched(image), list[Mark](), list[bytes]()
    rng = random.Random(1)
    for number in range(2 * MOST_MARKS):
        change(image, rng)
        frozen = changes.mark(SIZE)
        marks.append(frozen.mark)
        replicas.append(bytes(content(image)))
        if number % 60 and number != MOST_MARKS:
            continue
        told = 0
        for mark, replica in zip(reversed(marks), reversed(replicas), strict=True):
            try:
                found = extents(frozen, mark)
            except NoIncrement:
                break
            told += 1
            if told % 25 == 1:
                restored = bytearray(replica)
                for offset, length in found:
                    restored[offset : offset + length] = replicas[-1][offset : offset + length]
                assert bytes(restored) == replicas[-1]
        assert told >= min(len(marks), KEPT_MARKS)


def test_another_size_is_another_generation(image: DiskImage) -> None:
    changes = watched(image)
    first = changes.mark(SIZE)
    image.grow(SIZE + CHUNK_BYTES)
    image.write(b"beyond", SIZE + 512)
    second = changes.mark(image.size_bytes)
    with pytest.raises(NoIncrement, match="another size"):
        second.since(first.mark)
    image.write(b"again", SIZE + 1024)
    third = changes.mark(image.size_bytes)
    assert extents(third, second.mark) == [(9 * CHUNK_BYTES, CHUNK_BYTES - 512)]


def overwritten(path: Path) -> int:
    with path.open("r+b") as file:
        file.write(b"by another program")
    return path.stat().st_mtime_ns


def stopped(tmp_path: Path, image: DiskImage, changes: ChangeMap) -> None:
    image.synchronize()
    image.close()
    changes.save(tmp_path / "a.changes", image.path)


def started(tmp_path: Path, image: DiskImage) -> tuple[DiskImage, ChangeMap | None]:
    identity = identity_of(image.path)
    opened = DiskImage.open(image.path)
    changes = ChangeMap.take_up(tmp_path / "a.changes", identity, opened)
    assert not (tmp_path / "a.changes").exists()
    if changes is not None:
        watch(opened, changes.note)
    return opened, changes


def test_a_clean_stop_keeps_it(tmp_path: Path, image: DiskImage) -> None:
    changes = watched(image)
    first = changes.mark(SIZE)
    image.write(b"x", 0)
    for _ in range(3):
        stopped(tmp_path, image, changes)
        image, again = started(tmp_path, image)
        assert again is not None
        changes = again
        image.write(b"y", 5 * CHUNK_BYTES)
    assert extents(changes.mark(SIZE), first.mark) == [(0, CHUNK_BYTES), (5 * CHUNK_BYTES, CHUNK_BYTES)]
    image.close()


@pytest.mark.parametrize("how", ["write", "replace", "grow", "damage", "cut", "not ours", "pipe"])
def test_what_happened_meanwhile_ends_it(tmp_path: Path, image: DiskImage, how: str) -> None:
    changes = watched(image)
    changes.mark(SIZE)
    stopped(tmp_path, image, changes)
    kept = tmp_path / "a.changes"
    match how:
        case "write":
            before = image.path.stat().st_mtime_ns
            eventually(lambda: overwritten(image.path) != before)  # the file system's clock may tick slowly
        case "replace":
            other = tmp_path / "other"
            other.write_bytes(image.path.read_bytes())
            other.replace(image.path)
        case "grow":
            os.truncate(image.path, SIZE + 512)
        case "damage":
            found = bytearray(kept.read_bytes())
            found[len(found) // 2] ^= 1
            kept.write_bytes(found)
        case "cut":
            kept.write_bytes(kept.read_bytes()[:40])
        case "not ours":
            kept.write_bytes(b"")
        case "pipe":
            kept.unlink()
            os.mkfifo(kept)
    opened, again = started(tmp_path, image)
    assert again is None
    opened.close()


def test_an_unclean_stop_ends_it(tmp_path: Path, image: DiskImage) -> None:
    """Even one of a process that had done nothing yet but open the image."""
    changes = watched(image)
    changes.mark(SIZE)
    stopped(tmp_path, image, changes)
    program = (
        "import os, sys; from pathlib import Path; from vlib_images.disk.raw import DiskImage;"
        "from vlib_images.disk.changes import ChangeMap, identity_of; path = Path(sys.argv[1]);"
        "identity = identity_of(path); image = DiskImage.open(path);"
        "assert ChangeMap.take_up(Path(sys.argv[2]), identity, image) is not None; os.kill(os.getpid(), 9)"
    )
    ended = subprocess.run([sys.executable, "-c", program, image.path, tmp_path / "a.changes"], check=False)
    assert ended.returncode == -9
    opened, again = started(tmp_path, image)
    assert again is None
    opened.close()


def test_a_thousand_increments_restored_equal(tmp_path: Path, image: DiskImage) -> None:
    """On any of the marks that are known; across clean stops, unclean ones and other sizes, each of which says so."""
    rng = random.Random(7)
    changes = watched(image)
    known: dict[Mark, bytes] = {}
    increments = refusals = 0
    while increments < 1000 * ROUNDS:
        for _ in range(rng.randrange(4)):
            change(image, rng)
        unsure = False
        match rng.random():
            case chance if chance < 0.02:
                image.grow(image.size_bytes + 512 * rng.randrange(1, 300))
                unsure = True
            case chance if chance < 0.05:
                stopped(tmp_path, image, changes)
                image, again = started(tmp_path, image)
                assert again is not None
                changes = again
            case chance if chance < 0.07:
                image.close()  # and nothing was saved
                image, again = started(tmp_path, image)
                assert again is None
                changes, unsure = watched(image), True
        frozen, now = changes.mark(image.size_bytes), content(image)
        if known:
            mark = rng.choice(list(known))
            try:
                found = extents(frozen, mark)
            except NoIncrement as error:
                assert unsure or "only a full copy" in str(error)
                refusals += 1
                known.clear()
            else:
                assert not unsure
                restored = bytearray(known[mark])
                for offset, length in found:
                    restored[offset : offset + length] = now[offset : offset + length]
                assert restored == now
                increments += 1
        known[frozen.mark] = bytes(now)
        if len(known) > 5:
            del known[min(known, key=lambda one: one.number)]
    assert refusals > 5
    image.close()
