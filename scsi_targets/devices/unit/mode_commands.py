"""MODE SENSE and MODE SELECT, 6 and 10 bytes (SPC-5 6.10 to 6.13)."""

from __future__ import annotations

from typing import Any

from scsi_targets.devices.unit.dispatch import CONFLICTS, READS, handles
from scsi_targets.devices.unit.mode import (
    CHANGEABLE,
    ModePages,
    ModeParameterHeader6,
    ModeParameterHeader10,
    SelectedPage,
)
from scsi_targets.devices.unit.parameter_data import parameter_list, reply
from scsi_targets.devices.unit.primary import PrimaryCommands
from scsi_targets.devices.unit.task import Nexus, Response, Task
from scsi_targets.t10 import sense, spc
from scsi_targets.t10.mode_pages import ControlModePage
from scsi_targets.t10.sense import CheckCondition

BLOCK_DESCRIPTOR_LENGTH = 8
SAVED = 3


class ModeCommands(PrimaryCommands):
    """`self.mode` holds the pages; a device gives the header's fields and its block descriptor through hooks."""

    def __init__(self, *args: Any, mode_pages: ModePages | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.mode = (
            mode_pages
            if mode_pages is not None
            else self.make_mode_pages(self.store.get(f"{self.state_key}/mode") or {})
        )
        self.apply_mode_pages()

    def make_mode_pages(self, saved: dict[str, str]) -> ModePages:
        """The device's pages, with the values that were saved. Called once, from the constructor."""
        return ModePages([ControlModePage], saved=saved)

    # ---- hooks ---------------------------------------------------------------------------------------------------

    def medium_type(self) -> int:
        """MEDIUM TYPE of the mode parameter header."""
        return 0

    def device_specific_parameter(self) -> int:
        """DEVICE-SPECIFIC PARAMETER: write protection, cache, buffered mode, as the device's standard defines it."""
        return 0

    def block_descriptor(self, page_control: int) -> bytes:
        """The short (8-byte) block descriptor, or b"" for a device that has none."""
        return b""

    def long_block_descriptor(self, page_control: int) -> bytes:
        """The long (16-byte, LONGLBA) block descriptor, or b"" for a device that has none."""
        return b""

    def check_mode_select(self, header: dict[str, int], descriptor: bytes, offset: int) -> None:
        """Checks the header's device-specific parameter and the block descriptor (b"" when none was sent), changing
        nothing. `offset` is where the descriptor lies in the parameter list. Raises CheckCondition."""

    def check_mode_pages(self, pages: list[SelectedPage]) -> None:
        """Checks values the masks cannot: raises CheckCondition, changes nothing."""

    def prepare_mode_pages(self, pages: list[SelectedPage]) -> None:
        """Does what must have succeeded before these pages become current, and may raise."""

    def apply_mode_select(self, header: dict[str, int], descriptor: bytes) -> bool:
        """Takes over header and descriptor, already checked; True when something changed."""
        return False

    def apply_mode_pages(self) -> None:
        """Brings current values into effect, however they came: at the start, by MODE SELECT, by a reset."""
        if ControlModePage in self.mode:
            self.descriptor_sense = bool(self.mode.current(ControlModePage).descriptor_sense)

    def refresh_mode_pages(self) -> None:
        """Called before MODE SENSE: a device updates pages that mirror its state."""

    # ---- MODE SENSE ----------------------------------------------------------------------------------------------

    @handles(spc.ModeSense6, reservation=READS)
    def mode_sense_6(self, cdb: spc.ModeSense6, task: Task) -> Response:
        pages = self._sense_pages(cdb, task.nexus)
        descriptor = b"" if cdb.disable_block_descriptors else self.block_descriptor(cdb.page_control)
        length = ModeParameterHeader6.length - 1 + len(descriptor) + len(pages)
        if length > 0xFF:
            raise CheckCondition(sense.INVALID_FIELD_IN_CDB, spc.ModeSense6.page_code)
        header = ModeParameterHeader6.encode(
            mode_data_length=length,
            medium_type=self.medium_type(),
            device_specific=0 if cdb.page_control == CHANGEABLE else self.device_specific_parameter(),
            block_descriptor_length=len(descriptor),
        )
        return reply(header + descriptor + pages, cdb.allocation_length)

    @handles(spc.ModeSense10, reservation=READS)
    def mode_sense_10(self, cdb: spc.ModeSense10, task: Task) -> Response:
        pages = self._sense_pages(cdb, task.nexus)
        descriptor, long_lba = b"", False
        if not cdb.disable_block_descriptors:
            descriptor = self.long_block_descriptor(cdb.page_control) if cdb.long_lba_accepted else b""
            long_lba = bool(descriptor)
            descriptor = descriptor or self.block_descriptor(cdb.page_control)
        header = ModeParameterHeader10.encode(
            mode_data_length=ModeParameterHeader10.length - 2 + len(descriptor) + len(pages),
            medium_type=self.medium_type(),
            device_specific=0 if cdb.page_control == CHANGEABLE else self.device_specific_parameter(),
            long_lba=long_lba,
            block_descriptor_length=len(descriptor),
        )
        return reply(header + descriptor + pages, cdb.allocation_length)

    def _sense_pages(self, cdb: spc.ModeSense6 | spc.ModeSense10, nexus: Nexus) -> bytes:
        if cdb.page_code == 0 and cdb.subpage_code == 0:
            return b""  # the vendor-specific page 00h: the header and block descriptor alone, as tape tools ask
        keys = self.mode.select_pages(cdb.page_code, cdb.subpage_code)
        if not keys:
            field = type(cdb).subpage_code if self.mode.select_pages(cdb.page_code, 0xFF) else type(cdb).page_code
            raise CheckCondition(sense.INVALID_FIELD_IN_CDB, field)
        self.refresh_mode_pages()
        return self.mode.encode(keys, cdb.page_control, nexus)

    # ---- MODE SELECT ---------------------------------------------------------------------------------------------

    @handles(spc.ModeSelect6, reservation=CONFLICTS)
    def mode_select_6(self, cdb: spc.ModeSelect6, task: Task) -> None:
        self._mode_select(cdb, task, ModeParameterHeader6)

    @handles(spc.ModeSelect10, reservation=CONFLICTS)
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
        start, end = self._descriptor_span(header, header_class.length, len(data))
        # Everything is checked before anything is changed (SPC-5 6.10).
        self.check_mode_select(header, data[start:end], start)
        pages = self.mode.parse(data[end:], end, task.nexus)
        self.check_mode_pages(pages)
        self._change(task.nexus, header, data[start:end], pages, bool(cdb.save_pages))

    def _descriptor_span(self, header: dict[str, int], start: int, total: int) -> tuple[int, int]:
        length = header["block_descriptor_length"]
        if length == 0:
            return start, start
        own = self.long_block_descriptor(0) if header.get("long_lba") else self.block_descriptor(0)
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
        # What can fail comes first, so that a command that failed has changed nothing.
        self.prepare_mode_pages(pages)
        if save:
            self.keep("mode", self.mode.saved_state(pages))
        changed = self.mode.apply(pages, save, nexus)
        other = self.apply_mode_select(header, descriptor)
        if changed:
            self.apply_mode_pages()
        if other or any(not page.per_nexus for page in changed):
            self.tell_others(nexus, sense.MODE_PARAMETERS_CHANGED)

    def on_reset(self) -> None:
        super().on_reset()
        self.mode.restore_saved()
        self.apply_mode_pages()

    def on_nexus_lost(self, nexus: Nexus) -> None:
        super().on_nexus_lost(nexus)
        self.mode.forget(nexus)
