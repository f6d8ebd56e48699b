"""What the drive can do with media: REPORT DENSITY SUPPORT, READ BLOCK LIMITS, READ MEDIA SERIAL NUMBER."""

from __future__ import annotations

from typing import TYPE_CHECKING

from scsi_targets.devices.tape.base import MAXIMUM_BLOCK_LENGTH, MINIMUM_BLOCK_LENGTH
from scsi_targets.devices.tape.models import DENSITIES, MEGABYTE
from scsi_targets.devices.tape.part import TapePart
from scsi_targets.devices.unit.dispatch import ALLOWED, REQUIRED, handles
from scsi_targets.devices.unit.parameter_data import reply
from scsi_targets.t10 import ssc
from scsi_targets.t10.fields import integers
from scsi_targets.t10.ssc_pages import (
    PROTECTION_INFORMATION_LENGTH,
    DensityDescriptor,
    DensitySupportHeader,
    MaximumLogicalObjectIdentifier,
    MediumTypeDescriptor,
    ReadBlockLimitsData,
)
from vlib_images.cartridge.medium import MediumType, can_write

if TYPE_CHECKING:
    from scsi_targets.devices.unit.task import Response, Task

ASSIGNING_ORGANIZATION = "LTO-CVE"
TENTHS_OF_HALF_AN_INCH = 127
# Object numbers are 64 bits wide on the medium, and READ POSITION's long form and LOCATE(16) carry all of them.
MAXIMUM_OBJECT_IDENTIFIER = (1 << 64) - 1


class DensityCommands(TapePart):
    """Answers that come from tables of data."""

    @handles(ssc.ReadBlockLimits, reservation=ALLOWED)
    def read_block_limits(self, cdb: ssc.ReadBlockLimits, task: Task) -> Response:
        if cdb.maximum_logical_object_identifier:
            data = MaximumLogicalObjectIdentifier.encode(maximum_logical_object_identifier=MAXIMUM_OBJECT_IDENTIFIER)
        else:
            # SSC-5 4.2.27: with protection information a block must still fit the 24 bits of TRANSFER LENGTH.
            protected = task.nexus in self._drive.protecting_writes or task.nexus in self._drive.protecting_reads
            data = ReadBlockLimitsData.encode(
                maximum_block_length=MAXIMUM_BLOCK_LENGTH - (PROTECTION_INFORMATION_LENGTH if protected else 0),
                minimum_block_length=MINIMUM_BLOCK_LENGTH,
            )
        return reply(data, len(data))

    @handles(ssc.ReportDensitySupport, reservation=ALLOWED)
    def report_density_support(self, cdb: ssc.ReportDensitySupport, task: Task) -> Response:
        media = [self._drive.loaded.medium] if cdb.media else list(self._drive.model.media)
        describe = self._medium_descriptor if cdb.medium_type else self._density_descriptor
        if not cdb.medium_type:
            media = list({medium.density_code: medium for medium in reversed(media)}.values())[::-1]
        body = b"".join(describe(medium) for medium in media)
        header = DensitySupportHeader.encode(available_length=DensitySupportHeader.length - 2 + len(body))
        return reply(header + body, cdb.allocation_length)

    def _density_descriptor(self, medium: MediumType) -> bytes:
        density = DENSITIES[medium.density_code]
        loaded = self._drive.medium
        is_loaded = loaded is not None and loaded.medium.density_code == density.code
        capacity = loaded.capacity_bytes if loaded is not None and is_loaded else medium.capacity_bytes
        default = is_loaded if loaded is not None else density.code == self._drive.model.native_medium.density_code
        return DensityDescriptor.encode(
            primary_density_code=density.code,
            secondary_density_code=density.code,
            write_ok=can_write(self._drive.model.generation, medium),
            default=default,
            bits_per_mm=density.bits_per_mm,
            media_width=TENTHS_OF_HALF_AN_INCH,
            tracks=density.tracks,
            capacity=capacity // MEGABYTE,
            assigning_organization=ASSIGNING_ORGANIZATION,
            density_name=density.name,
            description=density.description,
        )

    def _medium_descriptor(self, medium: MediumType) -> bytes:
        density = DENSITIES[medium.density_code]
        return MediumTypeDescriptor.encode(
            medium_type=medium.medium_type,
            number_of_density_codes=1,
            primary_density_codes=integers([density.code], 1),
            media_width=TENTHS_OF_HALF_AN_INCH,
            medium_length=medium.length_meters,
            assigning_organization=ASSIGNING_ORGANIZATION,
            medium_type_name=f"LTO-{medium.generation}{'W' if medium.worm else ''}",
            description=medium.name,
        )

    @handles(ssc.ReadMediaSerialNumber, medium=REQUIRED, reservation=ALLOWED, exclusive=False)
    def read_media_serial_number(self, cdb: ssc.ReadMediaSerialNumber, task: Task) -> Response:
        serial = self._drive.loaded.uuid.encode("ascii")
        header = ssc.MediaSerialNumberHeader.encode(serial_number_length=len(serial))
        return reply(header + serial, cdb.allocation_length)
