"""Tapes of other programs: each format there and back, the sources' own oddities, and damaged sources."""

import contextlib
import errno
import json
import os
import random
import struct
import subprocess
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

from datamover.engine import crc32c
from datamover.initiator import InitiatorSession
from tests.support import packages
from tests.support.scsi import REWIND, Device, write_6, write_filemarks
from tests.support.tgt import TgtTarget
from tests.unit.cartridge.conftest import contents
from vlib_images.cartridge.cartridge import Cartridge
from vlib_images.cartridge.codec import Decryption, DecryptionMode, Encoder, Encryption, EncryptionKey
from vlib_images.interchange import FORMATS, InterchangeError, InterchangeReport, export_tape, import_tape
from vlib_images.interchange.common import Notes
from vlib_images.interchange.mhvtl import DATA, ENCRYPTED, FILEMARK, HAS_CRC, INDEX_BYTES, LZO, ZLIB

Make = Callable[..., Cartridge]
State = list[bytes | None]

LONG = random.Random(3).randbytes(200_001)
TAPE: State = [b"label", None, b"odd", b"even", LONG, LONG[:65535], LONG[:65536], None, None, b"z" * 512, b"z" * 512]
BOTH_WAYS = [name for name, row in FORMATS.items() if row.reader and row.writer]


def write(cartridge: Cartridge, tape: State) -> None:
    for item in tape:
        if item is None:
            cartridge.write_filemarks(1)
        else:
            cartridge.write_block(item)


@pytest.mark.parametrize("name", BOTH_WAYS)
@pytest.mark.parametrize(
    "tape", [TAPE, [], [None], [None, None], [b"x"], [b"x", None]], ids=lambda tape: str(len(tape))
)
def test_there_and_back(make: Make, tmp_path: Path, name: str, tape: State) -> None:
    with make() as source, make(barcode="T00002L8") as target:
        write(source, tape)
        report = export_tape(name, source, tmp_path / "exported")
        assert (report.blocks, report.filemarks) == (len(tape) - tape.count(None), tape.count(None))
        report = import_tape(name, tmp_path / "exported", target)
        assert report.bytes_copied == sum(len(item) for item in tape if item is not None)
        assert contents(target) == tape


def test_what_cannot_be_kept_is_said(make: Make, tmp_path: Path) -> None:
    key = EncryptionKey(bytes(32))
    with make(partitions=2) as source, make(barcode="T00002L8") as target:
        source.encoder = Encoder(None, Encryption(key))
        source.write_block(b"secret")
        source.encoder = None
        source.write_block(b"plain")
        report = export_tape("simh", source, tmp_path / "without key")
        assert "only partition 0 of 2 is exported" in report.notes
        assert "block 0 of partition 0 is left out: it is encrypted and no key is set" in report.notes
        assert (report.blocks, report.left_out, report.undecrypted) == (1, 1, 1)
        import_tape("simh", tmp_path / "without key", target)
        assert contents(target) == [b"plain"]
        source.decryption = Decryption(DecryptionMode.MIXED, key)
        assert export_tape("simh", source, tmp_path / "with key").blocks == 2
        source.decryption = Decryption(DecryptionMode.MIXED, EncryptionKey(b"k" * 32))
        report = export_tape("simh", source, tmp_path / "with another key")
        assert "block 0 of partition 0 is left out: it is encrypted with another key" in report.notes


def test_a_long_encrypted_tape_is_one_note(make: Make, tmp_path: Path) -> None:
    key = EncryptionKey(bytes(32))
    with make() as source:
        for number in range(10):
            source.encoder = None if number == 4 else Encoder(None, Encryption(key))
            for _ in range(5):
                source.write_block(bytes(100))
            source.write_filemarks(1)
        report = export_tape("simh", source, tmp_path / "tape")
    assert report.notes[1:] == [
        "blocks 0 to 22 of partition 0 are left out, each of the 20 blocks there: it is encrypted and no key is set",
        "blocks 30 to 58 of partition 0 are left out, each of the 25 blocks there: it is encrypted and no key is set",
    ]
    assert (report.blocks, report.filemarks, report.left_out, report.undecrypted) == (5, 10, 45, 45)


def test_an_existing_destination_is_not_overwritten(make: Make, tmp_path: Path) -> None:
    (tmp_path / "precious").write_bytes(b"precious")
    with make() as cartridge:
        for name in BOTH_WAYS:
            with pytest.raises(FileExistsError):
                export_tape(name, cartridge, tmp_path / "precious")
    assert (tmp_path / "precious").read_bytes() == b"precious"


