"""PySCSI as a second opinion on what its repository has and the newest release, 2.1.0, has not: PERSISTENT RESERVE,
REPORT TARGET PORT GROUPS, UNMAP and SYNCHRONIZE CACHE, and EXTENDED COPY by SPC-4 (LID1) and SPC-5 (LID4).

The classes are the installed PySCSI's where it has them; with a release, tests/support/pyscsi_declared.py declares them
over its SCSICommand, as a program that uses the release has to.
"""

from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from pyscsi.pyscsi import scsi_enum_command as enum
from pyscsi.pyscsi.scsi import SCSI

from scsi_targets.devices.unit.logical_unit import LogicalUnit
from scsi_targets.t10 import copy_descriptors as copy
from scsi_targets.t10 import sbc
from tests.support.pyscsi_declared import MODULES, SERVICE_ACTIONS
from tests.unit.devices.changer.support import Library
from tests.unit.devices.copying.support import Site
from tests.unit.devices.disk.support import make_disk, pattern, read, write
from tests.unit.devices.pyscsi_local import Local, Refused
from tests.unit.devices.support import ALPHA, BETA
from tests.unit.devices.tape.support import loaded_drive

KEY, OTHER_KEY = 0xA11CE, 0xB0B


def module(name: str) -> Any:
    """A module of PySCSI that has the class of a command, or what is declared in place of it."""
    try:
        return import_module(f"pyscsi.pyscsi.scsi_cdb_{name}")
    except ModuleNotFoundError:
        return MODULES[name]


def run(unit: LogicalUnit, command: Any, **task: Any) -> Any:
    """Executes a command of PySCSI; what its decoder makes of the answer, if it has one."""
    Local(unit, **task).execute(command)
    if hasattr(command, "unmarshall_datain"):
        command.unmarshall()
    return command.result


@pytest.fixture(params=["disk", "tape", "changer"])
def unit(request: Any, tmp_path: Path) -> Iterator[LogicalUnit]:
    if request.param == "disk":
        yield make_disk(tmp_path)
    elif request.param == "tape":
        yield from loaded_drive(tmp_path)
    else:
        library = Library(tmp_path)
        yield library.changer
        library.close()


# ---- persistent reservations -----------------------------------------------------------------------------------------
# The operation codes are those of SPC: the repository's tables for tapes and changers name no service actions.


def reserve_out(unit: LogicalUnit, action: str, nexus: Any = ALPHA, **fields: Any) -> None:
    opcode = enum.spc.PERSISTENT_RESERVE_OUT
    build = module("persistentreserveout").PersistentReserveOut
    run(unit, build(opcode, SERVICE_ACTIONS[action], **fields), nexus=nexus)


def reserve_in(unit: LogicalUnit, what: str, nexus: Any = ALPHA) -> dict[str, Any]:
    build = getattr(module("persistentreservein"), f"PersistentReserveIn{what}")
    result: dict[str, Any] = run(unit, build(enum.spc.PERSISTENT_RESERVE_IN), nexus=nexus)
    return result


def transport_id(nexus: Any) -> dict[str, Any]:
    """As PySCSI writes and reads it."""
    return {"protocol_id": 5, "tpid_format": 1, "iscsi_name": nexus.initiator_name,
            "iscsi_initiator_session_id": nexus.isid.hex()}  # fmt: skip


def test_nobody_is_registered(unit: LogicalUnit) -> None:
    assert reserve_in(unit, "ReadKeys") == {"pr_generation": 0, "reservation_keys": []}
    assert reserve_in(unit, "ReadReservation") == {"pr_generation": 0}
    assert reserve_in(unit, "ReadFullStatus") == {"pr_generation": 0, "full_status": []}


