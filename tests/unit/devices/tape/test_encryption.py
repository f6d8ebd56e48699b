"""Tape data encryption: keys by SECURITY PROTOCOL OUT, status pages, sense data, and no secret in any file
(SSC-4 4.2.23, 8.5)."""

import gc
import random
import struct

import pytest

from scsi_targets.t10 import spc, ssc
from tests.unit.devices.copying.support import Site, block_to_stream, stream_to_block
from tests.unit.devices.support import ALPHA, BETA, data_of, send, sense_of
from tests.unit.devices.tape.encryption_support import (
    DECRYPT,
    DISABLE,
    ENCRYPT,
    EXTERNAL,
    KEY,
    LOCAL,
    MIXED,
    OTHER_KEY,
    PUBLIC,
    RAW,
    TEXT,
    kad,
    next_block,
    off,
    set_encryption,
    set_page,
    spin,
    spout,
    status,
)
from tests.unit.devices.tape.support import (
    filemarks,
    good,
    make_drive,
    moved,
    position,
    quiet,
    read,
    rewind,
    set_block_length,
    stream_sense,
    write,
    write_fixed,
)
from tests.unit.devices.tape.test_compression import compress, stored
from tests.unit.devices.tape.test_logs import parameters
from vlib_images.cartridge.cartridge import Cartridge

# ---- SECURITY PROTOCOL IN --------------------------------------------------------------------------------------------


def test_supported_protocols_and_pages(drive):
    assert data_of(spin(drive, 0, protocol=0)) == bytes([0, 0, 0, 0, 0, 0, 0, 2, 0x00, 0x20])
    assert data_of(spin(drive, 1, protocol=0)) == bytes(4)
    listed = data_of(spin(drive, 0))
    codes = [0x0000, 0x0001, 0x0010, 0x0011, 0x0012, 0x0020, 0x0021, 0x0030]
    assert listed == struct.pack(">HH8H", 0, 16, *codes)
    for code in codes:
        data = data_of(spin(drive, code))
        assert struct.unpack(">HH", data[:4]) == (code, len(data) - 4)
    assert data_of(spin(drive, 1)) == bytes([0, 1, 0, 2, 0, 0x10])
    assert data_of(spin(drive, 0x11)) == bytes([0, 0x11, 0, 1, 0])
    assert data_of(spin(drive, 0x12)) == bytes([0, 0x12, 0, 12, 1, 7, 0, 7]) + bytes(8)
    assert len({data_of(spin(drive, 0x30)) for _ in range(8)}) == 8


def test_capabilities_tell_stenc_what_it_looks_for(drive):
    page = data_of(spin(drive, 0x10))
    assert page[:5] == bytes([0, 0x10, 0, 40, 0x05])
    algorithm = page[20:]
    assert algorithm[:4] == bytes([1, 0, 0, 20])
    assert algorithm[4] == 0x80 | 0x30 | 2 << 2 | 2  # valid, authenticated, decrypts and encrypts
    assert algorithm[5] == 0x80 | 1 << 4 | 8 | 4  # valid for writing here, makes the nonces, KADF_C, VCELB_C
    assert struct.unpack(">HHH", algorithm[6:12]) == (32, 60, 32)
    assert algorithm[12] == 3 << 6 | 2 << 4 | 5 << 1 | 1
    assert algorithm[20:] == bytes([0, 1, 0, 0x14])


def test_the_algorithm_is_not_valid_where_nothing_can_be_written(drive):
    drive.medium.write_protected = True
    assert data_of(spin(drive, 0x10))[24:26] == bytes([0x80 | 0x3A, 0x40 | 0x1C])
    drive.medium.write_protected = False
    bare = make_drive()
    assert data_of(spin(bare, 0x10))[24:26] == bytes([0x3A, 0x1C])
    bare.close()


