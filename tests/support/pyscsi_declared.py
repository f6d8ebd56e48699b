"""Commands that PySCSI 2.1.0, the newest release, has no classes for, declared as its own are: bit tables, SCSICommand.

The names of classes, fields and results are those of PySCSI's repository, so that a newer release can take their place.
The tables are written from SPC-4, SPC-5 and SBC-4; PySCSI's converter builds and reads the bytes.
"""

from types import SimpleNamespace
from typing import Any, ClassVar

from pyscsi.pyscsi.scsi_command import SCSICommand
from pyscsi.utils.converter import decode_bits, encode_dict, scsi_ba_to_int

Table = dict[str, list[int]]
ALLOCATION_LENGTH = 4096
EIGHT_BYTES, FOUR_BYTES, THREE_BYTES, TWO_BYTES = (1 << 64) - 1, (1 << 32) - 1, (1 << 24) - 1, (1 << 16) - 1


def encoded(length: int, table: Table, fields: dict[str, Any]) -> bytearray:
    result = bytearray(length)
    encode_dict(fields, table, result)
    return result


def decoded(data: bytes, table: Table) -> dict[str, Any]:
    result: dict[str, Any] = {}
    decode_bits(data, table, result)
    return result


def pieces(data: bytes, length: int) -> list[bytes]:
    return [data[at : at + length] for at in range(0, len(data), length)]


# ---- PERSISTENT RESERVE IN (SPC-4 6.15) and OUT (6.16) ---------------------------------------------------------------

SERVICE_ACTIONS = {
    "REGISTER": 0, "RESERVE": 1, "RELEASE": 2, "CLEAR": 3, "PREEMPT": 4, "PREEMPT_AND_ABORT": 5,
    "REGISTER_AND_IGNORE_EXISTING_KEY": 6, "REGISTER_AND_MOVE": 7,
}  # fmt: skip


def transport_id_of(data: bytes) -> dict[str, Any]:
    """An iSCSI initiator port's TransportID (SPC-4 7.6.4.6)."""
    found = decoded(data, {"protocol_id": [0x0F, 0], "tpid_format": [0xC0, 0]})
    name, _, isid = bytes(data[4:]).split(b"\0", 1)[0].decode().partition(",i,0x")
    return found | {"iscsi_name": name} | ({"iscsi_initiator_session_id": isid} if found["tpid_format"] else {})


def transport_id_from(fields: dict[str, Any]) -> bytes:
    name = f"{fields['iscsi_name']},i,0x{fields['iscsi_initiator_session_id']}".encode() + b"\0"
    name += bytes(-len(name) % 4)
    head = encoded(4, {"protocol_id": [0x0F, 0], "tpid_format": [0xC0, 0], "length": [TWO_BYTES, 2]},
                   fields | {"length": len(name)})  # fmt: skip
    return bytes(head) + name


class PersistentReserveIn(SCSICommand):  # type: ignore[misc]
    _cdb_bits: ClassVar[Table] = {"opcode": [0xFF, 0], "service_action": [0x1F, 1], "alloc_len": [TWO_BYTES, 7]}
    action: ClassVar[int]

    def __init__(self, opcode: Any) -> None:
        SCSICommand.__init__(self, opcode, 0, ALLOCATION_LENGTH)
        self.cdb = self.build_cdb(opcode=opcode.value, service_action=self.action, alloc_len=ALLOCATION_LENGTH)


def generation_and_rest(data: bytes) -> tuple[dict[str, Any], bytes]:
    return {"pr_generation": scsi_ba_to_int(data[:4])}, bytes(data[8 : 8 + scsi_ba_to_int(data[4:8])])


class PersistentReserveInReadKeys(PersistentReserveIn):
    action = 0

    @staticmethod
    def unmarshall_datain(data: bytes) -> dict[str, Any]:
        head, rest = generation_and_rest(data)
        return head | {"reservation_keys": [scsi_ba_to_int(key) for key in pieces(rest, 8)]}


class PersistentReserveInReadReservation(PersistentReserveIn):
    action = 1
    table: ClassVar[Table] = {"reservation_key": [EIGHT_BYTES, 0], "scope": [0xF0, 13], "type": [0x0F, 13]}

    @classmethod
    def unmarshall_datain(cls, data: bytes) -> dict[str, Any]:
        head, rest = generation_and_rest(data)
        return head | (decoded(rest, cls.table) if rest else {})


