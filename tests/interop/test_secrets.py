"""Keys and clear text over a whole life of a library: writing, errors, a kill, checking, recovering, exporting. No file
and no output may hold a byte of them."""

import random
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import zstandard

from datamover.initiator import InitiatorSession
from tests.support import packages
from tests.support.appliance import FIRST_BARCODE, Appliance
from tests.support.scsi import CHECK_CONDITION, REWIND, Device, mode_select_6, read_6, write_6, write_filemarks
from tests.unit.cartridge.format_reader import document, read_partition

SEED = 20
RNG = random.Random(SEED)
KEY, REFUSED_KEY, LOCAL_KEY = (RNG.randbytes(32) for _ in range(3))
TEXT = b"What nobody may read in any file of the library. " * 400
NOISE = RNG.randbytes(20_000)
BLOCKS = [TEXT, NOISE, b"short and clear"]
ENCRYPT_AND_DECRYPT = bytes([2, 2, 1, 0])


def secrets() -> Iterator[tuple[str, bytes]]:
    """What is looked for, by name: keys in the forms that a log or a dump might give them, pieces of every block."""
    for name, key in (("key", KEY), ("refused key", REFUSED_KEY), ("local key", LOCAL_KEY)):
        yield name, key[:12]
        yield name, key[20:]
        yield f"{name} in hexadecimal", key[:8].hex().encode()
        yield f"{name} in hexadecimal", key[:8].hex(" ").encode()
        yield f"{name} as Python shows it", repr(key)[2:-1].encode()[:30]
        yield f"{name} in JSON", ", ".join(map(str, key[:8])).encode()
    yield "text", b"nobody may read"
    yield "short block", b"short and clear"
    for at in range(0, len(NOISE) - 16, 499):
        yield f"noise at {at}", NOISE[at : at + 16]
    for level in (1, 3):
        yield f"compressed text, level {level}", zstandard.ZstdCompressor(level=level).compress(TEXT)[12:36]


SECRETS = list(secrets())


def search(content: bytes, where: object) -> None:
    found = [name for name, secret in SECRETS if secret in content]
    assert not found, f"{where} holds {found}"


def search_files(folder: Path) -> None:
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert any(path.suffix == ".seg" for path in files)
    for path in files:
        search(path.read_bytes(), path)


def set_data_encryption(key: bytes, *, scope: int = 2, modes: bytes = ENCRYPT_AND_DECRYPT) -> tuple[bytes, bytes]:
    """SECURITY PROTOCOL OUT with a Set Data Encryption page, and its U-KAD."""
    body = bytes([scope << 5, 0x40]) + modes + bytes(8) + struct.pack(">H", len(key)) + key
    body += struct.pack(">BBH", 0, 0, 5) + b"u-kad"
    page = struct.pack(">HH", 0x0010, len(body)) + body
    return struct.pack(">BBHHIH", 0xB5, 0x20, 0x0010, 0, len(page), 0), page


def compress(tape: Device) -> None:
    page = bytearray(tape.good(bytes([0x1A, 0x08, 0x0F, 0, 20, 0]), data_in_length=20))
    page[:3] = bytes(3)
    page[4:7] = bytes([0x0F, 14, 0x80 | page[6]])  # DCE
    tape.good(mode_select_6(len(page)), bytes(page))


def write_in_every_form(appliance: Appliance) -> None:
    with InitiatorSession(appliance.portal, appliance.target_name) as session:
        tape = Device(session, appliance.lun("drive0"))
        tape.good(*set_data_encryption(LOCAL_KEY, scope=1))
        refused = tape.command(*set_data_encryption(REFUSED_KEY, modes=bytes([2, 2, 77, 0])))
        assert (refused.status, refused.sense[12]) == (CHECK_CONDITION, 0x26)
        cdb, page = set_data_encryption(REFUSED_KEY)
        assert tape.command(cdb[:9] + bytes([40]) + cdb[10:], page[:40]).status == CHECK_CONDITION
        tape.good(*set_data_encryption(KEY))
        for compressing in (False, True):
            if compressing:
                compress(tape)
            for block in BLOCKS:
                tape.good(write_6(len(block)), block)
            tape.good(write_filemarks())
        tape.good(write_6(len(TEXT)), TEXT)  # promised to nobody: half of it may be on disk
        for method in ("status", "cartridge.list", "cartridge.show"):
            parameters = {"barcode": FIRST_BARCODE} if method == "cartridge.show" else {}
            search(repr(appliance.call(method, **parameters)).encode(), method)


def tapebay(appliance: Appliance, *arguments: object) -> subprocess.CompletedProcess[bytes]:
    done = subprocess.run(
        [sys.executable, "-m", "appliance", *map(str, arguments), "--config", str(appliance.config)],
        capture_output=True,
        check=False,
    )
    search(done.stdout + done.stderr, arguments)
    return done


def test_nothing_secret_is_left_in_a_killed_library(tmp_path: Path) -> None:
    packages.require("libiscsi7")
    with Appliance.with_loaded_drive(tmp_path, log_level="debug") as appliance:
        limits = Path(f"/proc/{appliance.process_id}/limits").read_text()
        assert [line.split()[4:6] for line in limits.splitlines() if line.startswith("Max core file")] == [["0", "0"]]
        write_in_every_form(appliance)
        appliance.kill()
        search_files(tmp_path)
        appliance.start()
        with InitiatorSession(appliance.portal, appliance.target_name) as session:
            tape = Device(session, appliance.lun("drive0"))
            refused = tape.command(read_6(len(TEXT)), data_in_length=len(TEXT))
            assert (refused.sense[2] & 0x0F, *refused.sense[12:14]) == (7, 0x74, 0x01)
            tape.good(*set_data_encryption(KEY))
            tape.good(REWIND)
            assert [tape.good(read_6(len(block)), data_in_length=len(block)) for block in BLOCKS] == BLOCKS
        appliance.call("unload", drive="drive:0")
        assert tapebay(appliance, "cartridge", "verify", FIRST_BARCODE).returncode == 0
        assert tapebay(appliance, "cartridge", "recover", FIRST_BARCODE, "TST009L6").returncode == 0
        exported = tapebay(appliance, "cartridge", "export", FIRST_BARCODE, tmp_path / "tape", "--format", "simh")
        assert (exported.returncode, b"encrypted" in exported.stdout) == (1, True)
        events = [entry["event"] for entry in appliance.log]
        assert "data encryption set" in events  # the log was kept, and tells of keys
        search(repr(appliance.log).encode(), "the log")
        assert not appliance.problems(), appliance.log_text()
    search_files(tmp_path)
    for barcode in (FIRST_BARCODE, "TST009L6"):
        cartridge = tmp_path / "cartridges" / barcode
        uuid = bytes.fromhex(document(cartridge / "cartridge.json")["uuid"])
        assert read_partition(cartridge / "p0", uuid, 0, KEY)[:8] == [*BLOCKS, None, *BLOCKS, None]


@pytest.mark.parametrize("number", range(0, len(SECRETS), 9))
def test_the_search_finds_what_is_there(tmp_path: Path, number: int) -> None:
    (tmp_path / "00000001.seg").write_bytes(bytes(100) + SECRETS[number][1] + bytes(100))
    with pytest.raises(AssertionError, match=r"00000001\.seg holds"):
        search_files(tmp_path)
