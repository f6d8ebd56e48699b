"""The base of the three kinds of device: the spine, and the parts that disks, tape drives and media changers share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from scsi_targets.devices.unit.diagnostics import Diagnostics
from scsi_targets.devices.unit.log_commands import LogCommands
from scsi_targets.devices.unit.mode import ModePages
from scsi_targets.devices.unit.mode_commands import ModeCommands
from scsi_targets.devices.unit.mode_header import ModeHeader
from scsi_targets.devices.unit.persistent_reserve_in import PersistentReserveIn
from scsi_targets.devices.unit.persistent_reserve_out import PersistentReserveOut
from scsi_targets.devices.unit.primary import PrimaryCommands
from scsi_targets.devices.unit.reserve_release import ReserveRelease
from scsi_targets.devices.unit.supported_commands import SupportedCommands
from scsi_targets.devices.unit.timestamp import Timestamp
from scsi_targets.t10.mode_pages import ControlModePage, ModePage

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from scsi_targets.devices.unit.part import Part


class Device(PrimaryCommands):
    """A logical unit with mode pages and log pages. `mode` holds the values of the mode pages.

    The constructor of a finished device ends with attach(its own parts). ModeCommands comes first among them, so that
    with a reset the others find the saved values in effect; then the spine; then its own parts as they are given."""

    mode: ModePages
    mode_header = ModeHeader()  # a kind of device sets its own before it attaches its parts

    def attach(self, *parts: Part) -> None:
        own = (self, *parts)
        self.mode = make_mode_pages(own, self.store.get(f"{self.state_key}/mode") or {})
        log = LogCommands(self, own)
        diagnostics = Diagnostics(own)
        super().attach(
            ModeCommands(self, self.mode, self.mode_header), log, diagnostics, ReserveRelease(self),
            PersistentReserveIn(self), PersistentReserveOut(self), SupportedCommands(self), Timestamp(), *own,
        )  # fmt: skip
        self.log_pages = log.pages
        for part in self.parts:
            part.on_mode_pages_restored()
        for part in self.parts:
            part.apply_mode_pages(self.mode)

    def mode_pages(self) -> Mapping[type[ModePage], Mapping[str, Any]]:
        return {ControlModePage: {}}


def make_mode_pages(parts: Sequence[Part], saved: dict[str, str]) -> ModePages:
    """The mode pages that these parts name, their defaults and what was saved. TypeError: two classes for one."""
    defaults: dict[type[ModePage], dict[str, Any]] = {}
    classes: dict[tuple[int, int], type[ModePage]] = {}
    for part in parts:
        for page, values in part.mode_pages().items():
            if classes.setdefault((page.page, page.subpage), page) is not page:
                raise TypeError(f"{type(part).__name__}: mode page {page.page:02X}h/{page.subpage:02X}h named twice")
            defaults.setdefault(page, {}).update(values)
    return ModePages(list(defaults), defaults, saved)