def test_registrations_and_a_reservation(unit: LogicalUnit) -> None:
    reserve_out(unit, "REGISTER", service_action_reservation_key=KEY)
    reserve_out(unit, "REGISTER_AND_IGNORE_EXISTING_KEY", BETA, service_action_reservation_key=OTHER_KEY)
    assert reserve_in(unit, "ReadKeys") == {"pr_generation": 2, "reservation_keys": [KEY, OTHER_KEY]}
    exclusive_access = 3
    reserve_out(unit, "RESERVE", reservation_key=KEY, pr_type=exclusive_access)
    reservation = {"reservation_key": KEY, "scope": 0, "type": exclusive_access}
    assert reserve_in(unit, "ReadReservation") == {"pr_generation": 2} | reservation
    common = {"all_tg_pt": 0, "scope": 0, "relative_target_port_id": 1}
    assert reserve_in(unit, "ReadFullStatus")["full_status"] == [
        common | reservation | {"r_holder": 1, "transport_id": transport_id(ALPHA)},
        common | {"reservation_key": OTHER_KEY, "type": 0, "r_holder": 0, "transport_id": transport_id(BETA)},
    ]
    reserve_out(unit, "RELEASE", reservation_key=KEY, pr_type=exclusive_access)
    assert reserve_in(unit, "ReadReservation") == {"pr_generation": 2}
    reserve_out(unit, "CLEAR", reservation_key=KEY)
    assert reserve_in(unit, "ReadKeys") == {"pr_generation": 3, "reservation_keys": []}


def test_a_reservation_is_preempted(unit: LogicalUnit) -> None:
    for nexus, key in ((ALPHA, KEY), (BETA, OTHER_KEY)):
        reserve_out(unit, "REGISTER", nexus, service_action_reservation_key=key)
    reserve_out(unit, "RESERVE", reservation_key=KEY, pr_type=1)
    reserve_out(unit, "PREEMPT", BETA, reservation_key=OTHER_KEY, service_action_reservation_key=KEY, pr_type=1)
    assert reserve_in(unit, "ReadReservation", BETA)["reservation_key"] == OTHER_KEY
    assert reserve_in(unit, "ReadKeys", BETA)["reservation_keys"] == [OTHER_KEY]


def test_register_and_move_to_the_transport_id_that_pyscsi_builds(unit: LogicalUnit) -> None:
    reserve_out(unit, "REGISTER", service_action_reservation_key=KEY)
    reserve_out(unit, "RESERVE", reservation_key=KEY, pr_type=5)
    reserve_out(unit, "REGISTER_AND_MOVE", reservation_key=KEY, service_action_reservation_key=OTHER_KEY,
                relative_target_port_id=1, transport_id=transport_id(BETA))  # fmt: skip
    (holder,) = [each for each in reserve_in(unit, "ReadFullStatus")["full_status"] if each["r_holder"]]
    assert (holder["transport_id"], holder["reservation_key"], holder["type"]) == (transport_id(BETA), OTHER_KEY, 5)


def test_capabilities(unit: LogicalUnit) -> None:
    assert reserve_in(unit, "ReportCapabilities") == {
        "ptpl_c": 1, "ptpl_a": 0, "atp_c": 0, "sip_c": 1, "crh": 0, "rlr_c": 0, "tmv": 1, "allow_commands": 1,
        "pr_type_mask": dict.fromkeys(("wr_ex", "ex_ac", "wr_ex_ro", "ex_ac_ro", "wr_ex_ar", "ex_ac_ar"), 1),
    }  # fmt: skip


# ---- target port groups ----------------------------------------------------------------------------------------------


def test_report_target_port_groups(unit: LogicalUnit) -> None:
    build = module("report_target_port_groups").ReportTargetPortGroups
    group = {
        "asymmetric_access_state": 0, "pref": 0, "ao_sup": 1, "an_sup": 0, "s_sup": 0, "u_sup": 0, "o_sup": 0,
        "t_sup": 0, "target_port_group": 1, "status_code": 0, "vendor": 0, "target_port_count": 1,
        "target_ports": [{"relative_target_port_id": 1}],
    }  # fmt: skip
    length_only, extended = (run(unit, build(enum.sbc.SBC_OPCODE_A3, data_format)) for data_format in (0, 1))
    assert length_only == {"format_type": 0, "target_port_group_descriptors": [group]}
    assert extended == length_only | {"format_type": 1, "implicit_transition_time": 0}


# ---- disks -----------------------------------------------------------------------------------------------------------


