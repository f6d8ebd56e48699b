"""READ CAPACITY, READ DEFECT DATA, the VPD pages of disks, mode parameter headers and block descriptors."""

import pytest

from scsi_targets.t10 import sbc, sbc_pages, sense, spc
from tests.unit.devices.disk.support import BLOCKS, make_disk, read, write
from tests.unit.devices.support import ALPHA, BETA, data_of, send, sense_of


def vpd(disk, page):
    cdb = spc.Inquiry.encode(enable_vital_product_data=1, page_code=page, allocation_length=255)
    data = data_of(send(disk, cdb))
    assert int.from_bytes(data[2:4], "big") == len(data) - 4
    return data


def test_read_capacity_tells_the_last_block(disk):
    assert data_of(send(disk, sbc.ReadCapacity10.encode())) == (BLOCKS - 1).to_bytes(4, "big") + (512).to_bytes(
        4, "big"
    )
    data = sbc_pages.ReadCapacity16Data(data_of(send(disk, sbc.ReadCapacity16.encode(allocation_length=32))))
    assert data.returned_logical_block_address == BLOCKS - 1
    assert data.logical_block_length == 512
    assert (data.provisioning_management_enabled, data.provisioning_read_zeros) == (1, 1)
    assert data.protection_enable == 0
    assert len(data_of(send(disk, sbc.ReadCapacity16.encode(allocation_length=12)))) == 12
    assert sense_of(send(disk, sbc.ReadCapacity10.encode(logical_block_address=1))) == (5, 0x24, 0)
    assert send(disk, sbc.ReadCapacity10.encode(logical_block_address=1, partial_medium_indicator=1)).status == 0


def test_a_disk_of_more_than_two_to_the_32_blocks(tmp_path):
    disk = make_disk(tmp_path, blocks=(1 << 32) + 8)
    assert data_of(send(disk, sbc.ReadCapacity10.encode()))[:4] == b"\xff" * 4
    data = data_of(send(disk, sbc.ReadCapacity16.encode(allocation_length=32)))
    assert int.from_bytes(data[:8], "big") == (1 << 32) + 7
    write(disk, (1 << 32) + 7, b"z" * 512)
    assert read(disk, (1 << 32) + 7) == b"z" * 512
    header = data_of(send(disk, spc.ModeSense10.encode(page_code=8, long_lba_accepted=1, allocation_length=255)))
    assert header[4] & 1
    assert sbc_pages.LongBlockDescriptor(header[8:24]).number_of_logical_blocks == (1 << 32) + 8
    short = data_of(send(disk, spc.ModeSense6.encode(page_code=8, allocation_length=255)))
    assert short[4:8] == b"\xff" * 4
    disk.close()


def test_physical_blocks(tmp_path):
    disk = make_disk(tmp_path, physical_block_length=4096)
    data = sbc_pages.ReadCapacity16Data(data_of(send(disk, sbc.ReadCapacity16.encode(allocation_length=32))))
    assert data.logical_blocks_per_physical_block_exponent == 3
    disk.close()
    for index, wrong in enumerate(({"block_length": 520}, {"physical_block_length": 1536})):
        with pytest.raises(ValueError, match="no disk has logical blocks"):
            make_disk(tmp_path, name=f"wrong{index}", **wrong)


def test_defect_lists_are_empty(disk):
    data = data_of(
        send(disk, sbc.ReadDefectData10.encode(request_grown_list=1, defect_list_format=5, allocation_length=32))
    )
    assert data == bytes([0, 0x0D, 0, 0])
    data = data_of(send(disk, sbc.ReadDefectData12.encode(request_primary_list=1, allocation_length=32)))
    assert data == bytes([0, 0x10, 0, 0, 0, 0, 0, 0])


def test_vpd_pages_of_a_disk(disk):
    pages = vpd(disk, 0x00)[4:]
    assert {0x80, 0x83, 0x86, 0xB0, 0xB1, 0xB2} <= set(pages)
    limits = vpd(disk, 0xB0)
    assert len(limits) == 64
    limits = sbc_pages.BlockLimits(limits)
    assert limits.maximum_unmap_lba_count == 0xFFFFFFFF
    assert limits.write_same_non_zero == 0
    assert limits.maximum_write_same_length == 0xFFFF
    assert limits.optimal_unmap_granularity == max(4096, disk.image.allocation_unit) // 512
    assert len(vpd(disk, 0xB1)) == 64
    provisioning = sbc_pages.LogicalBlockProvisioning(vpd(disk, 0xB2))
    assert (provisioning.unmap_supported, provisioning.read_zeros, provisioning.provisioning_type) == (1, 1, 2)


