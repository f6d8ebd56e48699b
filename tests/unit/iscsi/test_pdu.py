"""Every declared PDU, both ways; positions checked against bytes laid out by hand from RFC 7143's figures."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scsi_targets.iscsi import pdu
from scsi_targets.iscsi.pdu import PDU_CLASSES, Pdu, PduFormatError, decode_pdu

INITIATOR_OPCODES = {0x00, 0x01, 0x02, 0x03, 0x04, 0x05, 0x06, 0x10}
TARGET_OPCODES = {0x20, 0x21, 0x22, 0x23, 0x24, 0x25, 0x26, 0x31, 0x32, 0x3F}


def test_every_opcode_of_the_rfc_is_declared() -> None:
    assert set(PDU_CLASSES) == INITIATOR_OPCODES | TARGET_OPCODES


@pytest.mark.parametrize("cls", PDU_CLASSES.values(), ids=lambda cls: cls.__name__)
@settings(deadline=None)
@given(data=st.data())
def test_fields_survive_encoding(cls: type[Pdu], data: st.DataObject) -> None:
    names = set(cls.fields) - {"data_segment_length"}
    values = {name: data.draw(st.integers(0, (1 << cls.fields[name].width) - 1), name) for name in sorted(names)}
    segment = data.draw(st.binary(max_size=9))
    made = cls.make(segment, **values)
    again = decode_pdu(made.raw, segment)
    assert type(again) is cls
    assert again.values() == values | {"data_segment_length": len(segment)}
    assert len(made.to_bytes()) == 48 + (len(segment) + 3) // 4 * 4


@pytest.mark.parametrize("cls", PDU_CLASSES.values(), ids=lambda cls: cls.__name__)
def test_defaults_are_what_the_rfc_fixes(cls: type[Pdu]) -> None:
    made = cls.make()
    assert made.initiator_task_tag == 0xFFFFFFFF
    if "target_transfer_tag" in cls.fields:
        assert made.values()["target_transfer_tag"] == 0xFFFFFFFF


VECTORS = [
    (
        pdu.LoginRequest.make(
            b"A=1\0", immediate=1, transit=1, current_stage=1, next_stage=3, isid=0x80_112233_4455, tsih=0x0102,
            initiator_task_tag=0x0A0B0C0D, connection_id=0x0E0F, cmd_sn=0x10111213, exp_stat_sn=0x14151617,
        ),
        "43 87 00 00 00 000004 801122334455 0102 0a0b0c0d 0e0f 0000 10111213 14151617",
    ),
    (
        pdu.LoginResponse.make(
            transit=1, continue_=0, current_stage=0, next_stage=1, version_max=1, version_active=2, isid=3, tsih=4,
            initiator_task_tag=5, stat_sn=6, exp_cmd_sn=7, max_cmd_sn=8, status=0x0201,
        ),
        "23 81 01 02 00 000000 000000000003 0004 00000005 00000000 00000006 00000007 00000008 0201 0000",
    ),
    (
        pdu.TextResponse.make(continue_=1, lun=1, initiator_task_tag=2, target_transfer_tag=3, stat_sn=4),
        "24 40 0000 00 000000 0000000000000001 00000002 00000003 00000004",
    ),
    (
        pdu.TaskManagementRequest.make(function=5, lun=1 << 48, initiator_task_tag=2, ref_cmd_sn=9, exp_data_sn=10),
        "02 85 0000 00 000000 0001000000000000 00000002 ffffffff 00000000 00000000 00000009 0000000a",
    ),
    (
        pdu.LogoutRequest.make(immediate=1, reason=2, initiator_task_tag=1, connection_id=7, cmd_sn=3, exp_stat_sn=4),
        "46 82 0000 00 000000 0000000000000000 00000001 0007 0000 00000003 00000004",
    ),
    (
        pdu.LogoutResponse.make(response=2, initiator_task_tag=1, time2wait=3, time2retain=4),
        "26 80 02 00 00 000000 0000000000000000 00000001 00000000 00000000 00000000 00000000 00000000 00030004",
    ),
    (
        pdu.AsyncMessage.make(async_event=1, async_vcode=2, parameter1=3, parameter2=4, parameter3=5),
        "32 80 0000 00 000000 0000000000000000 ffffffff 00000000 00000000 00000000 00000000 01 02 0003 0004 0005",
    ),
    (
        pdu.Reject.make(reason=4, stat_sn=1, data_sn=2),
        "3f 80 04 00 00 000000 0000000000000000 ffffffff 00000000 00000001 00000000 00000000 00000002",
    ),
    (
        pdu.ScsiCommandRequest.make(
            final=1, read=1, write=1, task_attribute=1, lun=2, initiator_task_tag=3,
            expected_data_transfer_length=4, cmd_sn=5, exp_stat_sn=6, cdb=0x12 << 120,
        ),
        "01 e1 0000 00 000000 0000000000000002 00000003 00000004 00000005 00000006 12000000",
    ),
    (
        pdu.ScsiResponse.make(overflow=1, underflow=1, response=1, status=2, initiator_task_tag=3, exp_data_sn=4,
                              bidirectional_read_residual_count=5, residual_count=6),
        "21860102 00 000000 0000000000000000 00000003 00000000 00000000 00000000 00000000 00000004 00000005 00000006",
    ),
    (
        pdu.DataIn.make(final=1, status_present=1, underflow=1, status=2, lun=1, initiator_task_tag=3, data_sn=4,
                        buffer_offset=5, residual_count=6),
        "25830002 00 000000 0000000000000001 00000003 ffffffff 00000000 00000000 00000000 00000004 00000005 00000006",
    ),
    (
        pdu.ReadyToTransfer.make(lun=1, initiator_task_tag=2, target_transfer_tag=3, r2t_sn=4, buffer_offset=5,
                                 desired_data_transfer_length=6),
        "31800000 00 000000 0000000000000001 00000002 00000003 00000000 00000000 00000000 00000004 00000005 00000006",
    ),
    (
        pdu.SnackRequest.make(type=1, lun=1, initiator_task_tag=2, beg_run=3, run_length=4),
        "10 81 0000 00 000000 0000000000000001 00000002 ffffffff 00000000 00000000 00000000 00000000 00000003 00000004",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("made", "laid_out"), VECTORS, ids=lambda value: type(value).__name__)
def test_positions(made: Pdu, laid_out: str) -> None:
    assert made.raw.hex(" ", 4) == bytes.fromhex(laid_out).ljust(48, b"\0").hex(" ", 4)


def test_values_that_do_not_fit_and_unknown_names_are_refused() -> None:
    with pytest.raises(ValueError, match="does not fit"):
        pdu.NopIn.make(initiator_task_tag=1 << 32)
    with pytest.raises(TypeError, match="no field"):
        pdu.NopIn.make(no_such_field=1)


@settings(deadline=None)
@given(st.binary(max_size=64))
def test_junk_is_decoded_or_refused(junk: bytes) -> None:
    try:
        decoded = decode_pdu(junk)
    except PduFormatError:
        assert len(junk) != 48 or junk[0] & 0x3F not in PDU_CLASSES
    else:
        assert decoded.raw == junk
