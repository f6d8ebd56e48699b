"""SEND VOLUME TAG and REQUEST VOLUME ELEMENT ADDRESS: looking for cartridges by label (SMC-3 6.13, 6.14)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fnmatch import translate

from scsi_targets.devices.changer.models import MAXIMUM_ELEMENTS
from scsi_targets.devices.changer.status import select
from scsi_targets.devices.unit.task import Nexus
from scsi_targets.t10 import sense, smc
from scsi_targets.t10.sense import CheckCondition
from vlib_images.library.inventory import Inventory, NoSuchCartridge
from vlib_images.library.partition import Partition

# SEND ACTION CODE (SMC-3 table 39): search all or primary volume tags, with and without the sequence number. There are
# no alternate volume tags, and labels are not writable: the other codes are refused.
WITH_SEQUENCE_NUMBER = frozenset({0x00, 0x01})
IGNORING_SEQUENCE_NUMBER = frozenset({0x04, 0x05})
SEQUENCE_NUMBER = 0  # of every cartridge here


@dataclass(frozen=True, slots=True)
class Search:
    """What a SEND VOLUME TAG asked for."""

    action: int
    template: str
    element_type: int
    starting_address: int

    def find(self, partition: Partition, inventory: Inventory) -> list[int]:
        """The partition's addresses of the elements whose cartridges fit now."""
        pages = select(partition.layout, self.element_type, self.starting_address, MAXIMUM_ELEMENTS)
        if not set("*?") & set(self.template):
            address = self._labelled(partition, inventory)
            return [address] if address is not None and any(address in page.addresses for page in pages) else []
        matches = re.compile(translate(self.template.replace("[", "[[]"))).match  # only * and ? are SMC's wildcards
        return [
            address
            for kind, addresses in pages
            for address, element in zip(addresses, partition.look(inventory, kind, addresses), strict=True)
            if element.barcode and matches(element.barcode)
        ]

    def _labelled(self, partition: Partition, inventory: Inventory) -> int | None:
        """Where in the partition the cartridge of this very label is."""
        try:
            element = inventory.find(self.template)
        except NoSuchCartridge:
            return None
        return None if element is None else partition.outside(element.address)


class VolumeTagSearch:
    """Each I_T nexus's last search."""

    def __init__(self) -> None:
        self._searches: dict[Nexus, Search] = {}

    def start(self, nexus: Nexus, cdb: smc.SendVolumeTag, parameters: bytes) -> None:
        """Keeps what SEND VOLUME TAG asks for. Raises CheckCondition."""
        action = cdb.send_action_code
        if action not in WITH_SEQUENCE_NUMBER | IGNORING_SEQUENCE_NUMBER:
            raise CheckCondition(sense.INVALID_FIELD_IN_CDB, smc.SendVolumeTag.send_action_code)
        template = smc.VolumeTagTemplate.decode(parameters)
        text = template.volume_identification_template.rstrip(b" \0").decode("latin-1")
        low, high = template.minimum_volume_sequence_number, template.maximum_volume_sequence_number
        if action in WITH_SEQUENCE_NUMBER and not low <= SEQUENCE_NUMBER <= high:
            text = ""  # no label is empty: finds nothing
        self._searches[nexus] = Search(action, text, cdb.element_type_code, cdb.starting_element_address)

    def of(self, nexus: Nexus) -> Search:
        """The last search of a nexus. CheckCondition when there was none."""
        search = self._searches.get(nexus)
        if search is None:
            raise CheckCondition(sense.COMMAND_SEQUENCE_ERROR)
        return search

    def forget(self, nexus: Nexus) -> None:
        """The nexus is gone."""
        self._searches.pop(nexus, None)

    def clear(self) -> None:
        """A reset."""
        self._searches.clear()
