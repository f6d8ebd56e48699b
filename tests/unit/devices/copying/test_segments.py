"""What each segment descriptor copies, and what becomes of residue."""

import pytest

from scsi_targets.t10 import copy_descriptors as copy
from tests.unit.devices.copying.support import (
    BLOCKS,
    Site,
    block_to_stream,
    content,
    copy_status,
    extended_copy,
    stream_to_block,
)
from tests.unit.devices.disk.support import make_disk
from tests.unit.devices.support import sense_of
from tests.unit.devices.tape.support import good, position


@pytest.fixture
def site(tmp_path):
    site = Site(tmp_path)
    yield site
    site.close()


def test_a_parameter_list_as_it_goes_over_the_wire(site):
    """Byte for byte, as an initiator without our encoder would write it: 64 blocks from LBA 8 to blocks of 16 KiB."""
    data = bytes.fromhex("2a 01 0040 00000000 00000018 00000000")
    data += bytes.fromhex("e4 00 0000 01 03 00 08") + site.disk.identity.naa + bytes(12) + bytes.fromhex("00 000200")
    data += bytes.fromhex("e4 01 0000 01 03 00 08") + site.tape.identity.naa + bytes(12) + bytes.fromhex("00 000000")
    data += bytes.fromhex("00 00 0014 0000 0001 00 004000 0000 0040 0000000000000008")
    good(extended_copy(site, data))
    assert site.written() == [site.disk_data[4096:20480], site.disk_data[20480:36864]]
    assert copy_status(site.disk, 0x2A).raw == bytes.fromhex("00000008 01 0001 00 00008000")


@pytest.mark.parametrize("where", ["disk", "tape", "other"])
def test_any_logical_unit_can_manage_the_copy(site, where):
    good(site.copy(block_to_stream(65536, BLOCKS), unit=getattr(site, where)))
    assert b"".join(site.written()) == site.disk_data
    assert {len(block) for block in site.written()} == {65536}


def test_the_copy_begins_where_the_tape_stands(site):
    site.fill([b"first", None])
    site.tape.loaded.space_end_of_data()
    good(site.copy(block_to_stream(512, 2, 10)))
    assert site.written() == [b"first", None, site.disk_data[5120:5632], site.disk_data[5632:6144]]
    assert position(site.tape) == (0, 4)


def test_this_logical_unit_needs_no_descriptor(site):
    segment = copy.BlockToStream.encode(
        source=copy.THIS_LOGICAL_UNIT, destination=0, stream_device_transfer_length=1024, number_of_blocks=2
    )
    good(site.copy(segment, cscds=[site.tape_descriptor()]))
    assert site.written() == [site.disk_data[:1024]]


def test_other_designators_find_the_same_unit(site):
    eui = copy.identification_descriptor(
        b"TAPEBAY DISK            a"[:20], device_type=0, designator_type=1, code_set=2
    )
    response = site.copy(block_to_stream(512, 1), cscds=[eui, site.tape_descriptor()])
    assert sense_of(response) == (0xA, 0x0D, 0x02)  # the T10 designator is longer than 20 bytes: another name


def test_fixed_blocks(site):
    tape = site.tape_descriptor(fixed=True, block_length=1024)
    good(site.copy(block_to_stream(4, 16), cscds=[site.disk_descriptor(), tape]))  # 4 blocks in each write
    assert site.written() == [site.disk_data[at : at + 1024] for at in range(0, 8192, 1024)]


def test_tape_to_disk(site):
    data = content(64 * 4096, seed=7)
    site.fill([data[at : at + 4096] for at in range(0, len(data), 4096)])
    good(site.copy(stream_to_block(4096, 512, 100)))
    read = bytearray(len(data))
    site.disk.medium.read_into(read, 51200)
    assert read == data
    assert position(site.tape) == (0, 64)


