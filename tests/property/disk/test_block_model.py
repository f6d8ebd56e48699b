"""A disk against a model of it: any sequence of commands leaves the bytes that the model says."""

import tempfile
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from scsi_targets.t10 import sbc, sbc_pages
from tests.unit.devices.disk.support import make_disk, read
from tests.unit.devices.support import data_of, send, sense_of

BLOCKS, BLOCK = 64, 512
LBA_OUT_OF_RANGE, MISCOMPARE = (5, 0x21, 0), (0xE, 0x1D, 0)

addresses = st.integers(0, BLOCKS + 2)
counts = st.integers(0, 20)
bytes_of_block = st.integers(0, 255)
writes = st.sampled_from([sbc.Write10, sbc.Write12, sbc.Write16, sbc.WriteAndVerify10, sbc.WriteAndVerify16])


def blocks(first: int, count: int) -> bytes:
    """Data whose every block differs from its neighbours."""
    return b"".join(bytes([(first + index) % 256]) * BLOCK for index in range(count))


class DiskModel(RuleBasedStateMachine):
    """`content` is what the disk has to hold."""

    def __init__(self) -> None:
        super().__init__()
        self.directory = tempfile.TemporaryDirectory()
        self.disk = make_disk(Path(self.directory.name), blocks=BLOCKS, block_length=BLOCK)
        self.content = bytearray(BLOCKS * BLOCK)

    def teardown(self) -> None:
        self.disk.close()
        self.directory.cleanup()

    def fits(self, address: int, count: int) -> bool:
        return address < BLOCKS and address + count <= BLOCKS

    def put(self, address: int, data: bytes) -> None:
        self.content[address * BLOCK : address * BLOCK + len(data)] = data

    def held(self, address: int, count: int) -> bytes:
        return bytes(self.content[address * BLOCK : (address + count) * BLOCK])

    def ends(self, response, address: int, count: int) -> bool:
        """Checks how a command that writes ended; True when it wrote."""
        if not self.fits(address, count):
            assert sense_of(response) == LBA_OUT_OF_RANGE
            return False
        assert response.status == 0, response
        return True

    @rule(command=writes, address=addresses, count=counts, fill=bytes_of_block)
    def write(self, command, address, count, fill):
        data = blocks(fill, count)
        response = send(self.disk, command.encode(logical_block_address=address, transfer_length=count), data=data)
        if self.ends(response, address, count):
            self.put(address, data)

    @rule(address=addresses, count=counts, fill=bytes_of_block)
    def write_atomic(self, address, count, fill):
        data = blocks(fill, count)
        cdb = sbc.WriteAtomic16.encode(logical_block_address=address, transfer_length=count)
        if self.ends(send(self.disk, cdb, data=data), address, count):
            self.put(address, data)

    @rule(
        address=addresses, count=st.integers(1, 20), fill=st.integers(0, 3), unmap=st.booleans(), anchor=st.booleans()
    )
    def write_same(self, address, count, fill, unmap, anchor):
        block = bytes([fill]) * BLOCK
        cdb = sbc.WriteSame16.encode(
            logical_block_address=address, number_of_logical_blocks=count, unmap=unmap, anchor=unmap and anchor
        )
        if self.ends(send(self.disk, cdb, data=block), address, count):
            self.put(address, block * count)

    @rule(ranges=st.lists(st.tuples(st.integers(0, BLOCKS), counts), max_size=4), anchor=st.booleans())
    def unmap(self, ranges, anchor):
        rows = b"".join(
            sbc_pages.UnmapBlockDescriptor.encode(logical_block_address=address, number_of_logical_blocks=count)
            for address, count in ranges
        )
        data = sbc_pages.UnmapParameterListHeader.encode(
            unmap_data_length=6 + len(rows), block_descriptor_data_length=len(rows)
        )
        data += rows
        response = send(self.disk, sbc.Unmap.encode(anchor=anchor, parameter_list_length=len(data)), data=data)
        if any(address + count > BLOCKS for address, count in ranges):
            assert sense_of(response) == LBA_OUT_OF_RANGE
            return
        assert response.status == 0
        for address, count in ranges:
            self.put(address, bytes(count * BLOCK))

    @rule(address=addresses, count=st.integers(1, 20), fill=bytes_of_block, equal=st.booleans())
    def compare_and_write(self, address, count, fill, equal):
        old = bytearray(self.held(address, count).ljust(count * BLOCK, b"\0"))
        if not equal:
            old[fill] ^= 1
        new = blocks(fill, count)
        cdb = sbc.CompareAndWrite.encode(logical_block_address=address, number_of_logical_blocks=count)
        response = send(self.disk, cdb, data=bytes(old) + new)
        if not self.fits(address, count) or equal:
            if self.ends(response, address, count):
                self.put(address, new)
        else:
            assert sense_of(response) == MISCOMPARE
            assert int.from_bytes(response.sense[3:7], "big") == fill

    @rule(address=addresses, count=counts, fill=bytes_of_block)
    def or_write(self, address, count, fill):
        data = blocks(fill, count)
        cdb = sbc.OrWrite16.encode(logical_block_address=address, transfer_length=count)
        if self.ends(send(self.disk, cdb, data=data), address, count):
            self.put(address, bytes(a | b for a, b in zip(self.held(address, count), data, strict=True)))

    @rule(address=addresses, count=counts)
    def verify(self, address, count):
        cdb = sbc.Verify16.encode(logical_block_address=address, verification_length=count, byte_check=1)
        self.ends(send(self.disk, cdb, data=self.held(address, count)), address, count)

    @rule()
    def reset(self):
        self.disk.reset()

    @rule(address=st.integers(0, BLOCKS - 1))
    def status_covers_the_rest(self, address):
        cdb = sbc.GetLbaStatus16.encode(starting_logical_block_address=address, allocation_length=4096)
        data = data_of(send(self.disk, cdb))
        reached = address
        for at in range(8, len(data), 16):
            row = sbc_pages.LbaStatusDescriptor(data[at : at + 16])
            assert row.logical_block_address == reached
            reached += row.number_of_logical_blocks
            if row.provisioning_status:  # deallocated or anchored: LBPRZ
                assert not any(self.held(row.logical_block_address, row.number_of_logical_blocks))
        assert reached == BLOCKS

    @invariant()
    def the_content_is_the_models(self):
        assert read(self.disk, 0, BLOCKS) == self.content


DiskModel.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestDiskModel = DiskModel.TestCase
