"""Moving the position: REWIND, SPACE, LOCATE, READ POSITION (SSC-3 6.3, 6.6, 7.3, 7.6, 7.9, 7.11)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from scsi_targets.devices.tape.base import MEDIUM_ACCESS_SECONDS
from scsi_targets.devices.tape.part import TapePart
from scsi_targets.devices.tape.transfer import filemark_detected
from scsi_targets.devices.unit.dispatch import READS, REQUIRED, handles
from scsi_targets.devices.unit.parameter_data import reply
from scsi_targets.t10 import sense, ssc
from scsi_targets.t10.sense import CheckCondition
from scsi_targets.t10.ssc_pages import ExtendedPosition, LongPosition, ShortPosition
from vlib_images.cartridge.positioning import SpaceResult, Stop

if TYPE_CHECKING:
    from scsi_targets.devices.unit.task import Response, Task
    from scsi_targets.t10.fields import Field

# What the 32-bit fields of the short form hold; farther out the form answers with PERR set.
_SHORT_FORM_LIMIT = 0xFFFFFFFF


class Positioning(TapePart):
    """Every move first makes what was written durable, so that nothing is lost silently behind it."""

    # ---- REWIND and SPACE ----------------------------------------------------------------------------------------

    @handles(ssc.Rewind, medium=REQUIRED, reservation=READS, timeout_seconds=MEDIUM_ACCESS_SECONDS)
    def rewind(self, cdb: ssc.Rewind, task: Task) -> None:
        self._drive.synchronize(deferred=True)
        self._drive.loaded.rewind()
        self._drive.on_moved()

    @handles(ssc.Space6, medium=REQUIRED, reservation=READS, timeout_seconds=MEDIUM_ACCESS_SECONDS)
    def space_6(self, cdb: ssc.Space6, task: Task) -> None:
        self.space(cdb.code, _signed(cdb.count, 24), ssc.Space6.code)

    @handles(ssc.Space16, medium=REQUIRED, reservation=READS, timeout_seconds=MEDIUM_ACCESS_SECONDS)
    def space_16(self, cdb: ssc.Space16, task: Task) -> None:
        if cdb.parameter_list_length:
            raise CheckCondition(sense.INVALID_FIELD_IN_CDB, ssc.Space16.parameter_list_length)
        self.space(cdb.code, _signed(cdb.count, 64), ssc.Space16.code)

    def space(self, code: int, count: int, field: Field) -> None:
        """SPACE. INFORMATION is what was not spaced over, never negative (SSC-3 6.6)."""
        medium = self._drive.loaded
        if code > ssc.SPACE_END_OF_DATA:
            raise CheckCondition(sense.INVALID_FIELD_IN_CDB, field)  # setmarks went with SCSI-2
        self._drive.synchronize(deferred=True)
        if code == ssc.SPACE_END_OF_DATA:
            medium.space_end_of_data()
        elif count:
            move = (medium.space_blocks, medium.space_filemarks, medium.space_sequential_filemarks)[code]
            self._check_arrival(move(count), abs(count))
        self._drive.on_moved()

    def _check_arrival(self, result: SpaceResult, count: int) -> None:
        residual = count - result.moved
        if result.stopped_by is Stop.NONE:
            return
        self._drive.on_moved()
        if result.stopped_by is Stop.FILEMARK:
            raise filemark_detected(residual)
        if result.stopped_by is Stop.END_OF_DATA:
            raise self._drive.end_of_data_detected(residual)
        raise CheckCondition(sense.BEGINNING_OF_PARTITION_DETECTED, information=residual, end_of_medium=True)

    # ---- LOCATE --------------------------------------------------------------------------------------------------

    @handles(ssc.Locate10, medium=REQUIRED, reservation=READS, timeout_seconds=MEDIUM_ACCESS_SECONDS)
    def locate_10(self, cdb: ssc.Locate10, task: Task) -> None:
        # BT: this drive's device-specific addresses are its logical object identifiers.
        partition = self._partition(cdb.change_partition, cdb.partition, ssc.Locate10.partition)
        self.locate(ssc.DESTINATION_OBJECT, partition, cdb.logical_object_identifier)

    @handles(ssc.Locate16, medium=REQUIRED, reservation=READS, timeout_seconds=MEDIUM_ACCESS_SECONDS)
    def locate_16(self, cdb: ssc.Locate16, task: Task) -> None:
        if cdb.block_address_mode:
            raise CheckCondition(sense.INVALID_FIELD_IN_CDB, ssc.Locate16.block_address_mode)
        if cdb.destination_type not in (
            ssc.DESTINATION_OBJECT, ssc.DESTINATION_FILE, ssc.DESTINATION_END_OF_DATA,
        ):  # fmt: skip
            raise CheckCondition(sense.INVALID_FIELD_IN_CDB, ssc.Locate16.destination_type)
        partition = self._partition(cdb.change_partition, cdb.partition, ssc.Locate16.partition)
        self.locate(cdb.destination_type, partition, cdb.logical_identifier)

    def _partition(self, change: int, partition: int, field: Field) -> int:
        if not change:
            return self._drive.loaded.position[0]
        if partition >= self._drive.loaded.partition_count:
            raise CheckCondition(sense.INVALID_FIELD_IN_CDB, field)
        return partition

    def locate(self, destination: int, partition: int, identifier: int) -> None:
        """LOCATE. Raises CheckCondition."""
        medium = self._drive.loaded
        self._drive.synchronize(deferred=True)
        if destination == ssc.DESTINATION_END_OF_DATA:
            medium.locate_block(partition, 0)
            medium.space_end_of_data()
            stopped_by = Stop.NONE
        elif destination == ssc.DESTINATION_FILE:
            stopped_by = medium.locate_file(partition, identifier).stopped_by
        else:
            stopped_by = medium.locate_block(partition, identifier).stopped_by
        self._drive.on_moved()
        if stopped_by is not Stop.NONE:
            raise self._drive.end_of_data_detected(
                None
            )  # SSC-3 6.3: the position is end of data; no INFORMATION is defined

    # ---- READ POSITION -------------------------------------------------------------------------------------------

    @handles(ssc.ReadPositionShort, medium=REQUIRED, reservation=READS, exclusive=False)
    @handles(ssc.ReadPositionShortVendor, medium=REQUIRED, reservation=READS, exclusive=False)
    def read_position_short(self, cdb: ssc.ReadPositionShort, task: Task) -> Response:
        # SSC-3 7.6.1: the short and long forms take no allocation length
        partition, block = self._drive.loaded.position
        if block > _SHORT_FORM_LIMIT:
            data = ShortPosition.encode(position_error=1, partition=partition, **self._flags())
        else:
            data = ShortPosition.encode(**self._buffered(), **self._flags())
        return reply(data, len(data))

    @handles(ssc.ReadPositionLong, medium=REQUIRED, reservation=READS, exclusive=False)
    def read_position_long(self, cdb: ssc.ReadPositionLong, task: Task) -> Response:
        partition, block = self._drive.loaded.position
        data = LongPosition.encode(
            partition=partition,
            logical_object_number=block,
            logical_file_identifier=self._drive.loaded.file_number,
            **self._flags(),
        )
        return reply(data, len(data))

    @handles(ssc.ReadPositionExtended, medium=REQUIRED, reservation=READS, exclusive=False)
    def read_position_extended(self, cdb: ssc.ReadPositionExtended, task: Task) -> Response:
        return reply(ExtendedPosition.encode(**self._buffered(), **self._flags()), cdb.allocation_length)

    def _buffered(self) -> dict[str, int]:
        # First is where the next object from the initiator goes, last the next one to go from the buffer to the medium
        # (SSC-3 7.6.2): here, the first one that is not yet durable.
        partition, first = self._drive.loaded.position
        last = self._drive.buffered_from[1] if self._drive.buffered_from is not None else first
        return {
            "partition": partition,
            "first_logical_object": first,
            "last_logical_object": last,
            "logical_objects_in_buffer": min(first - last, 0xFFFFFF),
            "byte_count_unknown": first != last,
        }

    def _flags(self) -> dict[str, int]:
        medium = self._drive.loaded
        return {
            "beginning_of_partition": medium.position[1] == 0,
            "end_of_partition": medium.past_early_warning,
            "beyond_programmable_early_warning": self._drive.in_programmable_zone(medium),
        }


def _signed(value: int, width: int) -> int:
    return value - (1 << width) if value >> (width - 1) else value
