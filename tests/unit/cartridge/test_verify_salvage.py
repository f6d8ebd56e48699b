"""verify finds every damage and nothing else; salvage saves everything else and says what it could not."""

import errno
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from datamover.engine import storage_fault
from tests.unit.cartridge.conftest import contents
from tests.unit.cartridge.format_reader import manifest_entries, records
from vlib_images.cartridge.cartridge import Cartridge
from vlib_images.cartridge.codec import Decryption, DecryptionMode, Encoder, Encryption, EncryptionKey
from vlib_images.cartridge.mam import Attribute, AttributeFormat
from vlib_images.cartridge.medium import MEDIA
from vlib_images.cartridge.salvage import salvage
from vlib_images.cartridge.segments import SegmentLimits
from vlib_images.cartridge.verify import Damage, VerifyProgress, verify
from vlib_images.errors import CartridgeInUse, NotACartridge

Make = Callable[..., Cartridge]
KEY = EncryptionKey(bytes(32))
LIMITS = SegmentLimits(segment_bytes=16384, segment_objects=1000)
WRONG = "its checksum is wrong"


def fill(cartridge: Cartridge) -> list[bytes | None]:
    """Five segments of plain, compressed and encrypted blocks with a filemark behind every fifth."""
    for number in range(60):
        cartridge.encoder = [None, Encoder(1), Encoder(None, Encryption(KEY))][number % 3]
        cartridge.write_block(bytes([number]) * 700 if number % 2 else bytes(range(256)) * 5)
        if number % 5 == 4:
            cartridge.write_filemarks(1)
    cartridge.encoder = None
    cartridge.decryption = Decryption(DecryptionMode.MIXED, KEY)
    return contents(cartridge)


def damage_block(directory: Path, segment: int, nth_record: int) -> int:
    """Flips a bit in the payload of a record that has one; returns nothing of interest but its offset."""
    path = directory / "p0" / f"{segment:08d}.seg"
    content = bytearray(path.read_bytes())
    at = 128
    for _ in range(nth_record):
        at += (32 + content[at + 6] * 8 + int.from_bytes(content[at + 20 : at + 24], "little") + 7) & ~7
    content[at + 32 + content[at + 6] * 8] ^= 1
    path.write_bytes(content)
    return at


def test_a_whole_cartridge_is_all_good(make: Make, tmp_path: Path) -> None:
    seen: list[VerifyProgress] = []
    with make(limits=LIMITS, partitions=2) as cartridge:
        expected = fill(cartridge)
        cartridge.synchronize()
        report = verify(tmp_path / "T00001L8", seen.append)  # while it is in use
    assert (report.objects, report.damages) == (len(expected), [])
    assert seen[-1].bytes_checked == seen[-1].bytes_total == report.bytes_checked > 10_000
    assert str(report).endswith("all good")


def test_every_damage_is_found_at_its_place(make: Make, tmp_path: Path) -> None:
    with make(limits=LIMITS) as cartridge:
        expected = fill(cartridge)
    damage_block(tmp_path / "T00001L8", 1, 0)
    damage_block(tmp_path / "T00001L8", 1, 2)
    damage_block(tmp_path / "T00001L8", 1, 3)
    report = verify(tmp_path / "T00001L8")
    assert report.damages == [Damage(0, 0, 1, WRONG), Damage(0, 2, 2, WRONG)]
    assert (report.objects, report.damaged_objects) == (len(expected), 3)
    assert str(report.damages[1]) == f"partition 0, blocks 2 to 3: {WRONG}"


def test_a_missing_segment_is_found(make: Make, tmp_path: Path) -> None:
    with make(limits=LIMITS) as cartridge:
        expected = fill(cartridge)
    (tmp_path / "T00001L8" / "p0" / "00000002.seg").unlink()
    report = verify(tmp_path / "T00001L8")
    assert [damage.reason for damage in report.damages] == ["the segment's file is missing"]
    assert report.objects == len(expected)


@pytest.mark.parametrize("change", ["overwrite", "erase", "rewrite", "format"])
@pytest.mark.parametrize("segment_bytes", [1 << 20, 1 << 28])
def test_a_backup_that_overwrites_meanwhile_is_no_damage(
    make: Make, tmp_path: Path, change: str, segment_bytes: int
) -> None:
    """Behind the place where verify is just now and before it: what was cut off is not looked for."""
    with make(limits=SegmentLimits(segment_bytes)) as cartridge:
        cartridge.write_blocks(bytes(500 * 20_000), 500)
        cartridge.synchronize()
        steps = iter(range(10**9))

        def interfere(progress: VerifyProgress) -> None:
            if next(steps):
                return
            cartridge.locate_block(0, 0 if change == "rewrite" else 1000)
            if change == "format":
                cartridge.format([1 << 20, 1 << 20])
            elif change == "erase":
                cartridge.erase()
            else:
                cartridge.write_blocks(b"new" * 200 * 9000, 600)
                cartridge.synchronize()

        assert verify(tmp_path / "T00001L8", interfere).damages == []
        whole = verify(tmp_path / "T00001L8")
        assert (whole.objects, whole.damages) == (cartridge.end_of_data(0), [])


