"""What a media changer's mode pages say of its partition (SMC-3 7.3)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from scsi_targets.devices.unit.part import Part
from scsi_targets.t10 import smc
from scsi_targets.t10.mode_pages import InformationalExceptionsModePage, ModePage
from vlib_images.library.elements import ElementType, Layout

if TYPE_CHECKING:
    from collections.abc import Mapping

    from scsi_targets.devices.changer.base import ChangerBase
    from scsi_targets.devices.unit.mode import ModePages

_NAMES = {
    ElementType.TRANSPORT: "transport",
    ElementType.STORAGE: "storage",
    ElementType.IMPORT_EXPORT: "import_export",
    ElementType.DRIVE: "data_transfer",
}


class ChangerModes(Part):
    """The mode pages of a media changer. Nothing in them can be changed; they follow the partition."""

    def __init__(self, changer: ChangerBase) -> None:
        self._changer = changer

    def inquiry_fields(self) -> Mapping[str, Any]:
        return self._changer.model.inquiry_fields

    def mode_pages(self) -> Mapping[type[ModePage], Mapping[str, Any]]:
        return {
            InformationalExceptionsModePage: {},
            smc.TransportGeometryModePage: {},
            **self._of_partition(),
        }

    def refresh_mode_pages(self, mode: ModePages) -> None:
        for page, values in self._of_partition().items():
            mode.update(page, **values)

    def _of_partition(self) -> dict[type[ModePage], dict[str, int]]:
        layout = self._changer.partition.layout
        return {
            smc.ElementAddressAssignmentModePage: _element_addresses(layout),
            smc.DeviceCapabilitiesModePage: _capabilities(layout),
        }


def _element_addresses(layout: Layout) -> dict[str, int]:
    values: dict[str, int] = {}
    for kind, addresses in layout.ranges():
        values[f"first_{_NAMES[kind]}_element_address"] = addresses.start if addresses else 0
        values[f"number_of_{_NAMES[kind]}_elements"] = len(addresses)
    return values


def _capabilities(layout: Layout) -> dict[str, int]:
    present = {"data_transfer": layout.drives, "import_export": layout.import_export, "storage": layout.storage}
    reach = sum(bit for bit, name in ((8, "data_transfer"), (4, "import_export"), (2, "storage")) if present[name])
    values: dict[str, int] = {}
    for name in (name for name, addresses in present.items() if addresses):
        values |= {f"store_{name}": 1, f"move_from_{name}": reach, f"exchange_from_{name}": reach}
    return values
