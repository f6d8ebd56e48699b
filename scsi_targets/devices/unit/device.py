"""The base of the three kinds of device: the spine, and the parts that disks, tape drives and media changers share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from scsi_targets.devices.unit.log_commands import LogCommands
from scsi_targets.devices.unit.mode import ModePages
from scsi_targets.devices.unit.mode_commands import ModeCommands
from scsi_targets.devices.unit.persistent_reserve import PersistentReserveCommands
from scsi_targets.t10.mode_pages import ControlModePage, ModePage

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from scsi_targets.devices.unit.part import Part


class Device(PersistentReserveCommands):
    """A logical unit with mode pages and log pages. `mode` holds the values of the mode pages.

    The constructor of a finished device ends with attach(its own parts). ModeCommands comes first among them, so that
    with a reset the others find the saved values in effect; then the spine; then its own parts as they are given."""

    mode: ModePages

    def attach(self, *parts: Part) -> None:
        own = (self, *parts)
        self.mode = make_mode_pages(own, self.store.get(f"{self.state_key}/mode") or {})
        log = LogCommands(self, own)
        super().attach(ModeCommands(self), log, *own)
        self.log_pages = log.pages
        for part in self.parts:
            part.on_mode_pages_restored()
        for part in self.parts:
            part.apply_mode_pages(self.mode)

    def mode_pages(self) -> Mapping[type[ModePage], Mapping[str, Any]]:
        return {ControlModePage: {}}

    # ---- hooks of the kinds of device: mode parameter header and block descriptor ------------------------------------

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

    def apply_mode_select(self, header: dict[str, int], descriptor: bytes) -> bool:
        """Takes over header and descriptor, already checked; True when something changed."""
        return False


def make_mode_pages(parts: Sequence[Part], saved: dict[str, str]) -> ModePages:
    """The mode pages that these parts name, with their defaults and what was saved."""
    defaults: dict[type[ModePage], dict[str, Any]] = {}
    for part in parts:
        for page, values in part.mode_pages().items():
            defaults.setdefault(page, {}).update(values)
    return ModePages(list(defaults), defaults, saved)
