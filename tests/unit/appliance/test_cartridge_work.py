"""cartridge verify, recover, import and export, through the command line."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance.library.cartridges import INCOMING, owned
from tests.unit.appliance.daemon_process import Daemon
from tests.unit.appliance.test_cli import as_json, output, tapebay
from tests.unit.cartridge.test_interchange import mhvtl
from vlib_images.cartridge.cartridge import Cartridge
from vlib_images.cartridge.codec import Decryption, DecryptionMode, Encoder, Encryption, EncryptionKey

BLOCKS = [bytes([number]) * 1000 * (number + 1) for number in range(5)]


@pytest.fixture
def library(tmp_path: Path) -> Path:
    folder = tmp_path / "lib"
    output("init", folder, "--portal", "127.0.0.1:0", "--slots", 4)
    output("cartridge", "create", "A00001L6", "--capacity", "1 GiB", TAPEBAY_CONFIG=str(folder))
    with Cartridge.open(folder / "cartridges" / "A00001L6") as cartridge:
        for block in BLOCKS:
            cartridge.write_block(block)
        cartridge.write_filemarks(1)
        cartridge.synchronize()
    return folder


@pytest.fixture
def damaged(library: Path) -> Path:
    (segment,) = (library / "cartridges" / "A00001L6" / "p0").glob("*.seg")
    raw = bytearray(segment.read_bytes())
    raw[raw.index(BLOCKS[2])] ^= 1
    segment.write_bytes(raw)
    return library


@pytest.fixture
def served(library: Path) -> Iterator[Path]:
    daemon = Daemon(library)
    try:
        daemon.wait_ready()
        yield library
    finally:
        daemon.stop()


def blocks_of(folder: Path, barcode: str) -> list[bytes]:
    with Cartridge.open(folder / "cartridges" / barcode, read_only=True) as cartridge:
        found, into = [], bytearray(1 << 20)
        while not cartridge.at_eod:
            found.append(bytes(into[: cartridge.read_block(into).length]))
        return found


def places(folder: Path) -> dict[str, str]:
    return {row["barcode"]: row["place"] for row in as_json("cartridge", "list", TAPEBAY_CONFIG=str(folder))}


def test_verify_says_all_good(library: Path) -> None:
    said = output("cartridge", "verify", "A00001L6", TAPEBAY_CONFIG=str(library))
    assert "6 blocks and filemarks" in said
    assert "all good" in said


def test_verify_names_the_damage_and_fails(damaged: Path) -> None:
    done = tapebay("cartridge", "verify", "A00001L6", "--json", TAPEBAY_CONFIG=str(damaged))
    assert done.exit_code == 1
    assert [(d["partition"], d["first_block"], d["count"]) for d in json.loads(done.stdout)["damages"]] == [(0, 2, 1)]


def test_recover_saves_the_rest_on_a_new_cartridge(damaged: Path) -> None:
    done = tapebay("cartridge", "recover", "A00001L6", "A00009L6", TAPEBAY_CONFIG=str(damaged))
    assert done.exit_code == 1
    assert "4 blocks and 1 filemarks saved, 1 lost" in done.stdout
    assert "lost: partition 0, block 2" in done.stdout
    saved = blocks_of(damaged, "A00009L6")
    assert [block for block in saved if block in BLOCKS] == [b for b in BLOCKS if b is not BLOCKS[2]]
    assert places(damaged) == {"A00001L6": "slot:1", "A00009L6": "shelf"}


@pytest.mark.parametrize("name", ["simh", "e11", "awstape", "directory"])
def test_export_and_import_keep_the_blocks(library: Path, tmp_path: Path, name: str) -> None:
    tape = tmp_path / "tape"
    output("cartridge", "export", "A00001L6", tape, "--format", name, TAPEBAY_CONFIG=str(library))
    output("cartridge", "import", "A00002L6", tape, "--format", name, TAPEBAY_CONFIG=str(library))
    if name == "directory":  # files between filemarks: where a block ended is not kept
        assert b"".join(blocks_of(library, "A00002L6")) == b"".join(BLOCKS)
    else:
        assert blocks_of(library, "A00002L6") == [*BLOCKS, b""]
    assert places(library)["A00002L6"] == "shelf"


def test_each_partition_is_exported_and_all_of_mhvtl_imported(library: Path, tmp_path: Path) -> None:
    for number in range(2):
        mhvtl(tmp_path / "m", [(bytes([number]) * 10, 0, bytes([number]) * 10)], f".{number}")
    output("cartridge", "import", "A00003L6", tmp_path / "m", "--format", "mhvtl", TAPEBAY_CONFIG=str(library))
    arguments = ("--format", "simh", "--partition", "1")
    output("cartridge", "export", "A00003L6", tmp_path / "p1.tap", *arguments, TAPEBAY_CONFIG=str(library))
    assert bytes([1]) * 10 in (tmp_path / "p1.tap").read_bytes()
    done = tapebay("cartridge", "export", "A00001L6", tmp_path / "no", *arguments, TAPEBAY_CONFIG=str(library))
    assert done.exit_code == 2
    assert "partitions 0 to 0" in done.output


KEY = bytes(range(32))


@pytest.fixture
def encrypted(library: Path) -> Path:
    """Two more blocks, encrypted, on the cartridge of `library`."""
    with Cartridge.open(library / "cartridges" / "A00001L6") as cartridge:
        cartridge.space_end_of_data()
        cartridge.encoder = Encoder(None, Encryption(EncryptionKey(KEY)))
        cartridge.write_blocks(b"secret" * 2, 6)
    return library


def test_export_without_the_key_says_what_is_left_out_and_fails(encrypted: Path, tmp_path: Path) -> None:
    arguments = ("cartridge", "export", "A00001L6", tmp_path / "tape", "--format", "simh")
    done = tapebay(*arguments, TAPEBAY_CONFIG=str(encrypted))
    assert done.exit_code == 1
    assert "5 blocks, 1 filemarks" in done.stdout
    assert "note: blocks 6 to 7 of partition 0 are left out" in done.stdout
    assert "no key is set" in done.stdout
    assert "--key-file" in done.stdout


def test_export_decrypts_with_a_key_file_of_stenc(encrypted: Path, tmp_path: Path) -> None:
    (tmp_path / "key").write_text(f"{KEY.hex()}\nSeptember key")
    arguments = ("cartridge", "export", "A00001L6", tmp_path / "tape", "--format", "directory")
    said = output(*arguments, "--key-file", tmp_path / "key", TAPEBAY_CONFIG=str(encrypted))
    assert "7 blocks, 1 filemarks" in said
    assert "--key-file" not in said
    assert b"secretsecret" in [path.read_bytes() for path in (tmp_path / "tape").iterdir()]


@pytest.mark.parametrize("content", ["", "00" * 31, "zz" * 32, KEY.hex() + "00", "\xff" * 64])
def test_a_bad_key_file_is_refused_without_showing_it(encrypted: Path, tmp_path: Path, content: str) -> None:
    (tmp_path / "key").write_text(content)
    arguments = ("cartridge", "export", "A00001L6", tmp_path / "tape", "--format", "simh")
    done = tapebay(*arguments, "--key-file", tmp_path / "key", TAPEBAY_CONFIG=str(encrypted))
    assert done.exit_code == 2
    assert "64 hexadecimal digits" in done.output
    assert not content or content not in done.output
    assert not (tmp_path / "tape").exists()


def test_verify_and_recover_need_no_key(encrypted: Path, tmp_path: Path) -> None:
    assert "8 blocks and filemarks" in output("cartridge", "verify", "A00001L6", TAPEBAY_CONFIG=str(encrypted))
    (segment,) = (encrypted / "cartridges" / "A00001L6" / "p0").glob("*.seg")
    raw = bytearray(segment.read_bytes())
    raw[raw.rindex(BLOCKS[1])] ^= 1
    segment.write_bytes(raw)
    recovered = tapebay("cartridge", "recover", "A00001L6", "A00009L6", TAPEBAY_CONFIG=str(encrypted))
    assert recovered.exit_code == 1  # a block was lost
    with Cartridge.open(encrypted / "cartridges" / "A00009L6") as saved:
        saved.decryption = Decryption(DecryptionMode.DECRYPT, EncryptionKey(KEY))
        into = bytearray(6)
        saved.locate_block(0, 5)
        assert [saved.read_block(into).length for _ in range(2)] == [6, 6]
        assert into == b"secret"


def test_a_running_daemon_takes_an_imported_cartridge_in(served: Path, tmp_path: Path) -> None:
    tape = tmp_path / "tape.tap"
    output("cartridge", "export", "A00001L6", tape, "--format", "simh", TAPEBAY_CONFIG=str(served))
    output("cartridge", "import", "A00002L6", tape, "--format", "simh", TAPEBAY_CONFIG=str(served))
    assert places(served)["A00002L6"] == "shelf"
    assert "A00002L6: shelf -> slot:2" in output("move", "A00002L6", "slot:2", TAPEBAY_CONFIG=str(served))


def test_what_a_killed_import_left_goes_and_a_running_one_stays(library: Path, tmp_path: Path) -> None:
    tape = tmp_path / "tape.tap"
    output("cartridge", "export", "A00001L6", tape, "--format", "simh", TAPEBAY_CONFIG=str(library))
    killed, running = (library / "cartridges" / f"{INCOMING}{barcode}" for barcode in ("A00002L6", "A00003L6"))
    for directory in (killed, running):
        (directory / "p0").mkdir(parents=True)
        (directory / "p0" / "00000001.seg").write_bytes(b"half")
    with owned(running) as ours:
        assert ours
        refused = tapebay("cartridge", "import", "A00003L6", tape, "--format", "simh", TAPEBAY_CONFIG=str(library))
        assert refused.exit_code == 1
        assert "just now" in refused.stderr
        output("cartridge", "list", TAPEBAY_CONFIG=str(library))
        assert not killed.exists()
        assert (running / "p0" / "00000001.seg").exists()
    output("cartridge", "import", "A00003L6", tape, "--format", "simh", TAPEBAY_CONFIG=str(library))
    assert blocks_of(library, "A00003L6") == [*BLOCKS, b""]
    assert not running.exists()


@pytest.mark.parametrize(
    ("arguments", "status", "says"),
    [
        (("verify", "A00404L6"), 6, "no cartridge A00404L6"),
        (("recover", "A00001L6", "A00001L6"), 1, "already"),
        (("recover", "A00001L6", "a/../b", "--medium", "LTO-6"), 2, "no barcode"),
        (("export", "A00001L6", "{tmp}/x", "--format", "tgt"), 2, "cannot be exported"),
        (("import", "A00002L6", "{tmp}", "--format", "nonsense"), 2, "--format is one of"),
        (("import", "A00002L6", "{tmp}/lib/tapebay.toml", "--format", "simh"), 1, "tapebay.toml as simh"),
    ],
)
def test_what_cannot_be_done_is_refused_and_leaves_nothing(
    library: Path, tmp_path: Path, arguments: tuple[str, ...], status: int, says: str
) -> None:
    done = tapebay("cartridge", *(a.replace("{tmp}", str(tmp_path)) for a in arguments), TAPEBAY_CONFIG=str(library))
    assert done.exit_code == status, done.output
    assert says in done.output
    assert sorted(path.name for path in (library / "cartridges").iterdir()) == ["A00001L6"]


def test_import_salvages_a_truncated_image_when_asked(library: Path, tmp_path: Path) -> None:
    output("cartridge", "export", "A00001L6", tmp_path / "tape", "--format", "simh", TAPEBAY_CONFIG=str(library))
    (tmp_path / "cut").write_bytes((tmp_path / "tape").read_bytes()[:7000])
    command = ("cartridge", "import", "A00009L6", tmp_path / "cut", "--format", "simh")
    assert tapebay(*command, TAPEBAY_CONFIG=str(library)).exit_code == 1
    assert not (library / "cartridges" / "A00009L6").exists()
    done = tapebay(*command, "--salvage", TAPEBAY_CONFIG=str(library))
    assert done.exit_code == 1
    assert "ends in the middle of a record" in done.output
    assert blocks_of(library, "A00009L6") == BLOCKS[:3]
    assert places(library)["A00009L6"] == "shelf"