def test_what_is_not_there_is_refused(drive):
    assert sense_of(spin(drive, 0x31)) == (5, 0x24, 0)
    assert sense_of(spin(drive, 0, protocol=0x41)) == (5, 0x24, 0)
    assert sense_of(send(drive, bytes([0xA2, 0x20, 0, 0, 0x80, 0, 0, 0, 0, 1, 0, 0]))) == (5, 0x24, 0)
    assert sense_of(spout(drive, bytes(20), page=0x11)) == (5, 0x24, 0)
    assert sense_of(spout(drive, bytes(20), protocol=0)) == (5, 0x24, 0)
    assert moved(spin(drive, 0x20, length=4)) == bytes([0, 0x20, 0, 20])


def test_status_before_anything_is_set(drive):
    assert status(drive) == bytes([0, 0x20, 0, 20, 0, 0, 0, 0]) + bytes(4) + bytes([0x10]) + bytes(11)
    bare = make_drive()
    assert status(bare)[4] == 0
    assert sense_of(spin(bare, 0x21)) == (2, 0x3A, 0)
    bare.close()


# ---- stenc's flow ------------------------------------------------------------------------------------------------


def test_the_flow_of_stenc(drive, tmp_path):
    name = b"Hello world!"
    good(set_encryption(drive, kads=kad(0, name)))
    page = status(drive)
    assert page[4:8] == bytes([0x42, 2, 2, 1])
    assert page[8:12] == bytes([0, 0, 0, 1])
    assert page[24:] == bytes([0, 1, 0, 12]) + name
    good(write(drive, TEXT))
    good(filemarks(drive))
    rewind(drive)
    block = next_block(drive)
    assert block[12:15] == bytes([5, 1, 0])
    assert block[16:] == bytes([0, 1, 0, 12]) + name
    assert moved(read(drive, len(TEXT))) == TEXT
    assert next_block(drive)[12] == 2  # the filemark
    assert read(drive, 1).status == 2
    assert next_block(drive)[12] == 1  # the end of data

    good(off(drive))
    assert status(drive)[4:8] == bytes(4)
    rewind(drive)
    block = next_block(drive)
    assert block[12] == 6
    assert block[20:] == name
    assert sense_of(read(drive, len(TEXT))) == (7, 0x74, 0x01)
    assert position(drive) == (0, 0)


def test_the_flow_of_bareos(drive):
    """scsicrypto-sd and bscrypto: MIXED, no flags, no key-associated data; the volume's status decides."""
    good(write(drive, b"clear"))
    good(set_encryption(drive, ENCRYPT, MIXED, flags=0))
    assert status(drive)[4:13] == bytes([0x42, 2, 3, 1, 0, 0, 0, 1, 0x10])  # application managed
    good(write(drive, TEXT))
    assert status(drive)[12] == 0x18  # and encrypted blocks are on the volume
    rewind(drive)
    assert next_block(drive)[12:16] == bytes([3, 0, 0, 0])
    assert moved(read(drive, 5)) == b"clear"
    assert next_block(drive)[12:16] == bytes([5, 1, 0, 0])
    assert moved(read(drive, len(TEXT))) == TEXT
    good(set_encryption(drive, DISABLE, DISABLE, bytes(32), flags=0))
    assert not drive.encryption.parameters.any
    good(send(drive, ssc.Space6.encode(code=0, count=-1 & 0xFFFFFF)))
    assert next_block(drive)[12:16] == bytes([6, 1, 0, 0])


@pytest.mark.parametrize("kad_format", [0, 1, 2])
def test_the_format_of_key_associated_data_is_kept_with_the_block(drive, kad_format):
    good(set_encryption(drive, kads=kad(0, b"September key"), kad_format=kad_format))
    assert status(drive)[13] == kad_format
    good(write(drive, TEXT))
    good(off(drive))
    rewind(drive)
    assert next_block(drive)[15] == kad_format


@pytest.mark.cartridge_directory
def test_nothing_secret_in_any_file(drive, tmp_path, capsys):
    compressing = random.Random(9).randbytes(64)
    good(set_encryption(drive, kads=kad(0, b"u-kad") + kad(1, b"a-kad")))
    good(write(drive, TEXT))
    good(compress(drive))
    good(write(drive, TEXT + compressing))
    good(filemarks(drive))
    drive.unload().close()
    content = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert b"u-kad" in content  # the grep finds what is there
    for secret in (KEY, KEY[:8], KEY.hex().encode(), TEXT[:16], b"plain text", compressing[:16]):
        assert secret not in content
    logged = capsys.readouterr()
    assert "data encryption set" in logged.out + logged.err
    assert KEY.hex() not in logged.out + logged.err
    drive.load(Cartridge.open(next(tmp_path.glob("*L8"))))
    quiet(drive)
    assert moved(read(drive, len(TEXT))) == TEXT
    assert moved(read(drive, len(TEXT) + 64)) == TEXT + compressing


