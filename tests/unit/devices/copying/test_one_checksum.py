"""A copy makes one CRC32C of what it moves, where the bytes come from, and the cartridge keeps that one: what changes
on the way is found, wherever it happens."""

import pytest

from datamover import assembly as assembly_module
from datamover.engine import crc32c
from scsi_targets.t10 import copy_descriptors as copy
from tests.unit.devices.copying.support import BLOCKS, Site, block_to_stream, blocks_of, content, stream_to_block
from tests.unit.devices.copying.test_failures import SOURCE, code_of, failure
from tests.unit.devices.tape.support import good
from vlib_images.errors import DamagedBlock

LENGTH = 65536


@pytest.fixture(params=["plain", "compressed"])
def site(tmp_path, request):
    site = Site(tmp_path)
    for drive in (site.tape, site.other):
        drive.compression.on = request.param == "compressed"
    yield site
    site.close()


@pytest.fixture
def passes(monkeypatch):
    """How many bytes copies have made checksums of."""
    counted = []
    for name in ("crc32c", "crc32c_blocks"):
        function = getattr(assembly_module, name)

        def counting(data, *args, function=function):
            counted.append(len(data))
            return function(data, *args)

        monkeypatch.setattr(assembly_module, name, counting)
    return counted


def flip(view):
    """Changes one bit in the middle of a buffer."""
    memoryview(view).cast("B")[LENGTH // 2] ^= 1


def test_a_bit_that_flips_before_it_is_on_the_tape_is_found_when_it_is_read(site, monkeypatch):
    write_blocks = site.tape.write_blocks

    def flipping(data, *args, **more):
        flip(data)
        return write_blocks(data, *args, **more)

    monkeypatch.setattr(site.tape, "write_blocks", flipping)
    good(site.copy(block_to_stream(LENGTH, 256), list_identifier=3))
    site.tape.loaded.rewind()
    with pytest.raises(DamagedBlock):
        site.tape.loaded.read_blocks(bytearray(2 * LENGTH), LENGTH, 2)


def test_a_bit_that_flips_after_the_tape_was_read_shows_in_the_checksum(site, monkeypatch):
    blocks = [content(LENGTH, seed=n) for n in range(2)]
    site.fill(blocks)
    read_blocks = site.tape.loaded.read_blocks

    def flipping(into, *args, **more):
        result = read_blocks(into, *args, **more)
        flip(into)
        return result

    monkeypatch.setattr(site.tape.loaded, "read_blocks", flipping)
    good(site.copy(stream_to_block(LENGTH, 256), list_identifier=3))
    ((taken, found),) = site.disk.copy_manager.recent()[-1].checksums
    assert (taken, found) == (2 * LENGTH, crc32c(b"".join(blocks)))
    image = bytearray(2 * LENGTH)
    site.disk.medium.read_into(image, 0)
    assert crc32c(image) != found


def test_a_bit_that_flips_between_two_tapes_of_other_blocks_ends_the_copy(site, monkeypatch):
    """The blocks get checksums of their own then, which are compared with those that were read."""
    site.fill([content(LENGTH, seed=n) for n in range(2)])
    read_blocks = site.tape.loaded.read_blocks

    def flipping(into, *args, **more):
        result = read_blocks(into, *args, **more)
        flip(into)
        return result

    monkeypatch.setattr(site.tape.loaded, "read_blocks", flipping)
    other = copy.StreamToStream.encode(
        source=0, destination=1, source_stream_device_transfer_length=LENGTH,
        destination_stream_device_transfer_length=LENGTH // 4, byte_count=2 * LENGTH,
    )  # fmt: skip
    cscds = [site.tape_descriptor(), site.tape_descriptor(site.other)]
    _, _, _, _, sense = failure(site.copy(other, cscds=cscds), SOURCE)
    assert code_of(sense)[0] in (3, 4)
    assert blocks_of(site.other.loaded) == []


def test_from_tape_to_tape_the_checksum_goes_with_the_block(site, monkeypatch, passes):
    blocks = [content(LENGTH, seed=n) for n in range(4)]
    site.fill(blocks)
    write_blocks = site.other.write_blocks

    def flipping(data, *args, **more):
        flip(data)
        return write_blocks(data, *args, **more)

    monkeypatch.setattr(site.other, "write_blocks", flipping)
    same = copy.StreamToStream.encode(
        source=0, destination=1, source_stream_device_transfer_length=LENGTH,
        destination_stream_device_transfer_length=LENGTH, byte_count=4 * LENGTH,
    )  # fmt: skip
    good(site.copy(same, cscds=[site.tape_descriptor(), site.tape_descriptor(site.other)]))
    site.other.loaded.rewind()
    with pytest.raises(DamagedBlock):
        site.other.loaded.read_blocks(bytearray(LENGTH), LENGTH, 1)
    assert passes == []


def test_each_byte_is_looked_at_once(site, passes):
    good(site.copy(*(block_to_stream(LENGTH, 200, at, cat=1) for at in range(0, BLOCKS - 200, 200))))
    assert sum(passes) == (BLOCKS - 200) // 200 * 200 * 512 + (0 if not (BLOCKS - 200) % 200 else 200 * 512)
    passes.clear()
    site.tape.loaded.rewind()
    good(site.copy(stream_to_block(LENGTH, 2048)))
    assert passes == []  # the tape's own are taken


def test_a_flip_is_found_by_the_destination_of_a_fixed_block_copy(site, monkeypatch):
    write_blocks = site.tape.write_blocks

    def flipping(data, *args, **more):
        flip(data)
        return write_blocks(data, *args, **more)

    monkeypatch.setattr(site.tape, "write_blocks", flipping)
    cscds = [site.disk_descriptor(), site.tape_descriptor(fixed=True, block_length=4096)]
    good(site.copy(block_to_stream(16, 256), cscds=cscds))
    site.tape.loaded.rewind()
    with pytest.raises(DamagedBlock) as found:
        site.tape.loaded.read_blocks(bytearray(2 * LENGTH), 4096, 32)
    assert found.value.blocks_read == 8