def test_disk_to_disk_counts_in_source_or_destination_blocks(site, tmp_path):
    big = make_disk(tmp_path, name="big", block_length=4096, blocks=64)
    site.add(big)
    cscds = [site.disk_descriptor(), copy.identification_descriptor(big.identity.naa, device_type=0)]
    common = {"source": 0, "destination": 1}
    forward = copy.BlockToBlock.encode(**common, number_of_blocks=16, source_logical_block_address=8,
                                       destination_logical_block_address=2)  # fmt: skip
    counted = copy.BlockToBlock.encode(**common, destination_count=1, number_of_blocks=2,
                                       destination_logical_block_address=10)  # fmt: skip
    good(site.copy(forward, counted, cscds=cscds))
    read = bytearray(64 * 4096)
    big.medium.read_into(read, 0)
    assert read[8192:16384] == site.disk_data[4096:12288]
    assert read[40960:49152] == site.disk_data[:8192]
    assert sum(map(bool, read[:8192])) == 0


@pytest.mark.parametrize("where", ["tape", "disk"])
def test_tape_to_tape_with_another_block_length(site, where):
    data = content(40 * 1000, seed=9)
    site.fill([data[at : at + 1000] for at in range(0, len(data), 1000)])
    segment = copy.StreamToStream.encode(
        source=0, destination=1, source_stream_device_transfer_length=1000,
        destination_stream_device_transfer_length=8000, byte_count=40000,
    )  # fmt: skip
    good(
        site.copy(segment, cscds=[site.tape_descriptor(), site.tape_descriptor(site.other)], unit=getattr(site, where))
    )
    assert site.written(site.other) == [data[at : at + 8000] for at in range(0, 40000, 8000)]


def test_headers_and_extents_make_one_stream_with_its_end_padded(site):
    header = content(1024, seed=3)
    tape = site.tape_descriptor(pad=True)

    def inline(offset, number):
        return copy.InlineToStream.encode(
            cat=1, destination=1, stream_device_transfer_length=10240,
            inline_data_offset=offset, inline_data_number_of_bytes=number,
        )  # fmt: skip

    response = site.copy(
        inline(0, 512), block_to_stream(10240, 37, 5, cat=1),
        inline(512, 512), block_to_stream(10240, 3, 900, cat=1), block_to_stream(10240, 0),
        cscds=[site.disk_descriptor(), tape], inline=header,
    )  # fmt: skip
    good(response)
    stream = header[:512] + site.disk_data[2560 : 2560 + 37 * 512] + header[512:] + site.disk_data[460800:462336]
    assert b"".join(site.written()) == stream.ljust(30720, b"\0")
    assert {len(block) for block in site.written()} == {10240}


def test_residue_without_cat_and_pad_is_an_inexact_segment(site):
    response = site.copy(block_to_stream(1024, 2), block_to_stream(1024, 3), unit=site.tape)
    assert sense_of(response) == (0xA, 0x26, 0x0A)
    assert response.sense[8:12] == bytes([0, 0, 0, 1])
    assert site.written() == [site.disk_data[:1024], site.disk_data[:1024]]


def test_pad_bits_without_cat(site):
    segment = block_to_stream(1024, 3)
    good(site.copy(segment, cscds=[site.disk_descriptor(), site.tape_descriptor(pad=True)]))
    good(site.copy(segment, cscds=[site.disk_descriptor(pad=True), site.tape_descriptor()]))
    whole = site.disk_data[:1024]
    assert site.written() == [whole, site.disk_data[1024:1536] + bytes(512), whole]


def test_reading_and_discarding(site):
    site.fill([content(1000, seed) for seed in range(5)])
    discard = copy.StreamToDiscard.encode(source=1, stream_device_transfer_length=1000, number_of_bytes=2000)
    good(site.copy(discard, stream_to_block(1000, 1, 7, cat=1)))
    read = bytearray(512)
    site.disk.medium.read_into(read, 7 * 512)
    assert read == content(1000, 2)[:512]
    assert position(site.tape) == (0, 3)


def test_embedded_data(site):
    head, more = content(13, seed=3), content(512 + 499, seed=4)
    kind = {"destination": 1, "stream_device_transfer_length": 512, "cat": 1}
    good(site.copy(copy.embedded_to_stream(head, **kind), copy.embedded_to_stream(more, **kind)))
    assert site.written() == [(head + more)[:512], (head + more)[512:]]
    nothing = copy.embedded_to_stream(b"", destination=1, stream_device_transfer_length=512)
    good(site.copy(nothing))


