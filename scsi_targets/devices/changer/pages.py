"""What a media changer's mode pages say of its partition (SMC-3 7.3)."""

from __future__ import annotations

from scsi_targets.t10 import smc
from scsi_targets.t10.mode_pages import ControlModePage, InformationalExceptionsModePage, ModePage
from vlib_images.library.elements import ElementType, Layout

_NAMES = {
    ElementType.TRANSPORT: "transport",
    ElementType.STORAGE: "storage",
    ElementType.IMPORT_EXPORT: "import_export",
    ElementType.DRIVE: "data_transfer",
}


def mode_pages(layout: Layout) -> dict[type[ModePage], dict[str, int]]:
    """The mode pages of a media changer with these element addresses, and what is not the default in them."""
    return {
        ControlModePage: {},
        InformationalExceptionsModePage: {},
        smc.ElementAddressAssignmentModePage: _element_addresses(layout),
        smc.TransportGeometryModePage: {},
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
