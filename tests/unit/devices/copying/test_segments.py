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


def test_tape_to_tape_with_another_block_length(site):
    data = content(40 * 1000, seed=9)
    site.fill([data[at : at + 1000] for at in range(0, len(data), 1000)])
    segment = copy.StreamToStream.encode(
        source=0, destination=1, source_stream_device_transfer_length=1000,
        destination_stream_device_transfer_length=8000, byte_count=40000,
    )  # fmt: skip
    good(site.copy(segment, cscds=[site.tape_descriptor(), site.tape_descriptor(site.other)], unit=site.tape))
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