class PersistentReserveInReportCapabilities(PersistentReserveIn):
    action = 2
    table: ClassVar[Table] = {
        "rlr_c": [0x80, 2], "crh": [0x10, 2], "sip_c": [0x08, 2], "atp_c": [0x04, 2], "ptpl_c": [0x01, 2],
        "tmv": [0x80, 3], "allow_commands": [0x70, 3], "ptpl_a": [0x01, 3],
    }  # fmt: skip
    types: ClassVar[Table] = {
        "wr_ex_ar": [0x80, 4], "ex_ac_ro": [0x40, 4], "wr_ex_ro": [0x20, 4], "ex_ac": [0x08, 4], "wr_ex": [0x02, 4],
        "ex_ac_ar": [0x01, 5],
    }  # fmt: skip

    @classmethod
    def unmarshall_datain(cls, data: bytes) -> dict[str, Any]:
        found = decoded(data, cls.table)
        return found | ({"pr_type_mask": decoded(data, cls.types)} if found["tmv"] else {})


class PersistentReserveInReadFullStatus(PersistentReserveIn):
    action = 3
    table: ClassVar[Table] = {
        "reservation_key": [EIGHT_BYTES, 0], "all_tg_pt": [0x02, 12], "r_holder": [0x01, 12], "scope": [0xF0, 13],
        "type": [0x0F, 13], "relative_target_port_id": [TWO_BYTES, 18],
    }  # fmt: skip

    @classmethod
    def unmarshall_datain(cls, data: bytes) -> dict[str, Any]:
        head, rest = generation_and_rest(data)
        rows = []
        while rest:
            end = 24 + scsi_ba_to_int(rest[20:24])
            rows.append(decoded(rest, cls.table) | {"transport_id": transport_id_of(rest[24:end])})
            rest = rest[end:]
        return head | {"full_status": rows}


class PersistentReserveOut(SCSICommand):  # type: ignore[misc]
    _cdb_bits: ClassVar[Table] = {
        "opcode": [0xFF, 0], "service_action": [0x1F, 1], "scope": [0xF0, 2], "pr_type": [0x0F, 2],
        "parameter_list_length": [FOUR_BYTES, 5],
    }  # fmt: skip
    basic: ClassVar[Table] = {
        "reservation_key": [EIGHT_BYTES, 0], "service_action_reservation_key": [EIGHT_BYTES, 8],
        "spec_i_pt": [0x08, 20], "all_tg_pt": [0x04, 20], "aptpl": [0x01, 20],
    }  # fmt: skip
    moving: ClassVar[Table] = {
        "reservation_key": [EIGHT_BYTES, 0], "service_action_reservation_key": [EIGHT_BYTES, 8], "unreg": [0x02, 17],
        "aptpl": [0x01, 17], "relative_target_port_id": [TWO_BYTES, 18], "length": [FOUR_BYTES, 20],
    }  # fmt: skip

    def __init__(self, opcode: Any, service_action: int, scope: int = 0, pr_type: int = 0, **fields: Any) -> None:
        SCSICommand.__init__(self, opcode, 0, 0)
        if service_action == SERVICE_ACTIONS["REGISTER_AND_MOVE"]:
            to = transport_id_from(fields["transport_id"])
            self.dataout = encoded(24, self.moving, fields | {"length": len(to)}) + to
        else:
            self.dataout = encoded(24, self.basic, fields)
        self.cdb = self.build_cdb(opcode=opcode.value, service_action=service_action, scope=scope, pr_type=pr_type,
                                  parameter_list_length=len(self.dataout))  # fmt: skip


# ---- REPORT TARGET PORT GROUPS (SPC-4 6.37) --------------------------------------------------------------------------


class ReportTargetPortGroups(SCSICommand):  # type: ignore[misc]
    _cdb_bits: ClassVar[Table] = {"opcode": [0xFF, 0], "service_action": [0x1F, 1], "data_format": [0xE0, 1],
                                  "alloc_len": [FOUR_BYTES, 6]}  # fmt: skip
    group: ClassVar[Table] = {
        "pref": [0x80, 0], "asymmetric_access_state": [0x0F, 0], "t_sup": [0x80, 1], "o_sup": [0x40, 1],
        "u_sup": [0x08, 1], "s_sup": [0x04, 1], "an_sup": [0x02, 1], "ao_sup": [0x01, 1],
        "target_port_group": [TWO_BYTES, 2], "status_code": [0xFF, 5], "vendor": [0xFF, 6],
        "target_port_count": [0xFF, 7],
    }  # fmt: skip

    def __init__(self, opcode: Any, data_format: int = 0) -> None:
        SCSICommand.__init__(self, opcode, 0, ALLOCATION_LENGTH)
        self.cdb = self.build_cdb(opcode=opcode.value, service_action=0x0A, data_format=data_format,
                                  alloc_len=ALLOCATION_LENGTH)  # fmt: skip

    @classmethod
    def unmarshall_datain(cls, data: bytes) -> dict[str, Any]:
        """The extended header's format type is 1; in the other form these bits begin a group and are zero."""
        end = 4 + scsi_ba_to_int(data[:4])
        found = decoded(data, {"format_type": [0x70, 4]})
        found |= decoded(data, {"implicit_transition_time": [0xFF, 5]}) if found["format_type"] else {}
        at, groups = 8 if found["format_type"] else 4, []
        while at < end:
            group = decoded(data[at:], cls.group)
            ports = pieces(bytes(data[at + 8 : at + 8 + 4 * group["target_port_count"]]), 4)
            groups.append(
                group | {"target_ports": [decoded(p, {"relative_target_port_id": [TWO_BYTES, 2]}) for p in ports]}
            )
            at += 8 + 4 * group["target_port_count"]
        return found | {"target_port_group_descriptors": groups}