def test_from_any_byte_of_a_disk(site):
    def part(length, address, offset, **fields):
        return copy.BlockWithOffsetToStream.encode(
            **{"source": 0, "destination": 1, "stream_device_transfer_length": 1000} | fields,
            number_of_bytes=length, logical_block_address=address, byte_offset=offset,
        )  # fmt: skip

    good(site.copy(part(2000, 3, 7)))
    assert b"".join(site.written()) == site.disk_data[1543:3543]
    good(site.copy(part(300, 0, 511, cat=1), part(1, 5, 65535, cat=1), part(699, 2, 0)))
    assert site.written()[2:] == [site.disk_data[511:811] + site.disk_data[68095:68096] + site.disk_data[1024:1723]]


def test_the_last_byte_of_a_disk_and_the_one_behind_it(site):
    def last(length):
        return copy.BlockWithOffsetToStream.encode(
            source=0, destination=1, stream_device_transfer_length=length, number_of_bytes=length,
            logical_block_address=BLOCKS - 1, byte_offset=500,
        )  # fmt: skip

    good(site.copy(last(12)))
    assert site.written() == [site.disk_data[-12:]]
    response = site.copy(last(13))
    assert sense_of(response) == (0xA, 0x0D, 0x01)
    assert (response.sense[21] & 0xF, response.sense[31]) == (5, 0x21)


def test_to_any_byte_of_a_disk(site):
    site.fill([content(1000, 5), content(1000, 6)])
    segment = copy.StreamToBlockWithOffset.encode(
        source=1, destination=0, stream_device_transfer_length=1000, number_of_bytes=2000,
        logical_block_address=9, byte_offset=100,
    )  # fmt: skip
    good(site.copy(segment))
    read = bytearray(8192)
    site.disk.medium.read_into(read, 4096)
    at = 9 * 512 + 100 - 4096
    expected = site.disk_data[4096:12288]
    assert read == expected[:at] + content(1000, 5) + content(1000, 6) + expected[at + 2000 :]


def test_between_bytes_of_disks(site, tmp_path):
    big = make_disk(tmp_path, name="big", block_length=4096, blocks=8)
    site.add(big)
    segment = copy.BlockWithOffsetToBlockWithOffset.encode(
        source=0, destination=1, number_of_bytes=10001, source_logical_block_address=1, source_byte_offset=3,
        destination_logical_block_address=2, destination_byte_offset=4095,
    )  # fmt: skip
    good(
        site.copy(
            segment, cscds=[site.disk_descriptor(), copy.identification_descriptor(big.identity.naa, device_type=0)]
        )
    )
    read = bytearray(8 * 4096)
    big.medium.read_into(read, 0)
    start = 2 * 4096 + 4095
    assert read[start : start + 10001] == site.disk_data[515:10516]
    assert not any(read[:start]) and not any(read[start + 10001 :])


# ---- the null device -----------------------------------------------------------------------------------------------


def null(device_type=1, **fields):
    """A CSCD descriptor whose name means nothing."""
    return copy.identification_descriptor(b"\xff" * 8, device_type=device_type, null=True, **fields)


def test_residue_goes_to_the_null_device(site):
    """SPC-3 6.3.6.1: a stream to discard of no bytes from a null device with PAD drops what was left over."""
    site.fill([content(1000, seed) for seed in range(4)])
    read_too_much = stream_to_block(1000, 1, 7, cat=1)
    drop = copy.StreamToDiscard.encode(source=2, stream_device_transfer_length=1000)
    cscds = [site.disk_descriptor(), site.tape_descriptor(), null(pad=True)]
    good(site.copy(read_too_much, drop, stream_to_block(1000, 1, 8, cat=1), cscds=cscds))
    read = bytearray(1024)
    site.disk.medium.read_into(read, 7 * 512)
    assert read == content(1000, 0)[:512] + content(1000, 1)[:512]


