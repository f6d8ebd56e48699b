"""Commands that destroy data or shape the medium: ERASE, FORMAT MEDIUM, SET CAPACITY, ALLOW OVERWRITE (SSC-3 6.2, 7.1,
7.10; SSC-4)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from scsi_targets.devices.tape.models import DENSITIES
from scsi_targets.devices.tape.part import TapePart
from scsi_targets.devices.unit.dispatch import REQUIRED, handles
from scsi_targets.devices.unit.principal import Permission
from scsi_targets.t10 import sense, ssc
from scsi_targets.t10.sense import CheckCondition
from scsi_targets.t10.ssc_pages import MediumPartitionPage

if TYPE_CHECKING:
    from scsi_targets.devices.tape.mode import TapeModes
    from scsi_targets.devices.tape.transfer import TapeTransfers
    from scsi_targets.devices.unit.mode import SelectedPage
    from scsi_targets.devices.unit.task import Task
    from vlib_images.cartridge.cartridge import Cartridge

REST_OF_THE_MEDIUM = 0xFFFF  # a partition size
WRAPS_PER_PARTITION = 2  # at least
PARTITION_SIZE_BYTES = 2  # a PARTITION SIZE descriptor


class Formatting(TapePart):
    """IMMED is honoured by ending sooner: none of these takes long here, so GOOD says that it is done."""

    def __init__(self, drive: TapeTransfers, modes: TapeModes) -> None:
        super().__init__(drive)
        self._modes = modes

    @handles(ssc.Erase6, medium=REQUIRED, writes=True, slow=True, timeout_seconds=3600)
    def erase_6(self, cdb: ssc.Erase6, task: Task) -> None:
        self._drive.synchronize(deferred=True)
        self._drive.check_append(self._drive.loaded)
        self._drive.loaded.erase(long=bool(cdb.long))
        self._drive.on_moved()

    # ---- FORMAT MEDIUM -------------------------------------------------------------------------------------------

    @handles(ssc.FormatMedium, medium=REQUIRED, writes=True, slow=True, timeout_seconds=3600)
    def format_medium(self, cdb: ssc.FormatMedium, task: Task) -> None:
        if cdb.transfer_length:
            raise CheckCondition(sense.INVALID_FIELD_IN_CDB, ssc.FormatMedium.transfer_length)
        if cdb.format > ssc.FORMAT_DEFAULT_THEN_PARTITION:
            raise CheckCondition(sense.INVALID_FIELD_IN_CDB, ssc.FormatMedium.format)
        medium = self._at_beginning()
        sizes = [medium.usable_bytes]
        if cdb.format != ssc.FORMAT_DEFAULT:
            sizes = partition_sizes(self._drive.mode.current(self._modes.partition_page), medium)
        if len(sizes) > 1 and medium.worm:
            raise CheckCondition(sense.CANNOT_FORMAT_MEDIUM_INCOMPATIBLE_MEDIUM)
        self._reshape(task, sizes)

    def _reshape(self, task: Task, sizes: list[int], usable_bytes: int | None = None) -> None:
        allowed, self._drive.format_allowed = self._drive.format_allowed, False
        if self._drive.append_only and not allowed and has_data(self._drive.loaded):  # SSC-4 4.2.20
            raise CheckCondition(sense.WORM_MEDIUM_OVERWRITE_ATTEMPTED)
        self._drive.loaded.format(sizes, usable_bytes)
        self._drive.buffered_from = None  # what was not yet durable is gone with the rest
        with self._drive.lock:
            self._modes.show_partitions()
            self._drive.on_moved()
            self._drive.tell_others(task.nexus, sense.MODE_PARAMETERS_CHANGED)

    def _at_beginning(self) -> Cartridge:
        if self._drive.loaded.position != (0, 0):
            raise CheckCondition(sense.POSITION_PAST_BEGINNING_OF_MEDIUM)  # SSC-3 7.1
        return self._drive.loaded

    def check_mode_pages(self, pages: Sequence[SelectedPage]) -> None:
        for page, raw, offset in pages:
            if page is self._modes.partition_page:
                check_partition_page(self._modes.partition_page(raw), offset)
                if self._drive.medium is not None:
                    partition_sizes(self._modes.partition_page(raw), self._drive.medium, offset)

    # ---- capacity and overwriting --------------------------------------------------------------------------------

    @handles(ssc.SetCapacity, medium=REQUIRED, writes=True, slow=True, timeout_seconds=3600)
    def set_capacity(self, cdb: ssc.SetCapacity, task: Task) -> None:
        # SSC-3 7.10: a single partition of this proportion; all data is lost, FFFFh gives the whole medium back
        usable = self._drive.loaded.capacity_bytes * cdb.capacity_proportion_value // 0xFFFF
        if not usable:
            raise CheckCondition(sense.INVALID_FIELD_IN_CDB, ssc.SetCapacity.capacity_proportion_value)
        self._at_beginning()
        self._reshape(task, [usable], usable)

    @handles(ssc.AllowOverwrite, permission=Permission.WRITE_DATA, medium=REQUIRED)
    def allow_overwrite(self, cdb: ssc.AllowOverwrite, task: Task) -> None:
        if not self._drive.append_only:
            raise CheckCondition(sense.COMMAND_SEQUENCE_ERROR)
        where = (cdb.partition, cdb.logical_object_identifier)
        self._drive.format_allowed = cdb.allow_overwrite == ssc.OVERWRITE_FORMAT
        if cdb.allow_overwrite == ssc.OVERWRITE_DISABLED:
            self._drive.overwrite_allowed_at = None
        elif cdb.allow_overwrite == ssc.OVERWRITE_CURRENT_POSITION:
            if where != self._drive.loaded.position:
                raise CheckCondition(sense.POSITION_NOT_AS_EXPECTED)
            self._drive.overwrite_allowed_at = where
        elif not self._drive.format_allowed:
            raise CheckCondition(sense.INVALID_FIELD_IN_CDB, ssc.AllowOverwrite.allow_overwrite)


def has_data(medium: Cartridge) -> bool:
    """Whether there is a block or filemark in any partition."""
    return any(medium.end_of_data(number) for number in range(medium.partition_count))


def check_partition_page(page: MediumPartitionPage, offset: int = 0) -> None:
    """Raises CheckCondition when the page, which lies at `offset` of a parameter list, asks for more partitions than
    there can be, or in two ways at once."""
    if page.additional_partitions_defined > page.maximum_additional_partitions:
        field = MediumPartitionPage.additional_partitions_defined
        raise CheckCondition(sense.INVALID_FIELD_IN_PARAMETER_LIST, offset + field.byte)
    ways = (page.fixed_data_partitions, page.select_data_partitions, page.initiator_defined_partitions)
    if sum(ways) > 1:
        field = MediumPartitionPage.fixed_data_partitions
        raise CheckCondition(sense.INVALID_FIELD_IN_PARAMETER_LIST, offset + field.byte)


def partition_sizes(page: MediumPartitionPage, medium: Cartridge, offset: int = 0) -> list[int]:
    """The partitions that the page asks for, in bytes, each at least as long as a real medium could make it.

    Raises CheckCondition: they do not fit the medium. It points at the first size that has no room beside those before
    it, or at the second that takes the rest; the page lies at `offset` of the parameter list."""
    capacity = medium.usable_bytes
    smallest = capacity * WRAPS_PER_PARTITION // DENSITIES[medium.medium.density_code].wraps
    if page.fixed_data_partitions:
        return [capacity - smallest, smallest]
    count = page.additional_partitions_defined + 1
    if not page.initiator_defined_partitions:
        return [capacity // count + capacity % count] + [capacity // count] * (count - 1)
    sizes: list[int] = []
    rest = None  # which partition takes what the others leave, a smallest one until all are known
    for number, asked in enumerate(page.partition_sizes[:count]):
        is_rest = asked == REST_OF_THE_MEDIUM
        sizes.append(smallest if is_rest else max(asked * page.unit_bytes, smallest))
        if sum(sizes) > capacity or (is_rest and rest is not None):
            at = offset + MediumPartitionPage.length + number * PARTITION_SIZE_BYTES
            raise CheckCondition(sense.INVALID_FIELD_IN_PARAMETER_LIST, at)
        rest = number if is_rest else rest
    if rest is not None:
        sizes[rest] += capacity - sum(sizes)
    return sizes