# ---- UNMAP (SBC-4 5.35), SYNCHRONIZE CACHE (5.32, 5.33) --------------------------------------------------------------


class Unmap(SCSICommand):  # type: ignore[misc]
    _cdb_bits: ClassVar[Table] = {"opcode": [0xFF, 0], "group": [0x3F, 6], "param_len": [TWO_BYTES, 7]}
    descriptor: ClassVar[Table] = {"lba": [EIGHT_BYTES, 0], "num_blocks": [FOUR_BYTES, 8]}

    def __init__(self, opcode: Any, blocks: list[dict[str, int]], group: int = 0) -> None:
        SCSICommand.__init__(self, opcode, 0, 0)
        rows = b"".join(encoded(16, self.descriptor, block) for block in blocks)
        lengths = {"data_length": len(rows) + 6, "descriptors_length": len(rows)}
        head = encoded(8, {"data_length": [TWO_BYTES, 0], "descriptors_length": [TWO_BYTES, 2]}, lengths)
        self.dataout = head + rows
        self.cdb = self.build_cdb(opcode=opcode.value, group=group, param_len=len(self.dataout))


class SynchronizeCache10(SCSICommand):  # type: ignore[misc]
    _cdb_bits: ClassVar[Table] = {"opcode": [0xFF, 0], "immed": [0x02, 1], "lba": [FOUR_BYTES, 2], "group": [0x3F, 6],
                                  "numblks": [TWO_BYTES, 7]}  # fmt: skip

    def __init__(self, opcode: Any, lba: int, numblks: int, immed: int = 0, group: int = 0) -> None:
        SCSICommand.__init__(self, opcode, 0, 0)
        self.cdb = self.build_cdb(opcode=opcode.value, immed=immed, lba=lba, group=group, numblks=numblks)


class SynchronizeCache16(SynchronizeCache10):
    _cdb_bits: ClassVar[Table] = {"opcode": [0xFF, 0], "immed": [0x02, 1], "lba": [EIGHT_BYTES, 2],
                                  "numblks": [FOUR_BYTES, 10], "group": [0x3F, 14]}  # fmt: skip


# ---- EXTENDED COPY (SPC-4 6.3, SPC-5 6.4 and 6.5) --------------------------------------------------------------------

IDENTIFICATION_DESCRIPTOR = 0xE4
ANY_SEGMENT: Table = {"descriptor_type_code": [0xFF, 0], "dc": [0x02, 1], "cat": [0x01, 1],
                      "descriptor_length": [TWO_BYTES, 2]}  # fmt: skip
WITH_A_STREAM: Table = {"stream_device_transfer_length": [THREE_BYTES, 9],
                        "block_device_number_of_blocks": [TWO_BYTES, 14],
                        "block_device_logical_block_address": [EIGHT_BYTES, 16]}  # fmt: skip
SEGMENTS: dict[int, tuple[int, Table]] = {
    0x00: (24, WITH_A_STREAM),
    0x01: (24, WITH_A_STREAM),
    0x02: (28, {"block_device_number_of_blocks": [TWO_BYTES, 10],
                "source_block_device_logical_block_address": [EIGHT_BYTES, 12],
                "destination_block_device_logical_block_address": [EIGHT_BYTES, 20]}),
}  # fmt: skip


def naa_designator(fields: dict[str, Any]) -> bytes:
    """Locally assigned (SPC-4 7.8.6.6.4): a number of 60 bits after the 3."""
    return bytes(encoded(8, {"naa": [0xF0, 0], "locally_administered_value": [(1 << 60) - 1, 0]}, fields))