def test_unmap(tmp_path: Path) -> None:
    build = module("unmap").Unmap
    disk = make_disk(tmp_path)
    for address in range(64):
        assert write(disk, address, pattern(address + 1)).status == 0
    run(disk, build(enum.sbc.UNMAP, [{"lba": 8, "num_blocks": 8}, {"lba": 40, "num_blocks": 16}]))
    gone = {*range(8, 16), *range(40, 56)}
    assert read(disk, 0, 64) == b"".join(bytes(512) if n in gone else pattern(n + 1) for n in range(64))


@pytest.mark.parametrize(("size", "ours"), [(10, sbc.SynchronizeCache10), (16, sbc.SynchronizeCache16)])
def test_synchronize_cache(tmp_path: Path, size: int, ours: Any) -> None:
    build = getattr(module(f"synchronize_cache{size}"), f"SynchronizeCache{size}")
    command = build(getattr(enum.sbc, f"SYNCHRONIZE_CACHE_{size}"), 16, 32, group=3)
    decoded = ours(bytes(command.cdb))
    assert (decoded.logical_block_address, decoded.number_of_logical_blocks, decoded.group_number) == (16, 32, 3)
    disk = make_disk(tmp_path)
    run(disk, command)
    with pytest.raises(Refused):
        run(disk, build(command.opcode, 1 << 31, 1))


# ---- EXTENDED COPY ---------------------------------------------------------------------------------------------------


class Form(NamedTuple):
    """One of PySCSI's two EXTENDED COPY commands: its module, its word for a CSCD, what its list begins with."""

    module: str
    word: str
    type_name: str
    header: type[copy.AnyListHeader]

    @property
    def command(self) -> Any:
        return module(self.module).ExtendedCopy

    def designated(self, unit: LogicalUnit, device_type: int, **parameters: int) -> dict[str, Any]:
        """A descriptor of the NAA designator that PySCSI's own INQUIRY finds.

        2.1.0 cannot build one from it (Inquiry.marshall_designator raises TypeError); the repository can."""
        found = SCSI(Local(unit)).inquiry(evpd=1, page_code=0x83, alloclen=1024).result["designator_descriptors"]
        (naa,) = [each for each in found if (each["association"], each["designator_type"]) == (0, 3)]
        kept = {name: naa[name] for name in ("association", "code_set", "designator_type", "designator")}
        return {"descriptor_type_code": self.type_name, "peripheral_device_type": device_type,
                f"{self.word}_descriptor_parameters": kept, "device_type_specific_parameters": parameters}  # fmt: skip

    def segment(self, kind: int, source: int, destination: int, **fields: int) -> dict[str, Any]:
        """A new dictionary each time: PySCSI writes into the one that it is given."""
        return {"descriptor_type_code": kind, f"source_{self.word}_descriptor_id": source,
                f"destination_{self.word}_descriptor_id": destination} | fields  # fmt: skip

    def build(self, descriptors: list[dict[str, Any]], segments: list[dict[str, Any]], **fields: Any) -> Any:
        lists = {f"{self.word}_descriptor_list": descriptors, "segment_descriptor_list": segments}
        return self.command(enum.sbc.EXTENDED_COPY, **lists, **fields)


SPC4 = Form("extended_copy_spc4", "target", "Identification descriptor target descriptor", copy.ParameterListHeader)
SPC5 = Form("extended_copy_spc5", "cscd", "Identification Descriptor CSCD descriptor", copy.ParameterListHeaderLid4)


@pytest.fixture(params=[SPC4, SPC5], ids=["SPC-4", "SPC-5"])
def form(request: Any) -> Form:
    chosen: Form = request.param
    return chosen


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    site = Site(tmp_path)
    yield site
    site.close()


