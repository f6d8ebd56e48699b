"""docs/disks.md names every command, mode page, log page and VPD page of a disk, and the limits the code has."""

import re
from pathlib import Path

from scsi_targets.devices.disk import capacity as block_capacity
from scsi_targets.devices.unit.dispatch import all_rows
from vlib_images.disk.image import MAX_ATOMIC_BYTES

TEXT = (Path(__file__).parents[4] / "docs" / "disks.md").read_text(encoding="utf-8")
TABLE = TEXT.partition("## Commands")[2].partition("\n## ")[0]


def line_with(words: str) -> str:
    (found,) = [line for line in TABLE.splitlines() if words in line]
    return found


def codes(text: str) -> set[int]:
    return {int(code, 16) for code in re.findall(r"\b([0-9A-F]{2})h\b", text)}


def test_every_command_is_listed_once_and_none_that_is_not_there(disk):
    rows = [line.split("|")[1] for line in TABLE.splitlines() if line.startswith("| ")]
    listed = [code for row in rows for code in re.findall(r"[0-9A-F]{2}h(?:/[0-9A-F]{2}h)?", row)]
    supported = []
    for row in all_rows(disk.rows):
        action = row.command.service_action
        supported.append(f"{row.command.opcode:02X}h" + ("" if action is None else f"/{action:02X}h"))
    assert sorted(listed) == sorted(supported)


def test_pages(disk):
    assert codes(line_with("INQUIRY").split("|")[2]) == set(disk.vpd_pages)
    modes = line_with("MODE SENSE").split("|")[2]
    assert codes(modes) == {page for page, _ in disk.mode.select_pages(0x3F, 0xFF)}
    assert codes(line_with("LOG SENSE").split("|")[2]) == {0x00} | {page for page, _ in disk.log_pages}


def test_limits():
    assert f"up to {block_capacity.MAX_COMPARE_AND_WRITE_BLOCKS} blocks" in line_with("COMPARE AND WRITE")
    assert f"up to {MAX_ATOMIC_BYTES >> 20} MiB" in line_with("WRITE ATOMIC")
    assert f"up to {block_capacity.MAX_UNMAP_DESCRIPTORS} ranges" in line_with("UNMAP: 42h")
    assert f"at most {block_capacity.LIMIT_TRANSFER_BYTES >> 20} MiB" in TEXT