def test_the_key_is_wiped_from_the_buffer_it_came_in_and_from_memory(drive):
    buffer = bytearray(set_page())
    assert spout(drive, buffer).status == 0
    assert buffer == bytes(len(buffer))
    key = drive.encryption.parameters.of(ALPHA).key
    assert bytes(key._key) == KEY
    good(off(drive))
    gc.collect()
    assert key._key == bytes(32)
    with pytest.raises(ValueError, match="wiped"):
        _ = key.cipher


def test_a_refused_page_is_wiped_too(drive):
    def refused(status, page=None, **kwargs):
        buffer = bytearray(set_page() if page is None else page)
        assert spout(drive, buffer, **kwargs).status == status
        assert buffer == bytes(len(buffer))

    refused(2, set_page(index=2))
    refused(2, protocol=0x21)
    good(set_encryption(drive, nexus=BETA))
    refused(2)  # with the unit attention that this gave
    good(send(drive, spc.Reserve6.encode()))
    refused(0x18, nexus=BETA)


# ---- reading ---------------------------------------------------------------------------------------------------------


def test_another_key(drive):
    good(set_encryption(drive))
    good(write(drive, TEXT))
    good(set_encryption(drive, key=OTHER_KEY))
    rewind(drive)
    assert next_block(drive)[12] == 6
    response = read(drive, len(TEXT))
    assert stream_sense(response) == (0, 7, 0x74, 0x03, len(TEXT))
    assert moved(response) == b""
    assert sense_of(send(drive, ssc.Verify6.encode(verification_length=len(TEXT)))) == (7, 0x74, 0x03)
    good(send(drive, ssc.Space6.encode(code=0, count=1)))  # moving needs no key
    good(set_encryption(drive))
    rewind(drive)
    assert moved(read(drive, len(TEXT))) == TEXT


def test_whether_authenticated_data_was_authenticated(drive):
    kads = kad(0, b"u") + kad(1, b"a")
    good(set_encryption(drive, kads=kads))
    assert status(drive)[24:] == bytes([0, 1, 0, 1]) + b"u" + bytes([1, 2, 0, 1]) + b"a"
    good(write(drive, TEXT))
    rewind(drive)
    assert next_block(drive)[16:] == bytes([0, 1, 0, 1]) + b"u" + bytes([1, 3, 0, 1]) + b"a"
    good(set_encryption(drive, key=OTHER_KEY))
    assert next_block(drive)[16:] == bytes([0, 1, 0, 1]) + b"u" + bytes([1, 4, 0, 1]) + b"a"
    good(off(drive))
    assert next_block(drive)[16:] == bytes([0, 1, 0, 1]) + b"u" + bytes([1, 2, 0, 1]) + b"a"


def test_mixed_reads_both_kinds_and_decrypt_only_one(drive):
    good(write(drive, b"in clear"))
    good(set_encryption(drive))
    good(write(drive, TEXT))
    rewind(drive)
    assert next_block(drive)[12] == 3
    assert sense_of(read(drive, 8)) == (7, 0x74, 0x02)
    good(set_encryption(drive, DISABLE, MIXED))
    assert moved(read(drive, 8)) == b"in clear"
    assert moved(read(drive, len(TEXT))) == TEXT
    good(write(drive, b"clear"))
    rewind(drive)
    good(off(drive))
    assert moved(read(drive, 8)) == b"in clear"


