"""Every row of every device against the standards' tables of commands allowed in the presence of reservations.

Columns: RESERVE by another initiator (SPC-2 r20 table 9); then by another nexus, with this one unregistered, a
persistent reservation of type Write Exclusive and of type Exclusive Access (SPC-4 r17 table 45, which the Linux
target's core_scsi3_pr_seq_non_holder() cites; SBC-3 table 13; SSC-3 table 10; SMC-3 table 8). The types for registrants
have the same two columns for an unregistered nexus. Vendors agree: Oracle T10000
interface reference, tables 2-2 and 2-3; SL500 interface reference, tables 3-6 and 3-7. SCST's command table agrees on
disks and drives, but for what SPC-4 changed.
"""

from dataclasses import replace
from pathlib import Path

import pytest

from scsi_targets.devices.changer.media_changer import MediaChanger
from scsi_targets.devices.disk.block_device import BlockDevice
from scsi_targets.devices.tape.tape_drive import TapeDrive
from scsi_targets.devices.unit.dispatch import all_rows
from scsi_targets.devices.unit.principal import Permission, Principal
from scsi_targets.devices.unit.task import RESERVATION_CONFLICT
from scsi_targets.t10 import copy_descriptors as copy
from scsi_targets.t10 import sbc, smc, spc, ssc
from scsi_targets.t10.fields import Command
from tests.unit.devices.changer.support import Library
from tests.unit.devices.disk.support import make_disk
from tests.unit.devices.support import BETA, send
from tests.unit.devices.tape.support import loaded_drive

NEVER, WRITE_EXCLUSIVE_ONLY, PERSISTENT, ALWAYS = "CCC", "CAC", "CAA", "AAA"  # C: conflict, A: allowed