def test_disk_to_disk(form: Form, site: Site, tmp_path: Path) -> None:
    target = make_disk(tmp_path, name="target", blocks=4096)
    site.add(target)
    command = form.build(
        [form.designated(unit, 0, disk_block_length=512) for unit in (site.disk, target)],
        [
            form.segment(2, 0, 1, block_device_number_of_blocks=count, source_block_device_logical_block_address=source,
                         destination_block_device_logical_block_address=destination, dc=dc)
            for count, source, destination, dc in ((1000, 8, 24, 0), (5, 4000, 4091, 1))
        ],
        list_identifier=7,
    )  # fmt: skip
    ours = copy.parameter_list(
        [copy.identification_descriptor(unit.identity.naa, device_type=0, block_length=512)
         for unit in (site.disk, target)],
        [
            copy.BlockToBlock.encode(source=0, destination=1, number_of_blocks=count, destination_count=dc,
                                     source_logical_block_address=source, destination_logical_block_address=destination)
            for count, source, destination, dc in ((1000, 8, 24, 0), (5, 4000, 4091, 1))
        ],
        list_identifier=7, priority=0, form=form.header,
    )  # fmt: skip
    assert bytes(command.dataout) == ours
    run(site.disk, command, view=site.view)
    expected = bytearray(4096 * 512)
    expected[24 * 512 : 1024 * 512] = site.disk_data[8 * 512 : 1008 * 512]
    expected[4091 * 512 :] = site.disk_data[4000 * 512 : 4005 * 512]
    assert read(target, 0, 2048) + read(target, 2048, 2048) == expected


@pytest.mark.parametrize("fixed", [False, True], ids=["variable", "fixed"])
@pytest.mark.parametrize("manager", ["disk", "tape"])
def test_disk_to_tape(form: Form, site: Site, fixed: bool, manager: str) -> None:
    length = {"fixed": 1, "stream_block_length": 4096} if fixed else {}
    command = form.build(
        [form.designated(site.disk, 0, disk_block_length=512), form.designated(site.tape, 1, **length)],
        [form.segment(0, 0, 1, stream_device_transfer_length=2 if fixed else 8192, block_device_number_of_blocks=64,
                      block_device_logical_block_address=16)],
    )  # fmt: skip
    run(getattr(site, manager), command, view=site.view)
    block = 4096 if fixed else 8192
    data = site.disk_data[16 * 512 : 80 * 512]
    assert site.written() == [data[at : at + block] for at in range(0, len(data), block)]


def test_tape_to_disk(form: Form, site: Site) -> None:
    """PySCSI's repository had a slip here for years: AttributeError instead of a descriptor of type 01h."""
    site.fill([pattern(n, 4096) for n in range(4)])
    fields = {"stream_device_transfer_length": 4096, "block_device_number_of_blocks": 32,
              "block_device_logical_block_address": 100}  # fmt: skip
    try:
        form.command.marshall_segment(form.segment(1, 1, 0, **fields))
    except AttributeError as slip:
        pytest.skip(f"this PySCSI cannot build stream to block: {slip}")
    descriptors = [form.designated(site.disk, 0, disk_block_length=512), form.designated(site.tape, 1)]
    run(site.disk, form.build(descriptors, [form.segment(1, 1, 0, **fields)]), view=site.view)
    assert read(site.disk, 100, 32) == b"".join(pattern(n, 4096) for n in range(4))


@pytest.mark.parametrize(
    ("spoil", "code"),
    [
        (lambda segment: segment.update(block_device_logical_block_address=1 << 40), (0xA, 0x0D, 0x01)),
        (lambda segment: segment.update(stream_device_transfer_length=0), (5, 0x26, 0x00)),
    ],
    ids=["behind the end of the disk", "no transfer length"],
)
def test_a_list_that_cannot_be_copied(
    form: Form, site: Site, spoil: Callable[[dict[str, Any]], None], code: tuple[int, int, int]
) -> None:
    segment = form.segment(0, 0, 1, stream_device_transfer_length=512, block_device_number_of_blocks=1,
                           block_device_logical_block_address=0)  # fmt: skip
    spoil(segment)
    descriptors = [form.designated(site.disk, 0, disk_block_length=512), form.designated(site.tape, 1)]
    with pytest.raises(Refused) as refused:
        run(site.disk, form.build(descriptors, [segment]), view=site.view)
    assert refused.value.args == (code,)
    assert site.written() == []