def test_fixed_blocks_give_what_was_read_before_the_problem(drive):
    good(set_block_length(drive, 100))
    good(set_encryption(drive))
    good(write_fixed(drive, TEXT[:300], 100))
    good(set_encryption(drive, key=OTHER_KEY))
    good(write_fixed(drive, TEXT[300:500], 100))
    good(set_encryption(drive))
    rewind(drive)
    response = send(drive, ssc.Read6.encode(fixed=1, transfer_length=5))
    assert stream_sense(response) == (0, 7, 0x74, 0x03, 2)
    assert moved(response) == TEXT[:300]
    assert position(drive) == (0, 3)


def test_raw_blocks_are_copied_without_the_key(drive, tmp_path):
    good(set_encryption(drive, kads=kad(1, b"a-kad")))
    good(write(drive, TEXT))
    rewind(drive)
    good(set_encryption(drive, EXTERNAL, RAW, b""))
    raw = moved(read_suppressed(drive, 1 << 16))
    assert TEXT[:16] not in raw
    good(write(drive, raw))
    assert sense_of(write(drive, b"no raw block")) == (7, 0x74, 0x0B)
    rewind(drive)
    good(set_encryption(drive))
    for _ in range(2):
        assert next_block(drive)[12] == 5
        assert moved(read(drive, len(TEXT))) == TEXT


def read_suppressed(drive, length):
    return good(send(drive, ssc.Read6.encode(suppress_incorrect_length=1, transfer_length=length)))


CHECK_NOTHING, REFUSE_EXTERNAL, REFUSE_ENCRYPT = 0x40, 0x80, 0xC0


def test_the_medium_tells_what_was_written_in_external_mode(drive):
    good(set_encryption(drive))
    good(write(drive, TEXT))
    rewind(drive)
    assert next_block(drive)[14] == 0
    good(set_encryption(drive, EXTERNAL, RAW, b""))
    raw = moved(read_suppressed(drive, 1 << 16))
    good(write(drive, raw))
    rewind(drive)
    good(set_encryption(drive, flags=REFUSE_EXTERNAL))
    assert status(drive)[12] >> 1 & 3 == 2
    assert moved(read(drive, len(TEXT))) == TEXT
    assert next_block(drive)[12:15] == bytes([5, 1, 2])  # able to decrypt, and EMES
    assert sense_of(read(drive, len(TEXT))) == (7, 0x74, 0x09)
    assert sense_of(send(drive, ssc.Verify6.encode(verification_length=len(TEXT)))) == (7, 0x74, 0x09)
    assert position(drive) == (0, 1)
    good(set_encryption(drive, flags=REFUSE_ENCRYPT))
    assert moved(read(drive, len(TEXT))) == TEXT
    rewind(drive)
    assert sense_of(read(drive, len(TEXT))) == (7, 0x74, 0x09)
    good(set_encryption(drive, DISABLE, RAW, b"", flags=REFUSE_EXTERNAL))
    good(send(drive, ssc.Space6.encode(code=0, count=1)))
    assert sense_of(read(drive, len(TEXT))) == (7, 0x74, 0x09)
    good(set_encryption(drive, DISABLE, RAW, b"", flags=CHECK_NOTHING))
    again = moved(read_suppressed(drive, 1 << 16))
    assert again[-len(TEXT) - 16 :] == raw[-len(TEXT) - 16 :]  # the same ciphertext and tag


def test_the_library_sees_that_parameters_are_there(drive):
    def present():
        return parameters(drive, 0x11)[0][3] >> 4 & 1  # EPP

    assert not present()
    good(set_encryption(drive, scope=LOCAL))
    assert present()
    good(off(drive))
    assert not present()


# ---- where a volume is encrypted -------------------------------------------------------------------------------------


def first_encrypted(drive):
    """Of partition 0: (first encrypted logical object, first unencrypted one behind it), and VCELB."""
    page = parameters(drive, 0x17)
    return *(int.from_bytes(page[code][4:10], "big") for code in (0x0200, 0x0201)), status(drive)[12] >> 3 & 1