def test_import_needs_an_empty_cartridge_and_a_reader(make: Make, tmp_path: Path) -> None:
    with make() as cartridge:
        cartridge.write_block(b"x")
        with pytest.raises(ValueError, match="has data"):
            import_tape("simh", tmp_path, cartridge)
        with pytest.raises(ValueError, match="cannot be exported"):
            export_tape("tgt", cartridge, tmp_path / "x")


# ---- SIMH ------------------------------------------------------------------------------------------------------------


def test_simh_bytes(make: Make, tmp_path: Path) -> None:
    with make() as cartridge:
        write(cartridge, [b"abc", None, b"de"])
        export_tape("simh", cartridge, tmp_path / "s")
        export_tape("e11", cartridge, tmp_path / "e")
    mark, end = bytes(4), b"\xff" * 4
    abc, de = struct.pack("<I", 3), struct.pack("<I", 2)
    assert (tmp_path / "s").read_bytes() == abc + b"abc\0" + abc + mark + de + b"de" + de + end
    assert (tmp_path / "e").read_bytes() == abc + b"abc" + abc + mark + de + b"de" + de + end


def test_simh_gaps_error_marks_and_no_end_of_medium(make: Make, tmp_path: Path) -> None:
    bad = struct.pack("<I", 0x80000003)
    (tmp_path / "t").write_bytes(b"\xfe\xff\xff\xff" + bad + b"abc\0" + bad + bytes(4))
    with make() as cartridge:
        report = import_tape("simh", tmp_path / "t", cartridge)
        assert contents(cartridge) == [b"abc", None]
        assert any("read with errors" in note for note in report.notes)


def test_simh_half_a_gap(make: Make, tmp_path: Path) -> None:
    """An 8-byte gap whose first half a record of 4n + 2 bytes has overwritten: two bytes of it are left."""
    gap = b"\xfe\xff\xff\xff" * 2
    record = struct.pack("<I", 2) + b"ab" + struct.pack("<I", 2)
    (tmp_path / "t").write_bytes(record + gap[2:] + record)
    with make() as cartridge:
        import_tape("simh", tmp_path / "t", cartridge)
        assert contents(cartridge) == [b"ab", b"ab"]


# ---- mhVTL -----------------------------------------------------------------------------------------------------------


def mhvtl(directory: Path, tape: list[tuple[bytes | None, int, bytes]], suffix: str) -> None:
    """tape: (block or None, flags, what is stored of it)."""
    directory.mkdir(exist_ok=True)
    data, index, marks = b"", b"", []
    for number, (block, flags, stored) in enumerate(tape):
        kind = FILEMARK if block is None else DATA
        if block is None:
            marks.append(number)
        row = (len(data), kind, flags, number, len(block or b""), len(stored), crc32c(block or b""))
        index += struct.pack("<qIIIIII", *row).ljust(INDEX_BYTES, b"\0")
        data += stored
    (directory / f"data{suffix}").write_bytes(data)
    (directory / f"indx{suffix}").write_bytes(index)
    meta = struct.pack("<I", len(marks)).ljust(512, b"\0") + b"".join(struct.pack("<I", mark) for mark in marks)
    (directory / f"meta{suffix}").write_bytes(meta)


@pytest.mark.parametrize("suffix", ["", ".0"])
def test_mhvtl_cartridges(make: Make, tmp_path: Path, suffix: str) -> None:
    text = b"compressible " * 100
    # LZO1X by hand: 3 literals (17 + 3), then "repeat 9 bytes from 3 back", then the end of stream.
    lzo = bytes([20]) + b"abc" + bytes([32 + 7, 2 << 2, 0]) + bytes([17, 0, 0])
    tape = [
        (b"label", 0, b"label"),
        (None, 0, b""),
        (text, ZLIB | HAS_CRC, zlib.compress(text)),
        (b"abc" * 4, LZO | HAS_CRC, lzo),
        (b"clear", ENCRYPTED, b"clear"),
        (None, 0, b""),
    ]
    mhvtl(tmp_path / "m", tape, suffix)
    with make() as cartridge:
        report = import_tape("mhvtl", tmp_path / "m", cartridge)
        assert contents(cartridge) == [block for block, _, _ in tape]
        assert any("calls encrypted" in note for note in report.notes)


