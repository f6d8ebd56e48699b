"""A raw iSCSI peer: sends any bytes at all, understands what comes back, and knows no better than to follow orders."""

import hashlib
import socket
import struct
from collections.abc import Mapping
from types import TracebackType
from typing import Self

import google_crc32c
from scapy.packet import Raw

from tests.fuzz import layers

INITIATOR_NAME = "iqn.2026-01.org.example:peer"
SECURITY, OPERATIONAL, FULL_FEATURE = 0, 1, 3


class HungUp(Exception):
    """The target closed the connection."""


def text(keys: Mapping[str, object]) -> bytes:
    """The data segment of a login or text request."""
    return b"".join(f"{key}={value}".encode() + b"\0" for key, value in keys.items())


def crc32c(data: bytes) -> bytes:
    """A digest as it stands on the wire (RFC 7143 13.1: least significant byte first)."""
    return struct.pack("<I", google_crc32c.value(data))


class Peer:
    """One TCP connection. Every receive has a time limit, so that a target which falls silent shows as TimeoutError."""

    def __init__(self, address: tuple[str, int], timeout_seconds: float = 60, source: str = "") -> None:
        self.socket = socket.create_connection(address, timeout_seconds, source_address=(source, 0))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.header_digest = self.data_digest = False
        self.cmd_sn = 1
        self.exp_stat_sn = 0
        self.max_cmd_sn = 0
        self._next_tag = 1

    def send_bytes(self, data: bytes) -> None:
        """Send. Raise HungUp when the target has closed."""
        try:
            self.socket.sendall(data)
        except (ConnectionError, TimeoutError) as error:
            if isinstance(error, TimeoutError):
                raise
            raise HungUp from error

    def encode(self, pdu: layers.Pdu) -> bytes:
        """The PDU as it goes over the wire, with the digests that were negotiated."""
        whole = bytes(pdu)
        end = layers.HEADER_BYTES + 4 * whole[4]
        header, data = whole[:end], whole[end:]
        if self.header_digest:
            header += crc32c(header)
        if self.data_digest and data:
            data += crc32c(data)
        return header + data

    def send(self, pdu: layers.Pdu) -> None:
        self.send_bytes(self.encode(pdu))

    def receive(self) -> layers.Pdu:
        """The next PDU from the target. Raise HungUp, TimeoutError, or ValueError when a digest is wrong."""
        header = self._read(layers.HEADER_BYTES)
        header += self._read(4 * header[4])
        if self.header_digest and self._read(4) != crc32c(header):
            raise ValueError("header digest")
        length = int.from_bytes(header[5:8], "big")
        data = self._read(length + -length % 4)
        if self.data_digest and length and self._read(4) != crc32c(data):
            raise ValueError("data digest")
        pdu = layers.parse(header, data[:length])
        self._follow(pdu)
        return pdu

    def _follow(self, pdu: layers.Pdu) -> None:
        if "stat_sn" in pdu.fields and not isinstance(pdu, layers.ReadyToTransfer):
            self.exp_stat_sn = (pdu.stat_sn + 1) & 0xFFFFFFFF
        if "max_cmd_sn" in pdu.fields:
            self.max_cmd_sn = pdu.max_cmd_sn

    def _read(self, length: int) -> bytes:
        parts = []
        while length:
            try:
                part = self.socket.recv(length)
            except ConnectionError as error:
                raise HungUp from error
            if not part:
                raise HungUp
            parts.append(part)
            length -= len(part)
        return b"".join(parts)

    def tag(self) -> int:
        self._next_tag += 1
        return self._next_tag

    def take_cmd_sn(self) -> int:
        number, self.cmd_sn = self.cmd_sn, (self.cmd_sn + 1) & 0xFFFFFFFF
        return number

    def login(self, target_name: str | None, *, isid: int = 0, **keys: object) -> layers.LoginResponse:
        """Log in without authentication (a discovery session when there is no target name); return the last answer."""
        declared = {"InitiatorName": INITIATOR_NAME}
        declared |= {"TargetName": target_name} if target_name else {"SessionType": "Discovery"}
        port = b"\x80\x12\x34\x56" + isid.to_bytes(2, "big")
        numbers = {"cmd_sn": self.cmd_sn, "exp_stat_sn": self.exp_stat_sn}
        request = layers.LoginRequest(isid=port, initiator_task_tag=self.tag(), **numbers)
        self.send(request / Raw(text(declared | {key: str(value) for key, value in keys.items()})))
        answer = self.receive()
        if not isinstance(answer, layers.LoginResponse) or answer.status_class or answer.next_stage != FULL_FEATURE:
            raise AssertionError(f"login refused: {answer!r}")
        agreed = dict(pair.split(b"=", 1) for pair in answer.data.split(b"\0") if pair)
        self.header_digest = agreed.get(b"HeaderDigest") == b"CRC32C"
        self.data_digest = agreed.get(b"DataDigest") == b"CRC32C"
        return answer

    def chap_login(self, target_name: str, user: str, secret: str, *, initiator_name: str = INITIATOR_NAME) -> None:
        """Log in to a target as who proves that secret; AssertionError: the status, as `0202`, with which it is
        refused. No digests."""
        keys = {"InitiatorName": initiator_name, "TargetName": target_name, "AuthMethod": "CHAP"}
        numbers = {"cmd_sn": self.cmd_sn, "exp_stat_sn": self.exp_stat_sn}
        for step in range(3):
            request = layers.LoginRequest(current_stage=0, next_stage=3, transit=step == 2, **numbers)
            self.send(request / Raw(text(keys)))
            answer = self.receive()
            if answer.status_class:
                raise AssertionError(f"{answer.status_class:02X}{answer.status_detail:02X}")
            given = dict(pair.split("=", 1) for pair in answer.data.decode().split("\0") if pair)
            keys = {"CHAP_A": "5"}
            if "CHAP_C" in given:
                proof = bytes([int(given["CHAP_I"])]) + secret.encode() + bytes.fromhex(given["CHAP_C"][2:])
                keys = {"CHAP_N": user, "CHAP_R": "0x" + hashlib.md5(proof).hexdigest()}

    def command(self, lun: int, cdb: bytes, **fields: object) -> layers.ScsiCommand:
        """A SCSI Command PDU, not yet sent, with the next numbers."""
        return layers.ScsiCommand(
            lun=lun << 48,
            cdb=cdb.ljust(16, b"\0"),
            initiator_task_tag=self.tag(),
            cmd_sn=self.take_cmd_sn(),
            exp_stat_sn=self.exp_stat_sn,
            **fields,
        )

    def is_alive(self) -> bool:
        """Whether the target still answers this connection's NOP-Out."""
        tag = self.tag()
        try:
            self.send(layers.NopOut(initiator_task_tag=tag, cmd_sn=self.cmd_sn, exp_stat_sn=self.exp_stat_sn))
            while True:
                answer = self.receive()
                if isinstance(answer, layers.NopIn) and answer.initiator_task_tag == tag:
                    return True
        except HungUp:
            return False

    def close(self) -> None:
        self.socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
