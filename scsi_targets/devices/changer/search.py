"""SEND VOLUME TAG and REQUEST VOLUME ELEMENT ADDRESS: looking for cartridges by label (SMC-3 6.13, 6.14)."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase

from scsi_targets.devices.changer.status import select
from scsi_targets.devices.unit.task import Nexus
from scsi_targets.t10 import sense, smc
from scsi_targets.t10.sense import CheckCondition
from vlib_images.library.inventory import Element

# SEND ACTION CODE (SMC-3 table 39): search all or primary volume tags, with and without the sequence number. There are
# no alternate volume tags, and labels are not writable: the other codes are refused.
WITH_SEQUENCE_NUMBER = frozenset({0x00, 0x01})
IGNORING_SEQUENCE_NUMBER = frozenset({0x04, 0x05})
SEQUENCE_NUMBER = 0  # of every cartridge here


@dataclass(frozen=True, slots=True)
class _Search:
    action: int
    pattern: str
    element_type: int
    starting_address: int


class VolumeTagSearch:
    """Each I_T nexus's last search. The caller holds the logical unit's lock."""

    def __init__(self) -> None:
        self._searches: dict[Nexus, _Search] = {}

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
        pattern = text.replace("[", "[[]")  # of fnmatch's wildcards only * and ? are SMC's
        self._searches[nexus] = _Search(action, pattern, cdb.element_type_code, cdb.starting_element_address)

    def find(self, nexus: Nexus, elements: list[Element]) -> tuple[int, list[Element]]:
        """The last search's action code and what it finds now. CheckCondition when there was none."""
        search = self._searches.get(nexus)
        if search is None:
            raise CheckCondition(sense.COMMAND_SEQUENCE_ERROR)
        chosen = select(elements, search.element_type, search.starting_address, len(elements))
        return search.action, [e for e in chosen if e.barcode and fnmatchcase(e.barcode, search.pattern)]

    def forget(self, nexus: Nexus) -> None:
        """The nexus is gone."""
        self._searches.pop(nexus, None)

    def clear(self) -> None:
        """A reset."""
        self._searches.clear()
