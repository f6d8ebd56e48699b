"""Logical block protection over iSCSI: the Linux guest's st and sg3_utils, and libiscsi with blocks of any length."""

import random
from pathlib import Path

import crcmod.predefined
import pytest

from datamover.initiator import InitiatorSession
from tests.interop.guest import Step
from tests.interop.session import run_in_guest
from tests.support import packages
from tests.support.appliance import Appliance
from tests.support.scsi import CHECK_CONDITION, REWIND, Device, mode_select_6, read_6, write_6
from tests.unit.engine.test_reed_solomon import remainder

castagnoli = crcmod.predefined.mkCrcFun("crc-32c")
REMAINDERS = [remainder(bytes([byte])) for byte in range(256)]
NONE, REED_SOLOMON, CRC32C = 0, 1, 2
BLOCK = 2048


def reed_solomon(data: bytes) -> int:
    register = 0
    for byte in data:
        register = register << 8 & 0xFFFFFFFF ^ REMAINDERS[byte ^ register >> 24]
    return register


def sealed(data: bytes, method: int) -> bytes:
    if method == NONE:
        return data
    crc = castagnoli(data).to_bytes(4, "little") if method == CRC32C else reed_solomon(data).to_bytes(4, "big")
    return data + crc


def page(method: int) -> bytes:
    """The Control Data Protection mode page, for writes and reads."""
    return bytes([0x4A, 0xF0, 0, 28, method, 4, 0xC0]) + bytes(25)


def turn(method: int, when: str) -> Step:
    return Step(f"method {method} {when}", f"sg_wr_mode --page=0xa,0xf0 --contents={page(method).hex(',')} $TAPE0_SG")


def read_back(method: int) -> list[Step]:
    length = BLOCK + (4 if method else 0)
    return [
        turn(method, "for reading"),
        Step(
            f"read by {method}", f"mt -f $TAPE0 rewind && dd if=$TAPE0 bs={length} 2>/dev/null | cmp - {share(method)}"
        ),
    ]


def share(method: int) -> str:
    return f"/mnt/share/{method}"


@pytest.mark.guest
def test_a_linux_host_writes_and_reads_protected_blocks(appliance: Appliance, tmp_path: Path) -> None:
    """st knows nothing of it: what it writes is the block with its protection information."""
    packages.require("mt-st", "sg3-utils")
    appliance.load()
    blocks = [random.Random(n).randbytes(BLOCK) for n in range(20)]
    for method in (NONE, REED_SOLOMON, CRC32C):
        (tmp_path / str(method)).write_bytes(b"".join(sealed(data, method) for data in blocks))
    damaged = bytearray(sealed(blocks[0], CRC32C))
    damaged[1000] ^= 0x20
    (tmp_path / "damaged").write_bytes(damaged)
    write_damaged = f"sg_raw --send={len(damaged)} --infile=/mnt/share/damaged $TAPE0_SG 0a 00 00 08 04 00 2>&1"
    done = run_in_guest(
        appliance,
        [
            Step("first contact", "mt -f $TAPE0 status"),
            Step("vpd", "sg_vpd --page=0xb5 $TAPE0_SG && sg_vpd --page=mpp $TAPE0_SG && sg_inq $TAPE0_SG"),
            turn(CRC32C, "for writing"),
            Step("modes", "sg_modes --hex --page=0xa,0xf0 $TAPE0_SG"),
            Step("write", f"dd if={share(CRC32C)} of=$TAPE0 bs={BLOCK + 4} 2>/dev/null"),
            *read_back(NONE),
            *read_back(REED_SOLOMON),
            *read_back(CRC32C),
            Step("damaged", f"mt -f $TAPE0 rewind; {write_damaged}", status=None),
            Step("still there", f"dd if=$TAPE0 bs={BLOCK + 4} 2>/dev/null | cmp - {share(CRC32C)}"),
            turn(NONE, "at the end"),
        ],
        files=[tmp_path / name for name in ("0", "1", "2", "damaged")],
    )
    assert "method: 1, info_len: 4, LBP_W_C=1, LBP_R_C=1, RBDP_C=0" in done["vpd"]
    assert "method: 2, info_len: 4, LBP_W_C=1, LBP_R_C=1, RBDP_C=0" in done["vpd"]
    assert "PROTECT=1" in done["vpd"].upper(), done["vpd"]
    assert "4a f0 00 1c 02 04 c0" in done["modes"]
    assert "Hardware Error" in done["damaged"], done["damaged"]
    assert "guard check failed" in done["damaged"]


@pytest.mark.parametrize("writing", [REED_SOLOMON, CRC32C])
def test_blocks_of_any_length_over_libiscsi(tmp_path: Path, writing: int) -> None:
    """Their four bytes more fall anywhere among PDUs, bursts and padding."""
    lengths = [1, 2, 3, 5, 508, 8188, 8192, 65_531, 65_536, 262_145]
    blocks = [random.Random(n).randbytes(n) for n in lengths]
    with (
        Appliance.with_loaded_drive(tmp_path) as appliance,
        InitiatorSession(appliance.portal, appliance.target_name) as session,
    ):
        drive = Device(session, appliance.lun("drive0"))
        select(drive, writing)
        for data in blocks:
            whole = sealed(data, writing)
            drive.good(write_6(len(whole)), whole)
            damaged = bytearray(whole)
            damaged[len(whole) // 2] ^= 1
            result = drive.command(write_6(len(whole)), bytes(damaged))
            assert result.status == CHECK_CONDITION
            assert (result.sense[2], *result.sense[12:14]) == (4, 0x10, 0x01)
        for reading in (NONE, REED_SOLOMON, CRC32C):
            select(drive, reading)
            drive.good(REWIND)
            for data in blocks:
                whole = sealed(data, reading)
                assert drive.good(read_6(len(whole)), data_in_length=len(whole)) == whole
        assert not appliance.problems()


def select(drive: Device, method: int) -> None:
    data = bytes([0, 0, 0x10, 0]) + page(method)
    drive.good(mode_select_6(len(data)), data)