# What all devices have: SPC-4 table 45 and SPC-2 table 9.
COMMON: list[tuple[type[Command], dict[str, int], str]] = [
    (spc.TestUnitReady, {}, PERSISTENT),
    (spc.RequestSense, {}, ALWAYS),
    (spc.Inquiry, {}, ALWAYS),
    (spc.ReportLuns, {}, ALWAYS),
    (spc.LogSense, {}, ALWAYS),
    (spc.LogSelect, {}, NEVER),
    (spc.ModeSense6, {}, WRITE_EXCLUSIVE_ONLY),
    (spc.ModeSense10, {}, WRITE_EXCLUSIVE_ONLY),
    (spc.ModeSelect6, {}, NEVER),
    (spc.ModeSelect10, {}, NEVER),
    (spc.Reserve6, {}, NEVER),
    (spc.Reserve10, {}, NEVER),
    # RELEASE does nothing under RESERVE, and conflicts while anybody is registered (SPC-2 5.5.1).
    (spc.Release6, {}, "ACC"),
    (spc.Release10, {}, "ACC"),
    (spc.SendDiagnostic, {}, NEVER),
    (spc.ReceiveDiagnosticResults, {}, WRITE_EXCLUSIVE_ONLY),
    (spc.ReportTargetPortGroups, {}, PERSISTENT),
    (spc.ReportTimestamp, {}, PERSISTENT),
    (spc.SetTimestamp, {}, NEVER),
    (spc.ReportSupportedOperationCodes, {}, WRITE_EXCLUSIVE_ONLY),
    (spc.ReportSupportedTaskManagementFunctions, {}, WRITE_EXCLUSIVE_ONLY),
    (spc.ReadKeys, {}, PERSISTENT),
    (spc.ReadReservation, {}, PERSISTENT),
    (spc.ReportCapabilities, {}, PERSISTENT),
    (spc.ReadFullStatus, {}, PERSISTENT),
    # SPC-4 table 46, for a nexus that is not registered.
    (spc.Register, {}, PERSISTENT),
    (spc.RegisterAndIgnoreExistingKey, {}, PERSISTENT),
    (spc.ReservePersistent, {"type": 1}, NEVER),
    (spc.ReleasePersistent, {"type": 1}, NEVER),
    (spc.ClearPersistent, {}, NEVER),
    (spc.Preempt, {"type": 1}, NEVER),
    (spc.PreemptAndAbort, {"type": 1}, NEVER),
    (spc.RegisterAndMove, {}, NEVER),
    (spc.PreventAllowMediumRemoval, {"prevent": 0}, ALWAYS),
    (spc.PreventAllowMediumRemoval, {"prevent": 1}, NEVER),
]
BUFFERS: list[tuple[type[Command], dict[str, int], str]] = [
    (spc.ReadBuffer, {"mode": 0x0B}, WRITE_EXCLUSIVE_ONLY),
    (spc.WriteBuffer, {"mode": 0x0A}, NEVER),
]
COPIES: list[tuple[type[Command], dict[str, int], str]] = [
    (copy.ExtendedCopyLid1, {}, NEVER),
    (copy.ExtendedCopyLid4, {}, NEVER),
    (copy.ReceiveCopyStatusLid1, {}, NEVER),
    (copy.ReceiveCopyStatusLid4, {}, NEVER),
    (copy.ReceiveCopyFailureDetailsLid1, {}, NEVER),
    (copy.ReceiveCopyOperatingParameters, {}, NEVER),
    (copy.CopyOperationAbort, {}, PERSISTENT),  # it ends nobody's copy but the requester's own
]
DISK: list[tuple[type[Command], dict[str, int], str]] = [
    *[(c, {}, WRITE_EXCLUSIVE_ONLY) for c in (sbc.Read6, sbc.Read10, sbc.Read12, sbc.Read16)],
    *[(c, {}, NEVER) for c in (sbc.Write6, sbc.Write10, sbc.Write12, sbc.Write16, sbc.WriteAtomic16)],
    *[(c, {}, NEVER) for c in (sbc.WriteAndVerify10, sbc.WriteAndVerify12, sbc.WriteAndVerify16)],
    *[(c, {}, WRITE_EXCLUSIVE_ONLY) for c in (sbc.Verify10, sbc.Verify12, sbc.Verify16)],
    *[(c, {}, WRITE_EXCLUSIVE_ONLY) for c in (sbc.PreFetch10, sbc.PreFetch16)],
    *[(c, {}, NEVER) for c in (sbc.SynchronizeCache10, sbc.SynchronizeCache16)],
    *[(c, {}, NEVER) for c in (sbc.WriteSame10, sbc.WriteSame16, sbc.Unmap, sbc.CompareAndWrite, sbc.OrWrite16)],
    *[(c, {}, ALWAYS) for c in (sbc.ReadCapacity10, sbc.ReadCapacity16)],
    *[(c, {}, WRITE_EXCLUSIVE_ONLY) for c in (sbc.ReadDefectData10, sbc.ReadDefectData12, sbc.GetLbaStatus16)],
    (sbc.StartStopUnit, {"start": 1}, ALWAYS),
    (sbc.StartStopUnit, {"start": 0}, NEVER),
    (sbc.StartStopUnit, {"start": 1, "power_condition": 2}, NEVER),
    (sbc.FormatUnit, {}, NEVER),
    *[(c, {}, NEVER) for c in (sbc.SanitizeOverwrite, sbc.SanitizeBlockErase, sbc.SanitizeCryptographicErase)],
    (sbc.SanitizeExitFailureMode, {}, NEVER),
]
TAPE: list[tuple[type[Command], dict[str, int], str]] = [
    *[(c, {}, WRITE_EXCLUSIVE_ONLY) for c in (ssc.Read6, ssc.Verify6, ssc.Rewind, ssc.Space6, ssc.Space16)],
    *[(c, {}, WRITE_EXCLUSIVE_ONLY) for c in (ssc.Locate10, ssc.Locate16)],
    *[(c, {}, WRITE_EXCLUSIVE_ONLY) for c in (ssc.ReadPositionShort, ssc.ReadPositionShortVendor)],
    *[(c, {}, WRITE_EXCLUSIVE_ONLY) for c in (ssc.ReadPositionLong, ssc.ReadPositionExtended)],
    *[(c, {}, NEVER) for c in (ssc.Write6, ssc.WriteFilemarks6, ssc.Erase6, ssc.FormatMedium, ssc.SetCapacity)],
    *[(c, {}, NEVER) for c in (ssc.AllowOverwrite, ssc.LoadUnload, ssc.WriteAttribute)],
    *[(c, {}, ALWAYS) for c in (ssc.ReadBlockLimits, ssc.ReportDensitySupport, ssc.ReadMediaSerialNumber)],
    *[(c, {}, WRITE_EXCLUSIVE_ONLY) for c in (ssc.ReadAttributeValues, ssc.ReadAttributeList)],
    *[(c, {}, WRITE_EXCLUSIVE_ONLY) for c in (ssc.ReadSupportedAttributes, ssc.ReadLogicalVolumeList)],
    (ssc.ReadPartitionList, {}, WRITE_EXCLUSIVE_ONLY),
    (spc.SecurityProtocolIn, {}, WRITE_EXCLUSIVE_ONLY),
    (spc.SecurityProtocolOut, {}, NEVER),
]
CHANGER: list[tuple[type[Command], dict[str, int], str]] = [
    *[(c, {}, NEVER) for c in (smc.MoveMedium, smc.ExchangeMedium, smc.PositionToElement)],
    *[(c, {}, NEVER) for c in (smc.InitializeElementStatus, smc.InitializeElementStatusWithRange)],
    (smc.InitializeElementStatusWithRangeVendor, {}, NEVER),
    *[(c, {}, NEVER) for c in (smc.SendVolumeTag, smc.RequestVolumeElementAddress)],
    (smc.ReadElementStatus, {"current_data": 1}, ALWAYS),
    (smc.ReadElementStatus, {"current_data": 0}, NEVER),
    (smc.ReadElementStatus, {"current_data": 1, "device_identifier": 1}, NEVER),
]
TABLES = {
    BlockDevice: COMMON + BUFFERS + COPIES + DISK,
    TapeDrive: COMMON + BUFFERS + COPIES + TAPE,
    MediaChanger: COMMON + CHANGER,
}


