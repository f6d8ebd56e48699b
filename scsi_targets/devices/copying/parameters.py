"""EXTENDED COPY parameter lists: everything that is checked before anything is copied (SPC-5 5.17.7.3, 6.4, 6.5)."""

from __future__ import annotations

from dataclasses import dataclass

from scsi_targets.devices.copying import limits
from scsi_targets.devices.copying.cscds import DescribedCscd, describe
from scsi_targets.devices.copying.refusals import invalid
from scsi_targets.t10 import copy_descriptors as copy
from scsi_targets.t10 import sense
from scsi_targets.t10.copy_descriptors import (
    AnyListHeader,
    ParameterListHeader,
    ParameterListHeaderLid4,
    SegmentDescriptor,
)
from scsi_targets.t10.sense import CheckCondition

RESERVED_USAGE = 0b01
# What says that a list is a LID4 list; and a copy that goes on when its command has ended there is none of.
PRESCRIBED_LID4 = {
    ParameterListHeaderLid4.parameter_list_format: 1,
    ParameterListHeaderLid4.header_cscd_descriptor_list_length: copy.CSCD_DESCRIPTOR_LENGTH,
    ParameterListHeaderLid4.header_cscd_descriptor_type_code: 0xFF,
    ParameterListHeaderLid4.immediate: 0,
}
DESCRIPTOR_HEAD_BYTES = DESCRIPTOR_ALIGNMENT = 4


@dataclass(frozen=True, slots=True)
class CopyParameters:
    """A parameter list that is well formed. cscds and segments are in their order, with the offset of each segment in
    the list; `data` is a view of all of it, inline_data of its end."""

    data: memoryview

    header: AnyListHeader
    cscds: list[DescribedCscd]
    segments: list[tuple[int, SegmentDescriptor]]
    inline_data: memoryview

    @property
    def remembered(self) -> bool:
        """Whether the list identifier is one (LIST ID USAGE)."""
        return self.header.list_id_usage != copy.NO_LIST_IDENTIFIER


def parse(
    data: memoryview,
    types: limits.SegmentTypes = SegmentDescriptor.types,
    form: type[AnyListHeader] = ParameterListHeader,
) -> CopyParameters:
    """Takes a parameter list apart; `types`: the segment descriptors that are supported, `form`: what it begins with.
    Raises CheckCondition."""
    if len(data) < form.length:
        raise CheckCondition(sense.PARAMETER_LIST_LENGTH_ERROR)
    header = form.decode(data)
    if isinstance(header, ParameterListHeaderLid4):
        _check_prescribed(header)
    _check_header(header, len(data))
    segments_at = form.length + header.cscd_descriptor_list_length
    inline_at = segments_at + header.segment_descriptor_list_length
    return CopyParameters(
        data,
        header,
        _cscds(bytes(data[form.length : segments_at]), form.length),
        _segments(bytes(data[segments_at:inline_at]), segments_at, types),
        data[inline_at : inline_at + header.inline_data_length],
    )


def _check_prescribed(header: ParameterListHeaderLid4) -> None:
    for field, prescribed in PRESCRIBED_LID4.items():
        if getattr(header, field.name) != prescribed:
            raise invalid(0, field)


def _check_header(header: AnyListHeader, available: int) -> None:
    form = type(header)
    if header.list_id_usage == RESERVED_USAGE:
        raise invalid(0, form.list_id_usage)
    if header.list_id_usage == copy.NO_LIST_IDENTIFIER and header.list_identifier:
        raise invalid(0, form.list_identifier)
    descriptors = header.cscd_descriptor_list_length + header.segment_descriptor_list_length
    if descriptors > limits.MAXIMUM_DESCRIPTOR_LIST_BYTES:  # that comes before what the list consists of
        raise CheckCondition(sense.PARAMETER_LIST_LENGTH_ERROR)
    if header.cscd_descriptor_list_length > limits.MAXIMUM_CSCD_DESCRIPTORS * copy.CSCD_DESCRIPTOR_LENGTH:
        field = form.cscd_descriptor_list_length
        raise invalid(0, field, sense.TOO_MANY_TARGET_DESCRIPTORS)
    if header.inline_data_length > limits.MAXIMUM_INLINE_BYTES:
        raise invalid(0, form.inline_data_length, sense.INLINE_DATA_LENGTH_EXCEEDED)
    if form.length + descriptors + header.inline_data_length > available:
        raise CheckCondition(sense.PARAMETER_LIST_LENGTH_ERROR)
    if header.cscd_descriptor_list_length % copy.CSCD_DESCRIPTOR_LENGTH:
        raise invalid(0, form.cscd_descriptor_list_length)


def _cscds(data: bytes, offset: int) -> list[DescribedCscd]:
    starts = range(0, len(data), copy.CSCD_DESCRIPTOR_LENGTH)
    return [describe(data[at:], offset + at) for at in starts]


def _segments(data: bytes, offset: int, types: limits.SegmentTypes) -> list[tuple[int, SegmentDescriptor]]:
    found: list[tuple[int, SegmentDescriptor]] = []
    at = 0
    while at < len(data):
        if len(found) == limits.MAXIMUM_SEGMENT_DESCRIPTORS:
            raise invalid(offset + at, None, sense.TOO_MANY_SEGMENT_DESCRIPTORS)
        segment, length = _segment(data, at, offset + at, types)
        found.append((offset + at, segment))
        at += length
    return found


def _segment(data: bytes, at: int, offset: int, types: limits.SegmentTypes) -> tuple[SegmentDescriptor, int]:
    """The descriptor that begins at `at`, `offset` in the list, and how long it is with the data it carries."""
    kind = types.get(data[at])
    if kind is None:
        raise invalid(offset, None, sense.UNSUPPORTED_SEGMENT_DESCRIPTOR_TYPE)
    length = DESCRIPTOR_HEAD_BYTES + int.from_bytes(data[at + 2 : at + 4], "big")
    if length < kind.length or length % DESCRIPTOR_ALIGNMENT or (length > kind.length and not kind.carries_data):
        raise invalid(offset + 2)
    if len(data) < at + length:
        raise CheckCondition(sense.PARAMETER_LIST_LENGTH_ERROR)
    return kind.decode(data[at : at + kind.length]), length
