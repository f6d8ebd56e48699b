"""CSCD descriptors: which types there are, and which name of a logical unit each of them gives.

A new type is declared in t10.copy_descriptors and registered here by names().
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

from scsi_targets.devices.copying.access import Designator
from scsi_targets.devices.copying.refusals import invalid
from scsi_targets.t10 import copy_descriptors as copy
from scsi_targets.t10 import sense, vpd
from scsi_targets.t10.copy_descriptors import CscdDescriptor, IdentificationDescriptor

Namer: TypeAlias = Callable[[Any, int], Designator]

NAMERS: dict[int, Namer] = {}  # by descriptor type code
LOGICAL_UNIT = 0  # ASSOCIATION: only logical units can be copied from and to


class DescribedCscd(NamedTuple):
    """One CSCD descriptor of a parameter list: where it begins there, and whom it names; None: the null device."""

    offset: int
    descriptor: CscdDescriptor
    designator: Designator | None


def names(kind: type[CscdDescriptor]) -> Callable[[Namer], Namer]:
    """Registers what checks a descriptor of that type at an offset of the list and says whom it names."""

    def register(namer: Namer) -> Namer:
        NAMERS[kind.type_code] = namer
        return namer

    return register


def describe(data: bytes, offset: int) -> DescribedCscd:
    """The descriptor at the head of `data`. Raises CheckCondition."""
    if (namer := NAMERS.get(data[0])) is None:
        raise invalid(offset, None, sense.UNSUPPORTED_TARGET_DESCRIPTOR_TYPE)
    found = CscdDescriptor.types[data[0]].decode(data)
    if found.peripheral_device_type == vpd.SEQUENTIAL_ACCESS and bool(found.fixed) != bool(found.block_length):
        raise invalid(offset, CscdDescriptor.block_length)  # SPC-5 table 138
    return DescribedCscd(offset, found, None if found.null else namer(found, offset))


@names(copy.IdentificationDescriptor)
def identification(found: IdentificationDescriptor, offset: int) -> Designator:
    """Any designator of the logical unit that its Device Identification VPD page shows."""
    if found.association != LOGICAL_UNIT:
        raise invalid(offset, IdentificationDescriptor.association)
    if not 0 < found.designator_length <= IdentificationDescriptor.designator.length:
        raise invalid(offset, IdentificationDescriptor.designator_length)
    return Designator(found.code_set, found.designator_type, found.designator[: found.designator_length])