def test_a_disk_that_cannot_give_back_space_says_so(disk, monkeypatch):
    monkeypatch.setattr(disk.image, "can_deallocate", False)
    assert sbc_pages.BlockLimits(vpd(disk, 0xB0)).maximum_unmap_lba_count == 0
    provisioning = sbc_pages.LogicalBlockProvisioning(vpd(disk, 0xB2))
    assert (provisioning.unmap_supported, provisioning.provisioning_type) == (0, 0)
    assert data_of(send(disk, sbc.ReadCapacity16.encode(allocation_length=32)))[14] == 0
    disk.offer_commands()
    assert sense_of(send(disk, sbc.Unmap.encode(), data=b"")) == (5, 0x20, 0)
    listed = data_of(send(disk, bytes([0xA3, 0x0C, 0, 0, 0, 0, 0, 0, 0xFF, 0xFF])))
    assert sbc.Unmap.opcode not in listed[4::8]
    assert sense_of(send(disk, sbc.WriteSame16.encode(unmap=1), data=bytes(512))) == (5, 0x24, 0)


def test_mode_pages_and_what_can_be_changed(disk):
    changeable = data_of(send(disk, spc.ModeSense6.encode(page_code=8, page_control=1, allocation_length=255)))
    assert changeable[4:12] == bytes(8)
    assert changeable[12:] == bytes([0x88, 18, 0x04]) + bytes(17)
    everything = data_of(send(disk, spc.ModeSense6.encode(page_code=0x3F, allocation_length=255)))
    assert everything[2] == 0x10  # DPOFUA, and not write protected
    codes, at = [], 12
    while at < len(everything):
        codes.append(everything[at] & 0x3F)
        at += 2 + everything[at + 1]
    assert codes == [0x01, 0x02, 0x08, 0x0A, 0x1C]


def select(disk, page_code, offset, mask, *, nexus=ALPHA):
    cdb = spc.ModeSense10.encode(page_code=page_code, allocation_length=255)
    page = bytearray(data_of(send(disk, cdb)))
    page[:2] = bytes(2)
    page[3] = 0
    page[16 + offset] ^= mask
    return send(
        disk, spc.ModeSelect10.encode(page_format=1, parameter_list_length=len(page)), data=bytes(page), nexus=nexus
    )


def test_software_write_protect(disk):
    disk.nexus_established(BETA)
    assert sense_of(send(disk, bytes(6), nexus=BETA))[0] == sense.UNIT_ATTENTION
    assert select(disk, 0x0A, 4, 0x08).status == 0
    assert sense_of(send(disk, bytes(6), nexus=BETA)) == (6, 0x2A, 1)
    assert sense_of(write(disk, 0, b"x" * 512)) == (7, 0x27, 2)
    assert data_of(send(disk, spc.ModeSense6.encode(page_code=8, allocation_length=4)))[2] & 0x80
    assert read(disk, 0) == bytes(512)
    disk.reset()  # SWP was not saved
    assert write(disk, 0, b"x" * 512).status == 0


def test_saved_pages_survive(tmp_path):
    disk = make_disk(tmp_path, state_key="disk/a")
    page = bytes(4) + bytes([0x08, 18, 0x00]) + bytes(17)
    assert (
        send(disk, spc.ModeSelect6.encode(page_format=1, save_pages=1, parameter_list_length=24), data=page).status == 0
    )
    again = type(disk)(disk.identity, disk.image, store=disk.store, state_key="disk/a")
    assert not again.writeback_cache
    disk.close()


def test_block_descriptors_change_nothing(disk):
    def select_descriptor(blocks, length):
        data = bytes([0, 0, 0, 8]) + sbc_pages.ShortBlockDescriptor.encode(
            number_of_logical_blocks=blocks, logical_block_length=length
        )
        return send(disk, spc.ModeSelect6.encode(page_format=1, parameter_list_length=12), data=data)

    for blocks in (0, BLOCKS, 0xFFFFFFFF):
        assert select_descriptor(blocks, 512).status == 0
    assert sense_of(select_descriptor(BLOCKS - 1, 512)) == (5, 0x26, 0)
    assert sense_of(select_descriptor(0, 4096)) == (5, 0x26, 0)
