"""Which right each command takes, for every row of every device; and what a view without it answers."""

import pytest

from scsi_targets.devices.unit.dispatch import all_rows
from scsi_targets.devices.unit.principal import Permission, Principal
from scsi_targets.devices.unit.task import Task
from scsi_targets.devices.unit.view import View
from scsi_targets.t10 import copy_descriptors as copy
from scsi_targets.t10 import sbc, smc, spc, ssc
from tests.unit.devices.disk.support import make_disk
from tests.unit.devices.support import ALPHA, TARGET, data_of, sense_of
from tests.unit.devices.unit.test_reservation_rules import TABLES, a_unit

NOTHING = {spc.Inquiry, spc.ReportLuns, spc.RequestSense}
RESERVE = {
    spc.Reserve6, spc.Reserve10, spc.Release6, spc.Release10, spc.Register, spc.RegisterAndIgnoreExistingKey,
    spc.ReservePersistent, spc.ReleasePersistent, spc.ClearPersistent, spc.Preempt, spc.PreemptAndAbort,
    spc.RegisterAndMove,
}  # fmt: skip
WRITE_PARAMETERS = {
    spc.ModeSelect6, spc.ModeSelect10, spc.LogSelect, spc.WriteBuffer, spc.SendDiagnostic, spc.SetTimestamp,
    ssc.WriteAttribute, spc.SecurityProtocolOut, copy.ExtendedCopyLid1, copy.ExtendedCopyLid4,
    copy.CopyOperationAbort,
}  # fmt: skip
WRITE_DATA = {
    sbc.Write6, sbc.Write10, sbc.Write12, sbc.Write16, sbc.WriteAndVerify10, sbc.WriteAndVerify12,
    sbc.WriteAndVerify16, sbc.WriteAtomic16, sbc.WriteSame10, sbc.WriteSame16, sbc.Unmap, sbc.CompareAndWrite,
    sbc.OrWrite16, sbc.FormatUnit, sbc.SanitizeOverwrite, sbc.SanitizeBlockErase, sbc.SanitizeCryptographicErase,
    sbc.SanitizeExitFailureMode,
    ssc.Write6, ssc.WriteFilemarks6, ssc.Erase6, ssc.FormatMedium, ssc.SetCapacity, ssc.AllowOverwrite,
}  # fmt: skip
READ_DATA = {
    sbc.Read6, sbc.Read10, sbc.Read12, sbc.Read16, sbc.Verify10, sbc.Verify12, sbc.Verify16, sbc.PreFetch10,
    sbc.PreFetch16, sbc.SynchronizeCache10, sbc.SynchronizeCache16, sbc.ReadCapacity10, sbc.ReadCapacity16,
    sbc.ReadDefectData10, sbc.ReadDefectData12, sbc.GetLbaStatus16, sbc.StartStopUnit,
    ssc.Read6, ssc.Verify6, ssc.Rewind, ssc.Space6, ssc.Space16, ssc.Locate10, ssc.Locate16, ssc.ReadPositionShort,
    ssc.ReadPositionShortVendor, ssc.ReadPositionLong, ssc.ReadPositionExtended, ssc.ReadMediaSerialNumber,
    ssc.LoadUnload,
}  # fmt: skip
MOVE = {
    smc.MoveMedium, smc.ExchangeMedium, smc.PositionToElement, smc.InitializeElementStatus,
    smc.InitializeElementStatusWithRange, smc.InitializeElementStatusWithRangeVendor,
}  # fmt: skip
TABLE = {
    Permission(0): NOTHING, Permission.RESERVE: RESERVE, Permission.WRITE_PARAMETERS: WRITE_PARAMETERS,
    Permission.WRITE_DATA: WRITE_DATA, Permission.READ_DATA: READ_DATA, Permission.MOVE: MOVE,
}  # fmt: skip


@pytest.mark.parametrize("kind", TABLES, ids=lambda kind: kind.__name__)
def test_every_row_takes_the_right_of_the_table(tmp_path, kind):
    units = a_unit(kind, tmp_path)
    for row in all_rows(next(units).rows):
        if row.command is spc.PreventAllowMediumRemoval:
            expected = Permission.MOVE if kind.device_type == 8 else Permission.READ_DATA
        else:
            found = [right for right, commands in TABLE.items() if row.command in commands]
            (expected,) = found or [Permission.READ_PARAMETERS]
        assert row.permission == expected, row.command
    units.close()


def test_a_view_that_may_only_read(tmp_path):
    disk = make_disk(tmp_path)
    granted = Permission.READ_DATA | Permission.READ_PARAMETERS
    view = View(Principal.initiator(ALPHA.initiator_name), TARGET, {0: disk, 1: disk}, permissions={0: granted})

    def execute(lun: int, cdb: bytes, data: bytes | None = None):
        task = Task(ALPHA, lun, cdb.ljust(16, b"\0"), data_out=data, data_in_limit=4096, view=view)
        return view.execute(task)

    write = sbc.Write10.encode(transfer_length=1)
    assert sense_of(execute(0, write, bytes(512))) == (5, 0x20, 2)
    assert sense_of(execute(0, spc.Reserve6.encode())) == (5, 0x20, 2)
    assert sense_of(execute(0, spc.ModeSelect6.encode())) == (5, 0x20, 2)
    assert execute(0, spc.TestUnitReady.encode()).status == 0
    assert data_of(execute(0, sbc.Read10.encode(transfer_length=1))) == bytes(512)
    data_of(execute(0, spc.Inquiry.encode(allocation_length=36)))
    assert execute(1, write, bytes(512)).status == 0
    disk.close()
