"""PySCSI as the second opinion on CDBs: what it builds is decoded by t10 field by field, and what t10 encodes is read
back by it. Names differ, and each pair is written down here once; a field that only one of the two knows must be zero.

Release 2.1.0 builds the commands below. It has no SSC commands, no PERSISTENT RESERVE, no REPORT TARGET PORT GROUPS and
no EXTENDED COPY; those of later releases are found by name and checked when they are there.
"""

import importlib
import random
from typing import Any

import pytest
from pyscsi.pyscsi import scsi_enum_command as enum
from pyscsi.pyscsi.scsi_cdb_modesense6 import ModeSelect6, ModeSense6
from pyscsi.pyscsi.scsi_cdb_modesense10 import ModeSelect10
from pyscsi.utils.converter import decode_bits

from scsi_targets.t10 import copy_descriptors as copy
from scsi_targets.t10 import sbc, smc, spc
from scsi_targets.t10.fields import Command

# PySCSI's name of a field to ours, for all commands but those that say otherwise below.
NAMES = {
    "evpd": "enable_vital_product_data", "page_code": "page_code", "sub_page_code": "subpage_code",
    "alloc_len": "allocation_length", "pc": "page_control", "dbd": "disable_block_descriptors",
    "llbaa": "long_lba_accepted", "pf": "page_format", "sp": "save_pages",
    "parameter_list_length": "parameter_list_length", "prevent": "prevent", "select_report": "select_report",
    "lba": "logical_block_address", "tl": "transfer_length", "nb": "number_of_logical_blocks", "group": "group_number",
    "rdprotect": "protect", "wrprotect": "protect", "dpo": "disable_page_out", "fua": "force_unit_access",
    "anchor": "anchor", "unmap": "unmap", "ndob": "no_data_out_buffer", "invert": "invert", "inv1": "invert_1",
    "inv2": "invert_2", "medium_transport_address": "transport_element_address",
    "source_address": "source_element_address", "destination_address": "destination_element_address",
    "first_destination_address": "first_destination_element_address",
    "second_destination_address": "second_destination_element_address", "fast": "fast", "range": "range",
    "starting_element_address": "starting_element_address", "number_of_elements": "number_of_elements",
    "num_elements": "number_of_elements", "element_type": "element_type_code", "voltag": "volume_tag",
    "curdata": "current_data", "dvcid": "device_identifier",
}  # fmt: skip

# Module and class of PySCSI, its operation code, our command, how it is built from values by PySCSI's field names.
Build = tuple[str, str, Any, type[Command], tuple[str, ...], dict[str, str]]
BUILDS: list[Build] = [
    ("testunitready", "TestUnitReady", enum.spc.TEST_UNIT_READY, spc.TestUnitReady, (), {}),
    ("inquiry", "Inquiry", enum.spc.INQUIRY, spc.Inquiry, (), {"evpd": "evpd", "page_code": "page_code"}),
    ("modesense6", "ModeSense6", enum.spc.MODE_SENSE_6, spc.ModeSense6, ("page_code",),
     {"sub_page_code": "sub_page_code", "dbd": "dbd", "pc": "pc"}),
    ("modesense10", "ModeSense10", enum.spc.MODE_SENSE_10, spc.ModeSense10, ("page_code",),
     {"sub_page_code": "sub_page_code", "dbd": "dbd", "pc": "pc", "llbaa": "llbaa"}),
    ("preventallow_mediumremoval", "PreventAllowMediumRemoval", enum.smc.PREVENT_ALLOW_MEDIUM_REMOVAL,
     spc.PreventAllowMediumRemoval, (), {"prevent": "prevent"}),
    ("report_luns", "ReportLuns", enum.spc.REPORT_LUNS, spc.ReportLuns, (), {"report": "select_report"}),
    ("readcapacity10", "ReadCapacity10", enum.sbc.READ_CAPACITY_10, sbc.ReadCapacity10, (), {}),
    ("readcapacity16", "ReadCapacity16", enum.sbc.SBC_OPCODE_9E, sbc.ReadCapacity16, (), {}),
    ("getlbastatus", "GetLBAStatus", enum.sbc.SBC_OPCODE_9E, sbc.GetLbaStatus16, ("lba",), {}),
    *[
        (f"{way}{size}", f"{way.title()}{size}", getattr(enum.sbc, f"{way.upper()}_{size}"),
         getattr(sbc, f"{way.title()}{size}"), ("blocksize", "lba", "tl", *(["data"] if way == "write" else [])),
         {key: key for key in ("rdprotect" if way == "read" else "wrprotect", "dpo", "fua", "group")})
        for way in ("read", "write") for size in (10, 12, 16)
    ],
    ("writesame10", "WriteSame10", enum.sbc.WRITE_SAME_10, sbc.WriteSame10, ("blocksize", "lba", "nb", "data"),
     {key: key for key in ("wrprotect", "anchor", "unmap", "group")}),
    ("writesame16", "WriteSame16", enum.sbc.WRITE_SAME_16, sbc.WriteSame16, ("blocksize", "lba", "nb", "data"),
     {key: key for key in ("wrprotect", "anchor", "unmap", "ndob", "group")}),
    ("initelementstatus", "InitializeElementStatus", enum.smc.INITIALIZE_ELEMENT_STATUS, smc.InitializeElementStatus,
     (), {}),
    # 2.1.0 calls the first address `xfer`, as it does the transport element's.
    ("initelementstatuswithrange", "InitializeElementStatusWithRange", enum.smc.INITIALIZE_ELEMENT_STATUS_WITH_RANGE,
     smc.InitializeElementStatusWithRange, ("starting_element_address", "number_of_elements"),
     {"rng": "range", "fast": "fast"}),
    ("movemedium", "MoveMedium", enum.smc.MOVE_MEDIUM, smc.MoveMedium,
     ("medium_transport_address", "source_address", "destination_address"), {"invert": "invert"}),
    ("exchangemedium", "ExchangeMedium", enum.smc.EXCHANGE_MEDIUM, smc.ExchangeMedium,
     ("medium_transport_address", "source_address", "first_destination_address", "second_destination_address"),
     {"inv1": "inv1", "inv2": "inv2"}),
    ("positiontoelement", "PositionToElement", enum.smc.POSITION_TO_ELEMENT, smc.PositionToElement,
     ("medium_transport_address", "destination_address"), {"invert": "invert"}),
    ("readelementstatus", "ReadElementStatus", enum.smc.READ_ELEMENT_STATUS, smc.ReadElementStatus,
     ("starting_element_address", "num_elements"),
     {key: key for key in ("element_type", "voltag", "curdata", "dvcid")}),
]  # fmt: skip
OUR_NAMES = {("getlbastatus", "lba"): "starting_logical_block_address"}
BLOCK = 512


