"""Compressed and encrypted blocks: they come back as they were written, and nothing secret lies in a file."""

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from vlib_images.cartridge import codec
from vlib_images.cartridge.cartridge import Cartridge
from vlib_images.cartridge.codec import (
    Decryption,
    DecryptionMode,
    Encoder,
    Encryption,
    EncryptionKey,
    EncryptionStatus,
    Origin,
    RawEncoder,
)
from vlib_images.errors import DamagedBlock, KeyMissing, KeyWrong, NotEncrypted, NotRawBlock, RawReadRefused

Make = Callable[..., Cartridge]
TEXT = b"a line that compresses well, and again, and again\n" * 400
NOISE = random.Random(1).randbytes(20_000)
SECRET = bytes(range(100, 132))


@pytest.fixture
def key() -> EncryptionKey:
    return EncryptionKey(SECRET)


def read(cartridge: Cartridge, room: int = 1 << 20) -> bytes:
    into = bytearray(room)
    result = cartridge.read_block(into)
    return bytes(into[: result.length])


def encoders(key: EncryptionKey) -> list[Encoder | None]:
    return [None, Encoder(3), Encoder(None, Encryption(key)), Encoder(1, Encryption(key, b"a-kad", b"u-kad"))]


def test_every_form_reads_back_side_by_side(make: Make, key: EncryptionKey, tmp_path: Path) -> None:
    blocks = [(encoder, data) for encoder in encoders(key) for data in (TEXT, NOISE, b"x")]
    with make() as cartridge:
        for encoder, data in blocks:
            cartridge.encoder = encoder
            cartridge.write_block(data)
    with Cartridge.open(tmp_path / "T00001L8") as cartridge:
        cartridge.decryption = Decryption(DecryptionMode.MIXED, key)
        for _, data in blocks:
            assert read(cartridge) == data
        for number in range(len(blocks) - 1, -1, -1):
            cartridge.locate_block(0, number)
            assert read(cartridge) == blocks[number][1]


def test_compression_saves_capacity_and_is_counted(make: Make) -> None:
    with make() as cartridge:
        cartridge.encoder = Encoder(3)
        cartridge.write_block(TEXT)
        assert cartridge.used_bytes(0) < len(TEXT) // 10
        assert cartridge.usage.bytes_written == len(TEXT)
        assert cartridge.usage.stored_bytes_written < len(TEXT) // 10
        cartridge.write_block(NOISE)
        assert cartridge.used_bytes(0) > len(NOISE)  # stored as it is, not grown
        assert cartridge.usage.stored_bytes_written - len(NOISE) < len(TEXT) // 10


def test_a_short_buffer_gets_the_beginning_and_the_true_length(make: Make, key: EncryptionKey) -> None:
    with make() as cartridge:
        cartridge.encoder = Encoder(3, Encryption(key))
        cartridge.decryption = Decryption(DecryptionMode.DECRYPT, key)
        cartridge.write_block(TEXT)
        cartridge.rewind()
        into = bytearray(10)
        assert cartridge.read_block(into).length == len(TEXT)
        assert into == TEXT[:10]


def test_fixed_blocks_in_every_form(make: Make, key: EncryptionKey) -> None:
    with make() as cartridge:
        cartridge.decryption = Decryption(DecryptionMode.MIXED, key)
        for encoder in encoders(key):
            cartridge.encoder = encoder
            assert cartridge.write_blocks(TEXT[:4096], 512) == 8
        cartridge.write_filemarks(1)
        cartridge.rewind()
        into = bytearray(512 * 40)
        result = cartridge.read_blocks(into, 512, 40)
        assert (result.blocks, result.stopped_by and result.stopped_by.name) == (32, "FILEMARK")
        assert into[: 32 * 512] == TEXT[:4096] * 4
        assert cartridge.position == (0, 33)


def test_no_key_and_no_plaintext_lie_in_any_file(make: Make, key: EncryptionKey, tmp_path: Path) -> None:
    with make() as cartridge:
        for level in (None, 1):
            cartridge.encoder = Encoder(level, Encryption(key, b"known to all"))
            cartridge.write_block(TEXT)
            cartridge.write_block(NOISE)
            cartridge.write_block(b"tiny secret")
        cartridge.synchronize()
    everything = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert b"known to all" in everything
    for secret in (SECRET, SECRET[::-1], SECRET.hex().encode(), TEXT[:16], NOISE[:16], NOISE[-16:], b"tiny secret"):
        assert secret not in everything
    for data in (TEXT, NOISE, b"tiny secret"):
        assert codec.crc32c(data).to_bytes(4, "little") not in everything


def test_a_missing_or_wrong_key_leaves_the_position(make: Make, key: EncryptionKey) -> None:
    with make() as cartridge:
        cartridge.encoder = Encoder(None, Encryption(key))
        cartridge.write_block(TEXT)
        cartridge.rewind()
        with pytest.raises(KeyMissing):
            read(cartridge)
        for mode in (DecryptionMode.DECRYPT, DecryptionMode.MIXED):
            cartridge.decryption = Decryption(mode, EncryptionKey(bytes(32)))
            with pytest.raises(KeyWrong):
                read(cartridge)
            with pytest.raises(KeyWrong):
                cartridge.read_blocks(bytearray(len(TEXT)), len(TEXT), 1)
        assert cartridge.position == (0, 0)
        assert not cartridge.can_decrypt_next(EncryptionKey(bytes(32)))
        assert cartridge.can_decrypt_next(key)
        cartridge.decryption = Decryption(DecryptionMode.DECRYPT, key)
        assert read(cartridge) == TEXT