def test_a_segment_that_cannot_be_opened_is_damage(make: Make, tmp_path: Path) -> None:
    with make(limits=LIMITS) as cartridge:
        expected = fill(cartridge)
        entry = cartridge.storage.partitions[0].segments.entries[1]
    storage_fault("open", errno.EIO, path="00000002.seg", times=10**9)
    report = verify(tmp_path / "T00001L8")
    assert report.objects == len(expected)
    assert [(d.first_block, d.count) for d in report.damages] == [(entry.first_object, entry.objects)]
    assert "Input/output error" in str(report.damages[0])
    saved_report = salvage(tmp_path / "T00001L8", tmp_path / "new")
    assert [(d.first_block, d.count) for d in saved_report.lost] == [(entry.first_object, entry.objects)]


def test_a_missing_tail_ends_the_check(make: Make, tmp_path: Path) -> None:
    with make() as cartridge:
        cartridge.write_block(b"x")
        cartridge.synchronize()
        cartridge.rewind()
        cartridge.erase()  # the segment is there and empty
        cartridge.write_block(b"y")
        cartridge.synchronize()
    for segment in (tmp_path / "T00001L8" / "p0").glob("*.seg"):
        segment.unlink()
    assert [d.count for d in verify(tmp_path / "T00001L8").damages] == [1]


def encrypted_records(directory: Path) -> list[tuple[int, int, bytes, bytes]]:
    """Of partition 0, by the independent reader."""
    found = []
    for row in manifest_entries((directory / "p0" / "manifest").read_bytes()):
        log = (directory / "p0" / f"{row[0]:08d}.seg").read_bytes()
        found += [
            (r.form, r.logical_length, r.extension, r.payload) for r in records(log, row[7], row[3]) if r.form & 2
        ]
    return found


def test_encrypted_blocks_are_saved_as_they_are_without_a_key(make: Make, tmp_path: Path) -> None:
    rng = random.Random(5)
    with make(limits=LIMITS) as cartridge:
        for number in range(40):
            how = Encryption(KEY, rng.randbytes(number), rng.randbytes(number % 33), raw_read_disabled=number % 2 == 1)
            cartridge.encoder = Encoder(1 if number % 3 else None, how)
            cartridge.write_block(b"text " * 300)
    before = encrypted_records(tmp_path / "T00001L8")
    assert len(before) == 40
    damage_block(tmp_path / "T00001L8", 1, 3)
    assert verify(tmp_path / "T00001L8").damages == [Damage(0, 3, 1, WRONG)]
    assert [damage.first_block for damage in salvage(tmp_path / "T00001L8", tmp_path / "new").lost] == [3]
    assert encrypted_records(tmp_path / "new") == before[:3] + before[4:]
    with Cartridge.open(tmp_path / "new") as saved:
        assert saved.encrypted_blocks(0) == (0, None)


def test_verify_without_a_key_finds_every_flipped_bit_of_an_encrypted_block(make: Make, tmp_path: Path) -> None:
    with make() as cartridge:
        cartridge.encoder = Encoder(None, Encryption(KEY, b"a-kad", b"u-kad"))
        cartridge.write_blocks(bytes(3 * 100), 100)
    path = tmp_path / "T00001L8" / "p0" / "00000001.seg"
    (tmp_path / "T00001L8" / "p0" / "00000001.idx").unlink()
    whole = path.read_bytes()
    length = 32 + whole[128 + 6] * 8 + 116
    begin = 128 + length + -length % 8  # the second record
    for at in range(begin, begin + length):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << at % 8]) + whole[at + 1 :])
        assert [(damage.first_block, damage.count) for damage in verify(tmp_path / "T00001L8").damages] == [(1, 1)], at


def test_verify_changes_nothing(make: Make, tmp_path: Path) -> None:
    with make(limits=LIMITS) as cartridge:
        fill(cartridge)
        before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
        verify(tmp_path / "T00001L8")
        assert before == {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}


def saved(directory: Path, partition: int = 0) -> list[bytes | None]:
    with Cartridge.open(directory) as cartridge:
        cartridge.decryption = Decryption(DecryptionMode.MIXED, KEY)
        return contents(cartridge, partition)


def test_salvage_of_a_whole_cartridge_is_a_copy(make: Make, tmp_path: Path) -> None:
    with make(limits=LIMITS, partitions=2) as cartridge:
        expected = fill(cartridge)
        cartridge.mam.set([Attribute(0x0806, AttributeFormat.ASCII, False, b"T00001L8")])
        cartridge.locate_block(1, 0)
        cartridge.write_block(b"in partition 1")
    report = salvage(tmp_path / "T00001L8", tmp_path / "new")
    assert (report.lost, report.notes) == ([], [])
    assert (report.blocks, report.filemarks) == (61, 12)
    assert (saved(tmp_path / "new"), saved(tmp_path / "new", 1)) == (expected, [b"in partition 1"])
    with Cartridge.open(tmp_path / "new") as cartridge:
        attribute = cartridge.mam.get(0x0806)
        assert attribute is not None
        assert attribute.value == b"T00001L8"


