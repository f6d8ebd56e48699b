"""COMPARE AND WRITE and ORWRITE: result, refusals, and that they are one action beside other commands."""

import threading

from scsi_targets.t10 import sbc, sbc_pages
from tests.unit.devices.disk.support import BLOCKS, make_disk, pattern, read, write
from tests.unit.devices.support import BETA, send, sense_of


def compare_and_write(disk, address, old, new, **task):
    cdb = sbc.CompareAndWrite.encode(logical_block_address=address, number_of_logical_blocks=len(old) // 512)
    return send(disk, cdb, data=old + new, **task)


def test_it_writes_when_all_is_equal(disk):
    old, new = pattern(1) + pattern(2), pattern(3) + pattern(4)
    write(disk, 10, old)
    assert compare_and_write(disk, 10, old, new).data_length == 2048
    assert read(disk, 9, 4) == bytes(512) + new + bytes(512)


def test_a_difference_is_a_miscompare_and_nothing_is_written(disk):
    write(disk, 0, pattern(1) + pattern(2))
    old = bytearray(pattern(1) + pattern(2))
    old[1000] ^= 0xFF
    response = compare_and_write(disk, 0, bytes(old), bytes(1024))
    assert sense_of(response) == (0xE, 0x1D, 0)
    assert int.from_bytes(response.sense[3:7], "big") == 1000
    assert read(disk, 0, 2) == pattern(1) + pattern(2)


def test_the_data_must_be_twice_the_blocks(disk):
    cdb = sbc.CompareAndWrite.encode(number_of_logical_blocks=3)
    for size in (0, 512, 5 * 512, 7 * 512):
        assert sense_of(send(disk, cdb, data=bytes(size))) == (5, 0x0E, 3)
    nothing = sbc.CompareAndWrite.encode(number_of_logical_blocks=0)
    assert send(disk, nothing, data=bytes(512)).status == 0
    assert sense_of(send(disk, nothing, data=bytes(512 * 512))) == (5, 0x24, 0)  # 256 blocks, that is
    assert sense_of(compare_and_write(disk, BLOCKS, bytes(512), bytes(512))) == (5, 0x21, 0)


def test_two_nexuses_that_count_with_it_lose_no_count(disk):
    rounds, misses = 300, []

    def count(**task):
        done = 0
        while done < rounds:
            now = read(disk, 0)
            following = (int.from_bytes(now[:8], "big") + 1).to_bytes(8, "big") + bytes(504)
            if compare_and_write(disk, 0, now, following, **task).status == 0:
                done += 1
            else:
                misses.append(1)

    other = threading.Thread(target=count, kwargs={"nexus": BETA})
    other.start()
    count()
    other.join()
    assert int.from_bytes(read(disk, 0)[:8], "big") == 2 * rounds


def test_no_reader_sees_half_of_an_atomic_write(disk):
    blocks, torn = 256, []
    versions = [bytes([number]) * 512 * blocks for number in range(1, 9)]
    assert write_atomic(disk, 0, versions[0]).status == 0
    done = threading.Event()

    def watch():
        while not done.is_set():
            if len(set(read(disk, 0, blocks))) != 1:
                torn.append(1)

    watchers = [threading.Thread(target=watch) for _ in range(2)]
    for watcher in watchers:
        watcher.start()
    for data in versions * 5:
        assert write_atomic(disk, 0, data).status == 0
    done.set()
    for watcher in watchers:
        watcher.join()
    assert not torn


def test_or_write(disk):
    write(disk, 1, b"\x0f" * 1024)
    cdb = sbc.OrWrite16.encode(logical_block_address=1, transfer_length=2)
    assert send(disk, cdb, data=b"\xa0" * 1024).data_length == 1024
    assert read(disk, 0, 4) == bytes(512) + b"\xaf" * 1024 + bytes(512)
    assert sense_of(send(disk, sbc.OrWrite16.encode(logical_block_address=BLOCKS), data=b"")) == (5, 0x21, 0)
    assert sense_of(send(disk, sbc.OrWrite16.encode(transfer_length=1, protect=2), data=bytes(512))) == (5, 0x24, 0)


def limits(disk):
    return sbc_pages.BlockLimits(b"\0\xb0\0\x3c" + disk.vpd_pages[0xB0](None))


def write_atomic(disk, address, data, **fields):
    cdb = sbc.WriteAtomic16.encode(
        logical_block_address=address, transfer_length=len(data) // disk.block_length, **fields
    )
    return send(disk, cdb, data=data)


def test_write_atomic(disk):
    assert limits(disk).maximum_atomic_transfer_length == (1 << 20) // 512
    assert limits(disk).atomic_alignment == 0
    data = pattern(1) + pattern(2)
    assert write_atomic(disk, 3, data).data_length == 1024
    assert read(disk, 2, 4) == bytes(512) + data + bytes(512)
    assert write_atomic(disk, 3, b"").status == 0
    assert sense_of(write_atomic(disk, BLOCKS - 1, data)) == (5, 0x21, 0)
    assert sense_of(write_atomic(disk, 0, data, atomic_boundary=1)) == (5, 0x24, 0)
    assert sense_of(write_atomic(disk, 0, data, protect=1)) == (5, 0x24, 0)
    too_long = sbc.WriteAtomic16.encode(transfer_length=limits(disk).maximum_atomic_transfer_length + 1)
    assert sense_of(send(disk, too_long, data=b"")) in {(5, 0x24, 0), (5, 0x21, 0)}
    assert sense_of(send(disk, sbc.WriteAtomic16.encode(transfer_length=2), data=bytes(512))) == (5, 0x0E, 3)


def test_write_atomic_keeps_to_physical_blocks(tmp_path):
    disk = make_disk(tmp_path, physical_block_length=4096)
    assert (limits(disk).atomic_alignment, limits(disk).atomic_transfer_length_granularity) == (8, 8)
    assert write_atomic(disk, 8, bytes(4096)).status == 0
    assert sense_of(write_atomic(disk, 1, bytes(4096))) == (5, 0x24, 0)
    assert sense_of(write_atomic(disk, 0, bytes(512))) == (5, 0x24, 0)
    assert sense_of(write_atomic(disk, BLOCKS + 8, b"")) == (5, 0x21, 0)
    disk.close()