def test_mhvtl_partitions(make: Make, tmp_path: Path) -> None:
    for number in range(3):
        mhvtl(tmp_path / "m", [(bytes([number]), 0, bytes([number]))], f".{number}")
    with make(partitions=2) as cartridge:
        report = import_tape("mhvtl", tmp_path / "m", cartridge)
        assert [contents(cartridge, number) for number in range(2)] == [[b"\0"], [b"\1"]]
        assert any("only 2 partitions" in note for note in report.notes)


# ---- tgt -------------------------------------------------------------------------------------------------------------


def tgt_header(stored: int, kind: int, number: int, previous: int, this: int, following: int) -> bytes:
    body = struct.pack(">IIIQQQQ", stored, stored, kind, number, previous, this, following)
    return crc32c(body).to_bytes(4, "little") + body


def tgt_image(tape: State) -> bytes:
    image, at, previous = tgt_header(100, 0x10, 0, 0, 0, 1152) + bytes(1104), 1152, 0
    for number, item in enumerate(tape):
        data = item or b""
        kind = 0x40 if item is None else 0x02
        image += tgt_header(len(data), kind, number + 1, previous, at, at + 48 + len(data)) + data
        previous, at = at, at + 48 + len(data)
    return image + tgt_header(0, 0x20, len(tape) + 1, previous, at, at)


def test_tgt_images(make: Make, tmp_path: Path) -> None:
    (tmp_path / "image").write_bytes(tgt_image(TAPE))
    with make() as cartridge:
        import_tape("tgt", tmp_path / "image", cartridge)
        assert contents(cartridge) == TAPE


def test_an_image_that_tgt_itself_made(make: Make, tmp_path: Path) -> None:
    packages.require("tgt")
    command = "/usr/sbin/tgtimg --op new --device-type tape --barcode T1 --size 10 --type data --file image"
    subprocess.run(command.split(), cwd=tmp_path, check=True, capture_output=True)
    with make() as cartridge:
        assert import_tape("tgt", tmp_path / "image", cartridge).blocks == 0


def test_a_tape_that_tgt_itself_wrote(make: Make) -> None:
    """Over iSCSI to a tgtd, so that nothing of the image is of our own making."""
    packages.require("tgt", "libiscsi7")
    with TgtTarget(tape_megabytes=64) as target:
        with InitiatorSession(target.portal, target.target_name, timeout_seconds=60) as session:
            tape_drive = Device(session, target.tape_lun)
            for item in TAPE:
                tape_drive.good(write_filemarks() if item is None else write_6(len(item)), item)
            tape_drive.good(REWIND)
        with make() as cartridge:
            report = import_tape("tgt", target.tape_image, cartridge)
            assert contents(cartridge) == TAPE
            assert (report.blocks, report.filemarks) == (len(TAPE) - TAPE.count(None), TAPE.count(None))


# ---- damaged sources -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["simh", "e11", "awstape", "directory"])
@pytest.mark.parametrize("seed", range(10))
def test_a_damaged_source_is_refused_or_read(make: Make, tmp_path: Path, name: str, seed: int) -> None:
    """Never a crash, never something else than what the source says: an InterchangeError or blocks."""
    rng = random.Random(seed)
    with make() as source:
        write(source, [b"label", None, b"odd", b"x" * 100, None])
        export_tape(name, source, tmp_path / "t")
    victim = tmp_path / "t" if name != "directory" else tmp_path / "t" / "blocks.json"
    content = bytearray(victim.read_bytes())
    for _ in range(rng.randrange(1, 4)):
        content[rng.randrange(len(content))] = rng.randrange(256)
    victim.write_bytes(content[: rng.randrange(len(content) + 1)] if seed % 2 else content)
    with make(barcode="T00002L8") as target:
        try:
            report = import_tape(name, tmp_path / "t", target)
        except (InterchangeError, FileNotFoundError) as error:
            assert str(victim.name) in str(error) or "file-" in str(error)
        else:
            assert report.blocks + report.filemarks == target.end_of_data(0)


def test_clear_errors_name_the_place(make: Make, tmp_path: Path) -> None:
    (tmp_path / "simh").write_bytes(struct.pack("<I", 3) + b"abc\0" + struct.pack("<I", 4))
    (tmp_path / "awstape").write_bytes(struct.pack("<HHBB", 3, 9, 0xA0, 0) + b"abc")
    (tmp_path / "tgt").write_bytes(bytes(2000))
    (tmp_path / "mhvtl").mkdir()
    (tmp_path / "directory").mkdir()
    (tmp_path / "directory" / "blocks.json").write_text(json.dumps({"files": [{"name": "../x", "blocks": []}]}))
    with make() as cartridge:
        for name, words in [
            ("simh", "offset 0: the length behind the record"),
            ("awstape", "offset 0: the chunk before has 0 bytes, the header says 9"),
            ("tgt", "offset 0: the header does not match its checksum"),
            ("mhvtl", "has no files data and indx"),
            ("directory", "lies outside the directory"),
        ]:
            with pytest.raises(InterchangeError, match=words):
                import_tape(name, tmp_path / name, cartridge)