def test_salvage_leaves_out_what_is_lost_and_says_so(make: Make, tmp_path: Path) -> None:
    with make(limits=LIMITS) as cartridge:
        expected = fill(cartridge)
    damage_block(tmp_path / "T00001L8", 1, 2)
    damage_block(tmp_path / "T00001L8", 1, 3)
    before = {path: path.read_bytes() for path in (tmp_path / "T00001L8").rglob("*") if path.is_file()}
    report = salvage(tmp_path / "T00001L8", tmp_path / "new")
    assert report.lost == [Damage(0, 2, 2, WRONG)]
    assert saved(tmp_path / "new") == expected[:2] + expected[4:]
    assert before == {path: path.read_bytes() for path in (tmp_path / "T00001L8").rglob("*") if path.is_file()}


def test_salvage_around_a_missing_segment(make: Make, tmp_path: Path) -> None:
    with make(limits=LIMITS) as cartridge:
        expected = fill(cartridge)
        entry = cartridge.storage.partitions[0].segments.entries[1]
    (tmp_path / "T00001L8" / "p0" / "00000002.seg").unlink()
    report = salvage(tmp_path / "T00001L8", tmp_path / "new")
    assert [(damage.first_block, damage.count) for damage in report.lost] == [(entry.first_object, entry.objects)]
    assert saved(tmp_path / "new") == expected[: entry.first_object] + expected[entry.end :]


@pytest.mark.parametrize("overwritten", [False, True])
def test_salvage_without_a_manifest(make: Make, tmp_path: Path, overwritten: bool) -> None:
    with make(limits=LIMITS) as cartridge:
        expected = fill(cartridge)
        if overwritten:
            cartridge.locate_block(0, 20)
            cartridge.write_block(b"overwritten")
            expected = [*expected[:20], b"overwritten"]
    (tmp_path / "T00001L8" / "p0" / "manifest").write_bytes(b"nonsense")
    report = salvage(tmp_path / "T00001L8", tmp_path / "new")
    assert report.lost == []
    assert "put together from the segments" in report.notes[0]
    assert saved(tmp_path / "new") == expected


def test_salvage_without_a_manifest_and_a_segment(make: Make, tmp_path: Path) -> None:
    with make(limits=LIMITS) as cartridge:
        expected = fill(cartridge)
        entry = cartridge.storage.partitions[0].segments.entries[1]
    (tmp_path / "T00001L8" / "p0" / "manifest").unlink()
    (tmp_path / "T00001L8" / "p0" / "00000002.seg").unlink()
    report = salvage(tmp_path / "T00001L8", tmp_path / "new")
    assert [(damage.first_block, damage.count) for damage in report.lost] == [(entry.first_object, entry.objects)]
    assert saved(tmp_path / "new") == expected[: entry.first_object] + expected[entry.end :]


def test_salvage_around_a_missing_partition(make: Make, tmp_path: Path) -> None:
    with make(limits=LIMITS, partitions=2) as cartridge:
        expected = fill(cartridge)
    shutil.rmtree(tmp_path / "T00001L8" / "p1")
    report = salvage(tmp_path / "T00001L8", tmp_path / "new")
    assert any("p1 is missing" in note for note in report.notes)
    assert saved(tmp_path / "new") == expected


def test_salvage_where_the_end_of_the_log_does_not_read(make: Make, tmp_path: Path) -> None:
    with make() as cartridge:
        fill(cartridge)
        cartridge.synchronize()
        cartridge.write_block(b"never promised")
        tail = cartridge.storage.partitions[0].segments.tail
        assert tail is not None
        tail.flush()
        storage_fault("read", errno.EIO, path=".seg", times=10**9)
        cartridge.storage.lock.close()  # as a kill -9 would leave it
        report = salvage(tmp_path / "T00001L8", tmp_path / "new")
    assert report.blocks == 0
    assert any("may be lost" in note for note in report.notes)


def test_salvage_without_cartridge_json(make: Make, tmp_path: Path) -> None:
    with make(limits=LIMITS) as cartridge:
        expected = fill(cartridge)
    (tmp_path / "T00001L8" / "cartridge.json").write_text("{}")
    with pytest.raises(Exception, match=r"cartridge\.json"):
        salvage(tmp_path / "T00001L8", tmp_path / "new")
    report = salvage(tmp_path / "T00001L8", tmp_path / "new", medium=MEDIA["LTO-8"])
    assert report.lost == []
    assert saved(tmp_path / "new") == expected


def test_salvage_refuses_a_cartridge_in_use_and_no_cartridge(make: Make, tmp_path: Path) -> None:
    with make(), pytest.raises(CartridgeInUse):
        salvage(tmp_path / "T00001L8", tmp_path / "new")
    with pytest.raises(NotACartridge):
        salvage(tmp_path, tmp_path / "new", medium=MEDIA["LTO-8"])


def test_salvage_needs_an_empty_place(make: Make, tmp_path: Path) -> None:
    make().close()
    shutil.copytree(tmp_path / "T00001L8", tmp_path / "new")
    with pytest.raises(FileExistsError):
        salvage(tmp_path / "T00001L8", tmp_path / "new")
