"""What this copy manager can do, stated once: RECEIVE COPY OPERATING PARAMETERS, VPD page 8Fh and the checks of
parameter lists all come from here (SPC-5 6.22, 7.8.17)."""

from __future__ import annotations

from collections.abc import Mapping

from datamover.engine import LIMIT_TRANSFER_BYTES
from scsi_targets.devices.copying.cscds import NAMERS
from scsi_targets.devices.unit.dispatch import RowTable
from scsi_targets.devices.unit.task_set import MAX_DEFERRED_TASKS
from scsi_targets.t10 import copy_descriptors as copy
from scsi_targets.t10.fields import integers

SegmentTypes = Mapping[int, type[copy.SegmentDescriptor]]  # by descriptor type code

MAXIMUM_CSCD_DESCRIPTORS = 64
# A block list of a scattered file has one segment for each extent; beyond this a server sends a second command.
MAXIMUM_SEGMENT_DESCRIPTORS = 8192
MAXIMUM_DESCRIPTOR_LIST_BYTES = (
    MAXIMUM_CSCD_DESCRIPTORS * copy.CSCD_DESCRIPTOR_LENGTH
    + MAXIMUM_SEGMENT_DESCRIPTORS * max(segment.length for segment in copy.SegmentDescriptor.types.values())
)
MAXIMUM_INLINE_BYTES = 8 << 20
MAXIMUM_STREAM_TRANSFER_BYTES = LIMIT_TRANSFER_BYTES
CONCURRENT_COPIES = MAX_DEFERRED_TASKS
CSCD_DESCRIPTOR_IDS = (copy.THIS_LOGICAL_UNIT,)


def _descriptor_types(segments: SegmentTypes) -> bytes:
    return bytes(sorted({*segments, *NAMERS}))


def operating_parameters(segments: SegmentTypes) -> bytes:
    """RECEIVE COPY OPERATING PARAMETERS parameter data. No held data, any granularity, segments of any length."""
    types = _descriptor_types(segments)
    body = copy.OperatingParameters.encode(
        available_data=copy.OperatingParameters.length - 4 + len(types),
        supports_no_list_identifier=1,
        maximum_cscd_descriptor_count=MAXIMUM_CSCD_DESCRIPTORS,
        maximum_segment_descriptor_count=MAXIMUM_SEGMENT_DESCRIPTORS,
        maximum_descriptor_list_length=MAXIMUM_DESCRIPTOR_LIST_BYTES,
        maximum_inline_data_length=MAXIMUM_INLINE_BYTES,
        maximum_stream_device_transfer_size=MAXIMUM_STREAM_TRANSFER_BYTES,
        total_concurrent_copies=CONCURRENT_COPIES,
        maximum_concurrent_copies=CONCURRENT_COPIES,
        implemented_descriptor_list_length=len(types),
    )
    return body + types


def third_party_copy_page(rows: RowTable, segments: SegmentTypes) -> bytes:
    """The body of the Third-party Copy VPD page for a device with these commands."""
    types = _descriptor_types(segments)
    commands = b"".join(_command_support(rows, opcode) for opcode in (0x83, 0x84))
    return b"".join(
        (
            copy.list_descriptor(copy.SUPPORTED_COMMANDS, copy.ShortListHeader, commands),
            copy.ParameterDataDescriptor.encode(
                maximum_cscd_descriptor_count=MAXIMUM_CSCD_DESCRIPTORS,
                maximum_segment_descriptor_count=MAXIMUM_SEGMENT_DESCRIPTORS,
                maximum_descriptor_list_length=MAXIMUM_DESCRIPTOR_LIST_BYTES,
                maximum_inline_data_length=MAXIMUM_INLINE_BYTES,
            ),
            copy.list_descriptor(copy.SUPPORTED_DESCRIPTORS, copy.ShortListHeader, types),
            copy.list_descriptor(
                copy.SUPPORTED_CSCD_DESCRIPTOR_IDS, copy.CscdDescriptorIdsHeader, integers(CSCD_DESCRIPTOR_IDS, 2)
            ),
            copy.GeneralCopyOperationsDescriptor.encode(
                total_concurrent_copies=CONCURRENT_COPIES, maximum_concurrent_copies=CONCURRENT_COPIES
            ),
            copy.StreamCopyOperationsDescriptor.encode(
                maximum_stream_device_transfer_size=MAXIMUM_STREAM_TRANSFER_BYTES
            ),
        )
    )


def _command_support(rows: RowTable, opcode: int) -> bytes:
    actions = rows.get(opcode)
    listed = bytes(sorted(actions)) if isinstance(actions, dict) else b""
    return copy.CommandSupport.encode(operation_code=opcode, list_length=len(listed)) + listed