def test_destination_residue_is_dropped_too(site):
    cscds = [site.disk_descriptor(), site.tape_descriptor(), null(0, pad=True), null()]
    drop = copy.BlockToStream.encode(source=2, destination=3, stream_device_transfer_length=4096)
    good(site.copy(block_to_stream(4096, 9, cat=1), drop, block_to_stream(4096, 8, 100), cscds=cscds))
    assert site.written() == [site.disk_data[:4096], site.disk_data[51200:55296]]


@pytest.mark.parametrize(
    ("segment", "at"),
    [
        (copy.BlockToStream.encode(source=2, destination=1, stream_device_transfer_length=512, number_of_blocks=1), 80),
        (
            copy.BlockToStream.encode(source=0, destination=3, stream_device_transfer_length=512, number_of_blocks=1),
            112,
        ),
        (copy.StreamToDiscard.encode(source=3, stream_device_transfer_length=512, number_of_bytes=1), 112),
        (copy.BlockWithOffsetToBlockWithOffset.encode(source=0, destination=2, number_of_bytes=1), 80),
        (copy.WriteFilemarks.encode(destination=3), 112),
        (copy.VerifyCscd.encode(source=2), 80),
    ],
)
def test_the_null_device_cannot_be_reached(site, segment, at):
    cscds = [*site.descriptors, null(0), null()]
    response = site.copy(copy.VerifyCscd.encode(source=0), segment, cscds=cscds)
    assert sense_of(response) == (0xA, 0x0D, 0x02)
    assert response.sense[8:12] == bytes([0, 0, 0, 1])
    assert response.sense[15:18] == bytes([0x80, 0, at])
    assert site.written() == []


def test_no_filemarks_make_what_was_written_durable(site, monkeypatch):
    """WRITE FILEMARKS of none is how a job of many commands marks a checkpoint."""
    synchronize, positions = site.tape.loaded.synchronize, []

    def noted():
        positions.append(site.tape.loaded.position[1])
        return synchronize()

    monkeypatch.setattr(site.tape.loaded, "synchronize", noted)
    checkpoint = copy.WriteFilemarks.encode(destination=1)
    good(site.copy(block_to_stream(512, 3), checkpoint, block_to_stream(512, 2), checkpoint))
    assert positions == [3, 5]
    assert len(site.written()) == 5
    assert site.tape.buffered_from is None
    good(site.copy(copy.WriteFilemarks.encode(destination=1, immediate=1)))
    assert positions == [3, 5]


def test_filemarks_spacing_and_locating(site):
    mark = copy.WriteFilemarks.encode(destination=1, filemark_count=2)
    good(site.copy(block_to_stream(512, 2), mark, block_to_stream(512, 1, 9)))
    assert site.written() == [site.disk_data[:512], site.disk_data[512:1024], None, None, site.disk_data[4608:5120]]
    space = copy.SpaceTape.encode(destination=1, code=1, count=0xFFFFFF)  # one filemark back
    good(site.copy(space))
    assert position(site.tape) == (0, 3)
    locate = copy.LocateTape.encode(destination=1, logical_object_identifier=1)
    good(site.copy(locate, stream_to_block(512, 1, 20)))
    read = bytearray(512)
    site.disk.medium.read_into(read, 20 * 512)
    assert read == site.disk_data[512:1024]


def test_verifying_that_a_unit_is_there(site):
    verify = copy.VerifyCscd.encode(source=1, test_unit_ready=1)
    good(site.copy(verify))
    site.tape.unload()
    good(site.copy(copy.VerifyCscd.encode(source=1)))
    response = site.copy(copy.VerifyCscd.encode(source=0), verify)
    assert sense_of(response) == (0xA, 0x0D, 0x01)
    assert response.sense[8:12] == bytes([18, 0, 0, 1])
    assert (response.sense[18], response.sense[21] & 0xF, response.sense[31]) == (2, 2, 0x3A)
    site.tape.load(site.cartridges[0])


def test_an_empty_parameter_list_copies_nothing(site):
    good(extended_copy(site, b""))
    good(site.copy())
    assert site.written() == []
