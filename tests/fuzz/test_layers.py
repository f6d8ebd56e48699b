"""The layers themselves.

Every PDU has a header of 48 bytes, reads back as it was built, and works against a real target.
"""

import random

import pytest
from scapy.packet import Raw, fuzz

from tests.fuzz import layers
from tests.fuzz.peer import Peer, crc32c
from tests.support import packages
from tests.support.tgt import TgtTarget

KINDS = (*layers.REQUESTS, *layers.RESPONSES)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_layer_round_trip(kind: type[layers.Pdu]) -> None:
    assert len(bytes(kind())) == layers.HEADER_BYTES
    whole = bytes(kind(additional_headers=b"\0\5\1\0ABCD") / Raw(b"12345"))
    assert whole[4:8] == b"\2\0\0\5"
    assert whole[48:] == b"\0\5\1\0ABCD12345\0\0\0"
    back = layers.parse(whole[:56], whole[56:61])
    assert (type(back), back.additional_headers, back.data) == (kind, b"\0\5\1\0ABCD", b"12345")


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_layer_keeps_any_value(kind: type[layers.Pdu]) -> None:
    random.seed(7143)
    whole = bytes(fuzz(kind(total_ahs_length=0, data_segment_length=0, additional_headers=b"")))
    whole = bytes([whole[0] & 0xC0 | kind().opcode]) + whole[1 : layers.HEADER_BYTES]
    assert bytes(layers.parse(whole)) == whole


def test_all_opcodes_of_the_standard_have_a_layer() -> None:
    assert {kind().opcode for kind in KINDS} == set(layers.OPCODES)


def test_digests_are_those_of_the_standard() -> None:
    # RFC 7143 A.4, the first and the third example.
    assert crc32c(bytes(32)).hex() == "aa36918a"
    assert crc32c(bytes(range(32))).hex() == "4e79dd46"


def test_a_session_with_an_independent_target() -> None:
    packages.require("tgt")
    with TgtTarget() as target, Peer(("127.0.0.1", target.port)) as peer:
        peer.login(target.target_name)
        peer.send(peer.command(target.disk_lun, bytes(6)))
        assert peer.receive().status == 0x02  # the power-on unit attention
        peer.send(peer.command(target.disk_lun, bytes([0x12, 0, 0, 0, 36]), read=1, expected_data_transfer_length=36))
        inquiry = peer.receive()
        assert isinstance(inquiry, layers.DataIn)
        assert inquiry.data[8:16] == b"IET     "
        assert peer.is_alive()