def a_unit(kind: type, directory: Path):
    if kind is BlockDevice:
        disk = make_disk(directory)
        yield disk
        disk.close()
    elif kind is TapeDrive:
        yield from loaded_drive(directory)
    else:
        library = Library(directory)
        yield library.changer
        library.close()


def out(unit, action: int, key: int, action_key: int, type_: int = 0) -> None:
    data = key.to_bytes(8, "big") + action_key.to_bytes(8, "big") + bytes(8)
    assert send(unit, bytes([0x5F, action, type_, 0, 0, 0, 0, 0, 24, 0]), data=data).status == 0


def reserve(unit, how: int) -> None:
    """ALPHA takes the unit by RESERVE (0) or by a persistent reservation of that type."""
    if how:
        out(unit, 0, 0, 1)
        out(unit, 1, 1, 0, how)
    else:
        assert send(unit, spc.Reserve6.encode()).status == 0


# REGISTER AND MOVE's parameter list, to a port that could be; all others are sent zeros.
MOVE_TO = b"\x45\0\0\x2c" + b"iqn.2026-11.test:gamma,i,0x000000000000".ljust(44, b"\0")
REGISTER_AND_MOVE = bytes(18) + (1).to_bytes(2, "big") + len(MOVE_TO).to_bytes(4, "big") + MOVE_TO


def conflicts(unit, command: type[Command], fields: dict[str, int]) -> bool:
    data = REGISTER_AND_MOVE if command is spc.RegisterAndMove else bytes(24)
    if issubclass(command, spc.PersistentReserveOutCommand):
        fields = fields | {"parameter_list_length": len(data)}
    return send(unit, command.encode(**fields), nexus=BETA, data=data).status == RESERVATION_CONFLICT


@pytest.mark.parametrize("kind", TABLES, ids=lambda kind: kind.__name__)
def test_the_table_has_every_row(tmp_path, kind):
    units = a_unit(kind, tmp_path)
    assert {row.command for row in all_rows(next(units).rows)} == {command for command, _, _ in TABLES[kind]}
    units.close()


@pytest.mark.parametrize(("type_", "column"), [(0, 0), (1, 1), (3, 2), (5, 1), (6, 2), (7, 1), (8, 2)])
@pytest.mark.parametrize("kind", TABLES, ids=lambda kind: kind.__name__)
def test_another_nexus_conflicts_as_the_tables_say(tmp_path, kind, type_, column):
    units = a_unit(kind, tmp_path)
    unit = next(units)
    reserve(unit, type_)
    found = [(c.__name__, fields, conflicts(unit, c, fields)) for c, fields, _ in TABLES[kind]]
    assert found == [(c.__name__, fields, columns[column] == "C") for c, fields, columns in TABLES[kind]]
    units.close()


@pytest.mark.parametrize("kind", [BlockDevice, TapeDrive], ids=lambda kind: kind.__name__)
def test_a_unit_that_is_lent_conflicts_with_everybody_else(tmp_path, kind):
    """As if another nexus had reserved it (RESERVE), and PERSISTENT RESERVE OUT takes nothing over."""
    units = a_unit(kind, tmp_path)
    unit = next(units)
    lender = Principal.key("0123456789abcdef")
    assert unit.lend(lender) and unit.lend(lender)
    assert not unit.lend(Principal.key("another"))
    uses = {row.command: row.permission for row in all_rows(unit.rows)}
    harmless = {c for c, use in uses.items() if not use & ~Permission.READ_PARAMETERS}
    for command, fields, columns in TABLES[kind]:
        expected = columns[0] == "C" or command not in harmless
        assert conflicts(unit, command, fields) == expected, command
    own = replace(BETA, principal=lender)
    unit.nexus_established(own)
    unit.take_unit_attention(own)
    assert send(unit, spc.TestUnitReady.encode(), nexus=own).status in (0, 2)
    unit.take_back()
    reserve(unit, 0)
    assert not unit.lend(lender)
    units.close()


@pytest.mark.parametrize("kind", TABLES, ids=lambda kind: kind.__name__)
def test_a_prevention_can_be_ended_by_its_nexus_when_another_reserves(tmp_path, kind):
    """Else both are stuck: the one cannot unload, the other cannot allow it."""
    units = a_unit(kind, tmp_path)
    unit = next(units)
    for type_ in (0, 3):
        assert send(unit, spc.PreventAllowMediumRemoval.encode(prevent=1), nexus=BETA).status == 0
        reserve(unit, type_)
        assert send(unit, spc.PreventAllowMediumRemoval.encode(prevent=0), nexus=BETA).status == 0
        if not type_:
            assert send(unit, spc.Release6.encode()).status == 0
    units.close()