class ExtendedCopy(SCSICommand):  # type: ignore[misc]
    """What the two forms have in common."""

    _cdb_bits: ClassVar[Table] = {"opcode": [0xFF, 0], "service_action": [0x1F, 1],
                                  "parameter_list_length": [FOUR_BYTES, 10]}  # fmt: skip
    word: ClassVar[str]
    service_action: ClassVar[int]

    def __init__(self, opcode: Any, list_identifier: int = 0, **lists: list[dict[str, Any]]) -> None:
        SCSICommand.__init__(self, opcode, 0, 0)
        units = b"".join(self.marshall_unit(row) for row in lists[f"{self.word}_descriptor_list"])
        segments = b"".join(self.marshall_segment(row) for row in lists["segment_descriptor_list"])
        self.dataout = self.head(list_identifier, len(units), len(segments)) + units + segments
        self.cdb = self.build_cdb(opcode=opcode.value, service_action=self.service_action,
                                  parameter_list_length=len(self.dataout))  # fmt: skip

    @staticmethod
    def head(list_identifier: int, units: int, segments: int) -> bytearray:
        raise NotImplementedError

    @classmethod
    def marshall_unit(cls, row: dict[str, Any]) -> bytes:
        """An Identification Descriptor CSCD descriptor (SPC-4 6.3.6.2), of a disk or of a tape."""
        found = row[f"{cls.word}_descriptor_parameters"]
        designator = naa_designator(found["designator"])
        fields = {"descriptor_type_code": IDENTIFICATION_DESCRIPTOR, "length": len(designator)} | found
        fields |= {"peripheral_device_type": row["peripheral_device_type"]} | row["device_type_specific_parameters"]
        table: Table = {
            "descriptor_type_code": [0xFF, 0], "peripheral_device_type": [0x1F, 1], "code_set": [0x0F, 4],
            "association": [0x30, 5], "designator_type": [0x0F, 5], "length": [0xFF, 7], "fixed": [0x01, 28],
            "disk_block_length": [THREE_BYTES, 29], "stream_block_length": [THREE_BYTES, 29],
        }  # fmt: skip
        data = encoded(32, table, fields)
        data[8 : 8 + len(designator)] = designator
        return bytes(data)

    @classmethod
    def marshall_segment(cls, row: dict[str, Any]) -> bytes:
        length, table = SEGMENTS[row["descriptor_type_code"]]
        ends: Table = {f"source_{cls.word}_descriptor_id": [TWO_BYTES, 4],
                       f"destination_{cls.word}_descriptor_id": [TWO_BYTES, 6]}  # fmt: skip
        return bytes(encoded(length, ANY_SEGMENT | ends | table, row | {"descriptor_length": length - 4}))


class ExtendedCopySpc4(ExtendedCopy):
    word, service_action = "target", 0

    @staticmethod
    def head(list_identifier: int, units: int, segments: int) -> bytearray:
        table: Table = {"list_identifier": [0xFF, 0], "units": [TWO_BYTES, 2], "segments": [FOUR_BYTES, 8]}
        return encoded(16, table, {"list_identifier": list_identifier, "units": units, "segments": segments})


class ExtendedCopySpc5(ExtendedCopy):
    word, service_action = "cscd", 1

    @staticmethod
    def head(list_identifier: int, units: int, segments: int) -> bytearray:
        table: Table = {
            "parameter_list_format": [0xFF, 0], "header_cscd_descriptor_list_length": [TWO_BYTES, 2],
            "header_cscd_descriptor_type_code": [0xFF, 16], "list_identifier": [FOUR_BYTES, 20],
            "units": [TWO_BYTES, 42], "segments": [TWO_BYTES, 44],
        }  # fmt: skip
        fields = {"parameter_list_format": 1, "header_cscd_descriptor_list_length": 0x20,
                  "header_cscd_descriptor_type_code": 0xFF}  # fmt: skip
        return encoded(48, table, fields | {"list_identifier": list_identifier, "units": units, "segments": segments})


MODULES = {
    "persistentreservein": SimpleNamespace(**{
        f"PersistentReserveIn{what}": globals()[f"PersistentReserveIn{what}"]
        for what in ("ReadKeys", "ReadReservation", "ReportCapabilities", "ReadFullStatus")
    }),
    "persistentreserveout": SimpleNamespace(PersistentReserveOut=PersistentReserveOut),
    "report_target_port_groups": SimpleNamespace(ReportTargetPortGroups=ReportTargetPortGroups),
    "unmap": SimpleNamespace(Unmap=Unmap),
    "synchronize_cache10": SimpleNamespace(SynchronizeCache10=SynchronizeCache10),
    "synchronize_cache16": SimpleNamespace(SynchronizeCache16=SynchronizeCache16),
    "extended_copy_spc4": SimpleNamespace(ExtendedCopy=ExtendedCopySpc4),
    "extended_copy_spc5": SimpleNamespace(ExtendedCopy=ExtendedCopySpc5),
}  # fmt: skip