@pytest.mark.parametrize("encoder", [None, Encoder(3)])
@pytest.mark.parametrize("mode", [DecryptionMode.DECRYPT, DecryptionMode.RAW])
def test_plain_blocks_are_refused_where_only_encrypted_ones_are_wanted(
    make: Make, key: EncryptionKey, encoder: Encoder | None, mode: DecryptionMode
) -> None:
    with make() as cartridge:
        cartridge.encoder = Encoder(3, Encryption(key))
        cartridge.write_block(TEXT)
        cartridge.encoder = encoder
        cartridge.write_block(TEXT)
        cartridge.rewind()
        cartridge.decryption = Decryption(mode, key)
        if mode is DecryptionMode.DECRYPT:
            with pytest.raises(NotEncrypted) as refused:
                cartridge.read_blocks(bytearray(2 * len(TEXT)), len(TEXT), 2)
            assert refused.value.blocks_read == 1
        cartridge.locate_block(0, 1)
        with pytest.raises(NotEncrypted):
            read(cartridge)
        assert cartridge.position == (0, 1)


def test_raw_blocks_travel_to_another_cartridge(make: Make, key: EncryptionKey) -> None:
    with make() as source, make(barcode="T00002L8") as target:
        source.encoder = Encoder(3, Encryption(key, b"who", b"what"))
        source.write_block(TEXT)
        source.rewind()
        source.decryption = Decryption(DecryptionMode.RAW)
        raw = read(source)
        target.encoder = RawEncoder()
        target.write_block(raw)
        target.rewind()
        assert target.next_block_status() == EncryptionStatus(True, b"who", b"what", False, Origin.EXTERNAL)
        target.decryption = Decryption(DecryptionMode.DECRYPT, key)
        assert read(target) == TEXT
        target.space_end_of_data()
        for wrong in (b"nothing", raw[:-1], raw + b"x", b"X" + raw[1:]):
            with pytest.raises(NotRawBlock):
                target.write_block(wrong)
        assert target.end_of_data(0) == 1


def test_raw_reading_can_be_forbidden(make: Make, key: EncryptionKey) -> None:
    with make() as cartridge:
        cartridge.encoder = Encoder(None, Encryption(key, raw_read_disabled=True))
        cartridge.write_block(TEXT)
        cartridge.rewind()
        cartridge.decryption = Decryption(DecryptionMode.RAW)
        with pytest.raises(RawReadRefused):
            read(cartridge)


def test_next_block_status(make: Make, key: EncryptionKey) -> None:
    with make() as cartridge:
        cartridge.write_block(b"plain")
        cartridge.write_filemarks(1)
        cartridge.encoder = Encoder(None, Encryption(key, b"a" * 60, b"u" * 32, True))
        cartridge.write_block(b"secret")
        cartridge.rewind()
        found = []
        for number in range(4):
            cartridge.locate_block(0, number)
            found.append(cartridge.next_block_status())
        encrypted = EncryptionStatus(True, b"a" * 60, b"u" * 32, True)
        assert found == [EncryptionStatus(False), None, encrypted, None]


@pytest.mark.parametrize("change", ["payload", "authenticated data", "flags"])
def test_an_altered_block_is_not_given_out(key: EncryptionKey, change: str) -> None:
    """By someone who knows the format and repairs every checksum."""
    block = Encoder(None, Encryption(key, b"akad", b"ukad", True)).encode(b"secret")
    assert block is not None
    payload, extension = bytearray(block.payload), bytearray(block.extension)
    if change == "payload":
        payload[0] ^= 1
    else:
        at = extension.index(b"akad") if change == "authenticated data" else extension.index(bytes([4, 1, 1])) + 2
        extension[at] ^= 1
    altered = codec.StoredBlock(bytes(payload), block.logical_length, 0, block.form, bytes(extension))
    with pytest.raises(codec.WrongKey):
        codec.decrypt(altered, key)


def test_damage_of_a_compressed_block_is_found_by_its_checksum(make: Make, tmp_path: Path) -> None:
    with make() as cartridge:
        cartridge.encoder = Encoder(3)
        cartridge.write_block(TEXT)
        cartridge.write_block(b"next")
    segment = tmp_path / "T00001L8" / "p0" / "00000001.seg"
    content = bytearray(segment.read_bytes())
    content[200] ^= 1
    segment.write_bytes(content)
    with Cartridge.open(tmp_path / "T00001L8") as cartridge:
        with pytest.raises(DamagedBlock):
            read(cartridge)
        assert read(cartridge) == b"next"


def test_nonces_never_repeat(key: EncryptionKey) -> None:
    nonces = {key.next_nonce() for _ in range(10_000)}
    assert len(nonces) == 10_000
    key._blocks = 1 << 32
    assert key.next_nonce() not in nonces


def test_a_wiped_key_is_gone(key: EncryptionKey) -> None:
    encoder = Encoder(None, Encryption(key))
    key.wipe()
    assert key._key == bytes(32)
    with pytest.raises(ValueError, match="wiped"):
        encoder.encode(b"secret")
    assert "100" not in repr(key)


def test_wrong_key_and_key_data_sizes_are_refused(key: EncryptionKey) -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        EncryptionKey(bytes(16))
    with pytest.raises(ValueError, match="too long"):
        Encryption(key, bytes(61))
