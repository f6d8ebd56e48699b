"""Who a logical unit says it is: vendor, product, revision, serial number, NAA designator."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from scsi_targets.t10.vpd import NaaLocallyAssigned


@dataclass(frozen=True, slots=True)
class Identity:
    """The strings of INQUIRY and the designators of VPD pages 80h and 83h."""

    vendor: str  # up to 8 characters
    product: str  # up to 16
    revision: str  # up to 4
    serial_number: str

    def __post_init__(self) -> None:
        for name, limit in (("vendor", 8), ("product", 16), ("revision", 4), ("serial_number", 32)):
            text = getattr(self, name)
            if not text.isascii() or not text.isprintable() or not 0 < len(text) <= limit:
                raise ValueError(f"{name} {text!r}: 1 to {limit} printable ASCII characters are needed")

    @property
    def t10_vendor_identifier(self) -> bytes:
        """The T10 vendor ID based designator: vendor, product, serial number (SPC-5 7.8.6.4)."""
        return (self.vendor.ljust(8) + self.product.ljust(16) + self.serial_number).encode("ascii")

    @property
    def naa(self) -> bytes:
        """An NAA locally assigned designator (NAA = 3h, 8 bytes), always the same for the same vendor, product and
        serial number. Locally assigned, because no IEEE company identifier is ours to use (SPC-5 7.8.6.6.3)."""
        digest = hashlib.sha256(f"{self.vendor}/{self.product}/{self.serial_number}".encode()).digest()
        return NaaLocallyAssigned.encode(
            locally_administered_value=NaaLocallyAssigned(digest[:8]).locally_administered_value
        )