def test_a_volume_tells_where_it_is_encrypted(drive):
    never = 0xFFFFFFFFFFFF
    assert first_encrypted(drive) == (never, never, 0)
    good(write(drive, b"clear"))
    good(filemarks(drive))
    assert first_encrypted(drive) == (never, never, 0)
    good(set_encryption(drive))
    good(write(drive, TEXT))
    good(filemarks(drive))
    good(write(drive, TEXT))
    assert first_encrypted(drive) == (2, never, 1)
    good(off(drive))
    good(filemarks(drive))
    good(write(drive, b"clear"))
    assert first_encrypted(drive) == (2, 6, 1)
    drive.load(drive.unload())
    quiet(drive)
    assert first_encrypted(drive) == (2, 6, 1)
    rewind(drive)
    good(write(drive, b"clear again"))
    assert first_encrypted(drive) == (never, never, 0)
    bare = make_drive()
    assert status(bare)[12] == 0x10
    bare.close()


def test_raw_reading_can_be_forbidden(drive):
    good(set_encryption(drive, flags=0x40 | 3 << 4))
    assert status(drive)[12] & 1
    good(write(drive, TEXT))
    rewind(drive)
    assert next_block(drive)[14] == 1
    good(set_encryption(drive, DISABLE, RAW, b""))
    assert sense_of(read(drive, len(TEXT))) == (7, 0x74, 0x0A)


def test_compressed_before_it_is_encrypted(drive):
    good(compress(drive))
    good(set_encryption(drive))
    good(write(drive, TEXT))
    assert stored(drive) < len(TEXT) / 4
    good(compress(drive, on=False))
    good(write(drive, TEXT))
    assert stored(drive) > len(TEXT)
    rewind(drive)
    for _ in range(2):
        assert moved(read(drive, len(TEXT))) == TEXT


# ---- the parameter list ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "page",
    [
        set_page(scope=3), set_page(flags=0x50), set_page(flags=0x48), set_page(3),
        set_page(2, 4), set_page(index=0), set_page(key=KEY[:16]), set_page(key=b""), set_page(DISABLE, DECRYPT, b""),
        set_page(kads=kad(0, bytes(33))), set_page(kads=kad(1, bytes(61))), set_page(kads=kad(2, bytes(12))),
        set_page(kads=kad(3, bytes(64))), set_page(kads=kad(1, b"a") + kad(0, b"u")),
        set_page(kads=kad(0, b"u") + kad(0, b"u")), set_page(kads=kad(0, b"u")[:3]), b"\0\x11" + set_page()[2:],
        set_page(flags=0x42), set_page(flags=0x41), set_page(kad_format=3),
    ],
)  # fmt: skip
def test_bad_fields_change_nothing(drive, page):
    assert sense_of(spout(drive, page)) == (5, 0x26, 0)
    assert status(drive)[4:8] == bytes(4)
    assert not drive.encryption.parameters.any


@pytest.mark.parametrize("page", [set_page()[:10], set_page()[:40]])
def test_a_list_that_is_cut_off(drive, page):
    assert sense_of(spout(drive, page)) == (5, 0x1A, 0)


def test_an_empty_list_is_no_error(drive):
    good(spout(drive, b""))
    assert not drive.encryption.parameters.any


def test_a_key_where_none_is_needed_is_ignored(drive):
    good(set_encryption(drive, DISABLE, DISABLE, bytes(32), index=0))  # how Bareos clears a key
    assert not drive.encryption.parameters.any


# ---- EXTENDED COPY ---------------------------------------------------------------------------------------------------


def test_a_copy_encrypts_with_the_key_of_whom_it_serves(tmp_path):
    site = Site(tmp_path)
    good(set_encryption(site.tape, scope=LOCAL))
    good(site.copy(block_to_stream(4096, 16)))
    rewind(site.tape)
    assert next_block(site.tape)[12] == 5
    assert moved(read(site.tape, 4096)) == site.disk_data[:4096]
    rewind(site.tape)
    good(site.copy(stream_to_block(4096, 16, 100)))
    copied = bytearray(4096)
    site.disk.medium.read_into(copied, 100 * 512)
    assert copied == site.disk_data[:4096]
    good(spout(site.tape, set_page(scope=PUBLIC)))
    rewind(site.tape)
    response = site.copy(stream_to_block(4096, 16, 200))
    assert sense_of(response)[0] == 0xA
    assert bytes([0x74, 0x01]) in response.sense
    site.close()