INDEX_ROW = '{"files": [{"name": %s, "blocks": [%s]}]}'


@pytest.mark.parametrize(
    "index",
    [
        INDEX_ROW % ('".."', "[1, 1]"),
        INDEX_ROW % ('""', "[1, 1]"),
        INDEX_ROW % ('"a\\u0000b"', "[1, 1]"),
        INDEX_ROW % ('"nowhere"', "[1, 1]"),
        INDEX_ROW % (f'"{"x" * 5000}"', "[1, 1]"),
        INDEX_ROW % ('"link"', "[1, 1]"),
        INDEX_ROW % ('"pipe"', "[1, 1]"),
        INDEX_ROW % ('"plain"', "[Infinity, 1]"),
        INDEX_ROW % ('"plain"', "[1, 1e300]"),
        INDEX_ROW % ('"plain"', "[0, 1]"),
        INDEX_ROW % ('"plain"', "[-1, 1]"),
        INDEX_ROW % ('"plain"', "[16777216, 1]"),
        "[" * 100_000,
        '{"files": [7]}',
    ],
)
def test_a_hostile_directory_is_refused(make: Make, tmp_path: Path, index: str) -> None:
    directory = tmp_path / "d"
    directory.mkdir()
    (tmp_path / "secret").write_bytes(b"s")
    (directory / "plain").write_bytes(b"p")
    (directory / "link").symlink_to(tmp_path / "secret")
    os.mkfifo(directory / "pipe")
    (directory / "blocks.json").write_text(index)
    with make() as cartridge, pytest.raises(InterchangeError, match=r"/d/"):
        import_tape("directory", directory, cartridge)


def test_an_awstape_block_without_an_end_is_refused_early(make: Make, tmp_path: Path) -> None:
    chunk = bytes(65535)
    rows = [struct.pack("<HHBB", 65535, 65535 * bool(n), 0 if n else 0x80, 0) + chunk for n in range(300)]
    (tmp_path / "t").write_bytes(b"".join(rows))
    with make() as cartridge, pytest.raises(InterchangeError, match="a block has 1 to 16777215"):
        import_tape("awstape", tmp_path / "t", cartridge)


@pytest.mark.parametrize("name", [*BOTH_WAYS, "tgt", "mhvtl"])
def test_a_source_cut_off_anywhere_is_refused_or_ends(make: Make, tmp_path: Path, name: str) -> None:
    """Blocks that come out before the end are the tape's own, in order."""
    tape: State = [b"label", None, b"odd", b"x" * 100, None, b"y"]
    if name == "mhvtl":
        mhvtl(tmp_path / "t", [(item, 0, item or b"") for item in tape], "")
        victims = [tmp_path / "t" / "data", tmp_path / "t" / "indx"]
    elif name == "tgt":
        (tmp_path / "t").write_bytes(tgt_image(tape))
        victims = [tmp_path / "t"]
    else:
        with make() as source:
            write(source, tape)
            export_tape(name, source, tmp_path / "t")
        victims = sorted((tmp_path / "t").iterdir()) if name == "directory" else [tmp_path / "t"]
    reader = FORMATS[name].reader
    assert reader is not None
    for victim in victims:
        whole = victim.read_bytes()
        for length in range(len(whole)):
            victim.write_bytes(whole[:length])
            found: State = []
            with contextlib.suppress(InterchangeError):
                for item in reader(tmp_path / "t", 0, Notes()):
                    found.append(None if item is None else bytes(item))
            assert found == tape[: len(found)], (victim, length)
        victim.write_bytes(whole)


@pytest.mark.parametrize("name", BOTH_WAYS)
def test_an_export_that_fails_leaves_nothing(make: Make, tmp_path: Path, name: str) -> None:
    def fail(report: InterchangeReport) -> None:
        assert not (tmp_path / "t").exists()
        if report.blocks == 2:
            raise OSError(errno.ENOSPC, "No space left on device")

    with make() as cartridge:
        write(cartridge, TAPE)
        with pytest.raises(OSError, match="No space"):
            export_tape(name, cartridge, tmp_path / "t", progress=fail)
    assert [path.name for path in tmp_path.iterdir()] == ["T00001L8"]