def pyscsi_class(module: str, name: str) -> Any:
    return getattr(importlib.import_module(f"pyscsi.pyscsi.scsi_cdb_{module}"), name)


def mask_bits(mask: int, byte: int) -> tuple[int, int]:
    """First bit (from the most significant bit of byte 0) and width of a field that PySCSI writes as [mask, byte]."""
    size = max(8, -(-mask.bit_length() // 8) * 8)
    return byte * 8 + size - mask.bit_length(), mask.bit_length() - ((mask & -mask).bit_length() - 1)


def fields_of(build: Build) -> dict[str, str]:
    """PySCSI's fields of a command to ours, operation code and service action aside."""
    module, name, *_ = build
    layout = pyscsi_class(module, name)._cdb_bits
    return {
        field: OUR_NAMES.get((module, field), NAMES[field])
        for field in layout
        if field not in ("opcode", "service_action", "rarc")
    }


def some_values(build: Build, rng: random.Random) -> dict[str, int]:
    """Random values that fit both sides' fields; buffers stay small."""
    module, name, _, ours, *_ = build
    layout = pyscsi_class(module, name)._cdb_bits
    values = {}
    for theirs, mine in fields_of(build).items():
        width = min(mask_bits(*layout[theirs])[1], ours.fields[mine].width)
        values[theirs] = rng.randrange(1 << (width if theirs not in ("tl", "alloc_len") else min(width, 6)))
    return values


def build_with_pyscsi(build: Build, values: dict[str, int]) -> Any:
    module, name, opcode, _, positional, keywords = build
    known = values | {"blocksize": BLOCK, "data": bytearray(BLOCK)}
    arguments = {keyword: known[field] for keyword, field in keywords.items()}
    if "alloc_len" in values:
        arguments["alloclen"] = values["alloc_len"]
    return pyscsi_class(module, name)(opcode, *(known[field] for field in positional), **arguments)


@pytest.mark.parametrize("build", BUILDS, ids=lambda build: build[1])
@pytest.mark.parametrize("seed", range(20))
def test_what_pyscsi_builds_is_what_t10_decodes(build: Build, seed: int) -> None:
    values, ours = some_values(build, random.Random(seed)), build[3]
    cdb = bytes(build_with_pyscsi(build, values).cdb)
    decoded = ours(cdb)
    assert (cdb[0], len(cdb)) == (ours.opcode, ours.length)
    assert ours.service_action in (None, ours.service_action_of(cdb))
    expected = {mine: values[theirs] for theirs, mine in fields_of(build).items()}
    assert {name: getattr(decoded, name) for name in ours.fields} == dict.fromkeys(ours.fields, 0) | expected


@pytest.mark.parametrize("build", BUILDS, ids=lambda build: build[1])
@pytest.mark.parametrize("seed", range(20))
def test_what_t10_encodes_is_what_pyscsi_reads(build: Build, seed: int) -> None:
    """`unmarshall_cdb` of 2.1.0 reads by the layout of whatever command was built last, in any thread: its base class
    keeps one layout for all. So each class's own layout is used here."""
    module, name, _, ours, *_ = build
    values = some_values(build, random.Random(seed))
    cdb = ours.encode(**{mine: values[theirs] for theirs, mine in fields_of(build).items()})
    read: dict[str, int] = {}
    decode_bits(bytearray(cdb), pyscsi_class(module, name)._cdb_bits, read)
    assert read.pop("opcode") == ours.opcode
    assert read.pop("service_action", ours.service_action) == ours.service_action
    assert read.pop("rarc", 0) == 0
    assert read == values


@pytest.mark.parametrize("build", BUILDS, ids=lambda build: build[1])
def test_both_place_every_field_alike(build: Build) -> None:
    module, name, _, ours, *_ = build
    layout = pyscsi_class(module, name)._cdb_bits
    for theirs, mine in fields_of(build).items():
        field = ours.fields[mine]
        place = mask_bits(*layout[theirs])
        if (name, theirs) == ("ReadElementStatus", "element_type"):
            # 2.1.0 takes three of the four bits of ELEMENT TYPE CODE (SMC-3 table 23).
            assert place == (field.first_bit + 1, 3)
            continue
        assert place == (field.first_bit, field.width), theirs


def test_mode_select_6_carries_what_pyscsi_made_of_a_page() -> None:
    """The parameter list is built, too: a control mode page, as a backup developer would set D_SENSE."""
    page = {"page_code": 0x0A, "subpage_code": 0, "spf": 0, "ps": 0, "d_sense": 1, "tst": 0}
    data = {"medium_type": 0, "device_specific_parameter": 0, "mode_pages": [page]}
    command = ModeSelect6(enum.spc.MODE_SELECT_6, data, pf=1, sp=1)
    decoded = spc.ModeSelect6(bytes(command.cdb))
    assert (decoded.page_format, decoded.save_pages) == (1, 1)
    assert decoded.parameter_list_length == len(command.dataout) == 4 + 12
    assert bytes(command.dataout[4:7]) == bytes([0x0A, 10, 0x04])
    assert ModeSense6.unmarshall_datain(command.dataout)["mode_pages"][0]["d_sense"] == 1


def test_mode_select_10_cannot_be_built_by_2_1_0() -> None:
    """ModeSelect10 hands build_cdb() a length that it does not take. A release that mends it shall be checked as
    MODE SELECT(6) is."""
    page = {"page_code": 0x0A, "subpage_code": 0, "spf": 0, "ps": 0, "d_sense": 1}
    data = {"medium_type": 0, "device_specific_parameter": 0, "longlba": 0, "mode_pages": [page]}
    with pytest.raises(TypeError, match="build_cdb"):
        ModeSelect10(enum.spc.MODE_SELECT_10, data)


LATER = [  # in the repository of PySCSI only; tests/unit/devices/test_pyscsi_development.py runs them
    ("extended_copy_spc4", "ExtendedCopy", copy.ExtendedCopyLid1),
    ("extended_copy_spc5", "ExtendedCopy", copy.ExtendedCopyLid4),
    ("persistentreservein", "PersistentReserveIn", spc.ReadKeys),
    ("persistentreserveout", "PersistentReserveOut", spc.Register),
    ("report_target_port_groups", "ReportTargetPortGroups", spc.ReportTargetPortGroups),
    ("synchronize_cache10", "SynchronizeCache10", sbc.SynchronizeCache10),
    ("synchronize_cache16", "SynchronizeCache16", sbc.SynchronizeCache16), ("unmap", "Unmap", sbc.Unmap),
]  # fmt: skip


@pytest.mark.parametrize(("module", "name", "ours"), LATER, ids=lambda value: str(value))
def test_commands_of_later_releases(module: str, name: str, ours: type[Command]) -> None:
    reason = f"PySCSI 2.1.0, the newest release, has no {name}; its repository has"
    found = pytest.importorskip(f"pyscsi.pyscsi.scsi_cdb_{module}", reason=reason)
    places = {(field.first_bit, field.width) for field in ours.fields.values()}
    layout = {key: mask_bits(*place) for key, place in getattr(found, name)._cdb_bits.items()}
    assert layout.pop("opcode") == (0, 8)
    if name == "Unmap":
        assert layout.pop("group") == (50, 6)  # GROUP NUMBER of SBC-4; ours, and PySCSI's elsewhere, is that of SBC-3
    unknown = {key for key, place in layout.items() if key not in ("service_action",) and place not in places}
    assert unknown <= {"scope", "pr_type", "type", "immed", "sync_nv"}, unknown
