"""MODE SENSE and MODE SELECT, 6 and 10 bytes (SPC-5 6.10 to 6.13)."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from scsi_targets.devices.unit.dispatch import CONFLICTS, READS, handles
from scsi_targets.devices.unit.mode import (
    CHANGEABLE,
    ModePages,
    SelectedPage,
)
from scsi_targets.devices.unit.parameter_data import parameter_list, reply
from scsi_targets.devices.unit.part import Part
from scsi_targets.devices.unit.principal import Permission
from scsi_targets.devices.unit.task import Nexus, Response, Task
from scsi_targets.t10 import sense, spc
from scsi_targets.t10.mode_pages import ControlModePage, ModeParameterHeader6, ModeParameterHeader10
from scsi_targets.t10.sense import CheckCondition
from vlib_images.library.actor import acting_as

if TYPE_CHECKING:
    from scsi_targets.devices.unit.mode_header import ModeHeader
    from scsi_targets.devices.unit.primary import PrimaryCommands


class ModeCommands(Part):
    """Serves the mode pages of all parts. The header's fields and the block descriptor are the unit's own."""

    def __init__(self, unit: PrimaryCommands, pages: ModePages, header: ModeHeader) -> None:
        self._unit, self._pages, self._header = unit, pages, header
        self._selecting = threading.Lock()  # one MODE SELECT at a time; taken before the unit's lock

    # ---- MODE SENSE ----------------------------------------------------------------------------------------------

    @handles(spc.ModeSense6, reservation=READS)
    def mode_sense_6(self, cdb: spc.ModeSense6, task: Task) -> Response:
        pages = self._sense_pages(cdb, task.nexus)
        descriptor = b"" if cdb.disable_block_descriptors else self._header.block_descriptor(cdb.page_control)
        length = ModeParameterHeader6.length - 1 + len(descriptor) + len(pages)
        if length > 0xFF:
            raise CheckCondition(sense.INVALID_FIELD_IN_CDB, spc.ModeSense6.page_code)
        header = ModeParameterHeader6.encode(
            mode_data_length=length,
            medium_type=self._header.medium_type(),
            device_specific=0 if cdb.page_control == CHANGEABLE else self._header.device_specific_parameter(),
            block_descriptor_length=len(descriptor),
        )
        return reply(header + descriptor + pages, cdb.allocation_length)

    @handles(spc.ModeSense10, reservation=READS)
    def mode_sense_10(self, cdb: spc.ModeSense10, task: Task) -> Response:
        pages = self._sense_pages(cdb, task.nexus)
        descriptor, long_lba = b"", False
        if not cdb.disable_block_descriptors:
            descriptor = self._header.long_block_descriptor(cdb.page_control) if cdb.long_lba_accepted else b""
            long_lba = bool(descriptor)
            descriptor = descriptor or self._header.block_descriptor(cdb.page_control)
        header = ModeParameterHeader10.encode(
            mode_data_length=ModeParameterHeader10.length - 2 + len(descriptor) + len(pages),
            medium_type=self._header.medium_type(),
            device_specific=0 if cdb.page_control == CHANGEABLE else self._header.device_specific_parameter(),
            long_lba=long_lba,
            block_descriptor_length=len(descriptor),
        )
        return reply(header + descriptor + pages, cdb.allocation_length)

    def _sense_pages(self, cdb: spc.ModeSense6 | spc.ModeSense10, nexus: Nexus) -> bytes:
        if cdb.page_code == 0 and cdb.subpage_code == 0:
            return b""  # the vendor-specific page 00h: the header and block descriptor alone, as tape tools ask
        keys = self._pages.select_pages(cdb.page_code, cdb.subpage_code)
        if not keys:
            field = type(cdb).subpage_code if self._pages.select_pages(cdb.page_code, 0xFF) else type(cdb).page_code
            raise CheckCondition(sense.INVALID_FIELD_IN_CDB, field)
        for part in self._unit.parts:
            part.refresh_mode_pages(self._pages)
        return self._pages.encode(keys, cdb.page_control, nexus)

    # ---- MODE SELECT ---------------------------------------------------------------------------------------------

    @handles(spc.ModeSelect6, permission=Permission.WRITE_PARAMETERS, reservation=CONFLICTS, concurrent=True)
    def mode_select_6(self, cdb: spc.ModeSelect6, task: Task) -> None:
        self._mode_select(cdb, task, ModeParameterHeader6)

    @handles(spc.ModeSelect10, permission=Permission.WRITE_PARAMETERS, reservation=CONFLICTS, concurrent=True)
    def mode_select_10(self, cdb: spc.ModeSelect10, task: Task) -> None:
        self._mode_select(cdb, task, ModeParameterHeader10)

    def _mode_select(
        self,
        cdb: spc.ModeSelect6 | spc.ModeSelect10,
        task: Task,
        header_class: type[ModeParameterHeader6] | type[ModeParameterHeader10],
    ) -> None:
        if cdb.revert_to_defaults:
            raise CheckCondition(sense.INVALID_FIELD_IN_CDB, type(cdb).revert_to_defaults)
        if not cdb.parameter_list_length:
            return
        field = type(cdb).parameter_list_length
        data = parameter_list(task, cdb.parameter_list_length, field, minimum=header_class.length)
        header = header_class.decode(data).values()
        unit, save = self._unit, bool(cdb.save_pages)
        with self._selecting:
            # Everything is checked before anything is changed (SPC-5 6.10), and what can fail comes before what cannot.
            with unit.lock:
                start, end = self._descriptor_span(header, header_class.length, len(data))
                pages = self._check(header, data, start, end, task.nexus)
            if save:
                with acting_as(task.nexus.initiator_name):
                    unit.keep("mode", self._pages.saved_state(pages))
            with unit.lock:
                self._change(task.nexus, header, data[start:end], pages, save)

    def _check(self, header: dict[str, int], data: bytes, start: int, end: int, nexus: Nexus) -> list[SelectedPage]:
        self._header.check_mode_select(header, data[start:end], start)
        pages = self._pages.parse(data[end:], end, nexus)
        for part in self._unit.parts:
            part.check_mode_pages(pages)
        for part in self._unit.parts:
            part.prepare_mode_pages(pages)
        return pages

    def _descriptor_span(self, header: dict[str, int], start: int, total: int) -> tuple[int, int]:
        length = header["block_descriptor_length"]
        if length == 0:
            return start, start
        own = self._header.long_block_descriptor(0) if header.get("long_lba") else self._header.block_descriptor(0)
        if length != len(own):
            raise CheckCondition(sense.INVALID_FIELD_IN_PARAMETER_LIST, start - (1 if start == 4 else 2))
        if start + length > total:
            raise CheckCondition(sense.PARAMETER_LIST_LENGTH_ERROR)
        return start, start + length

    def _change(
        self,
        nexus: Nexus,
        header: dict[str, int],
        descriptor: bytes,
        pages: list[SelectedPage],
        save: bool,
    ) -> None:
        unit = self._unit
        changed = self._pages.apply(pages, save, nexus)
        other = self._header.apply_mode_select(header, descriptor)
        if changed:
            self._apply()
        if other or any(not page.per_nexus for page in changed):
            unit.tell_others(nexus, sense.MODE_PARAMETERS_CHANGED)

    def _apply(self) -> None:
        for part in self._unit.parts:
            part.apply_mode_pages(self._pages)

    def apply_mode_pages(self, mode: ModePages) -> None:
        self._unit.descriptor_sense = bool(mode.current(ControlModePage).descriptor_sense)

    # ---- events ----------------------------------------------------------------------------------------------------

    def on_reset(self) -> None:
        self._pages.restore_saved()
        for part in self._unit.parts:
            part.on_mode_pages_restored()
        self._apply()

    def on_nexus_lost(self, nexus: Nexus) -> None:
        self._pages.forget(nexus)
