"""PDUs of the login on a plain socket: exact reads, so that nothing of the full-feature phase is read ahead."""

from __future__ import annotations

from scsi_targets.iscsi.limits import LOGIN_DATA_SEGMENT_BYTES
from scsi_targets.iscsi.pdu import BHS_LENGTH, OPCODE_MASK, PDU_CLASSES, Pdu, PduFormatError


class LoginReader:
    """Sans-IO: feed at most `needed` bytes at a time, get a PDU when one is whole. Holds one PDU at the most."""

    def __init__(self) -> None:
        self._received = bytearray()
        self._wanted = BHS_LENGTH

    @property
    def needed(self) -> int:
        """How many bytes are missing for the next step; never more than belong to this PDU."""
        return self._wanted - len(self._received)

    def feed(self, data: bytes) -> Pdu | None:
        """Take bytes; the PDU that they complete. Raises PduFormatError as soon as the header is wrong."""
        if len(data) > self.needed:
            raise ValueError("more bytes than were needed")
        self._received += data
        if self.needed:
            return None
        if self._wanted == BHS_LENGTH:
            self._wanted += self._data_length()
            if self.needed:
                return None
        return self._take()

    def _data_length(self) -> int:
        """Of the data segment with its padding. Digests begin after the login (RFC 7143 13.1)."""
        header = self._received
        opcode = header[0] & OPCODE_MASK
        if opcode not in PDU_CLASSES:
            raise PduFormatError(f"no PDU has opcode {opcode:#04x}")
        if header[4]:
            raise PduFormatError("an additional header segment during the login")
        length = int.from_bytes(header[5:8], "big")
        if length > LOGIN_DATA_SEGMENT_BYTES:
            raise PduFormatError(f"a data segment of {length} bytes; {LOGIN_DATA_SEGMENT_BYTES} is the login's limit")
        return length + -length % 4

    def _take(self) -> Pdu:
        header = bytes(self._received[:BHS_LENGTH])
        data = bytes(self._received[BHS_LENGTH : BHS_LENGTH + int.from_bytes(header[5:8], "big")])
        self._received.clear()
        self._wanted = BHS_LENGTH
        return PDU_CLASSES[header[0] & OPCODE_MASK](header, data)
