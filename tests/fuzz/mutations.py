"""How a valid stream of PDUs is spoilt. Everything comes from one random.Random, so that a seed is a whole run."""

import random
from collections.abc import Callable

from scapy.packet import Raw

from tests.fuzz import layers
from tests.fuzz.peer import text

# The ends of every width that a field or a signed count may have.
BOUNDARIES = (
    0,
    1,
    2,
    *(limit + step for limit in (0x7F, 0xFF, 0x7FFF, 0xFFFF, 0xFFFFFF, 0x7FFFFFFF) for step in (0, 1)),
)

LOGIN_KEYS = {
    "InitiatorName": "iqn.2026-01.org.example:fuzz",
    "SessionType": "Normal",
    "AuthMethod": "None",
    "HeaderDigest": "None,CRC32C",
    "DataDigest": "CRC32C,None",
    "InitialR2T": "No",
    "ImmediateData": "Yes",
    "MaxRecvDataSegmentLength": "262144",
    "FirstBurstLength": "65536",
    "MaxBurstLength": "262144",
    "MaxConnections": "1",
    "DefaultTime2Wait": "2",
    "DefaultTime2Retain": "20",
    "MaxOutstandingR2T": "1",
    "DataPDUInOrder": "Yes",
    "DataSequenceInOrder": "Yes",
    "ErrorRecoveryLevel": "0",
    "TaskReporting": "RFC3720",
    "iSCSIProtocolLevel": "1",
    "X-org.example.unknown": "1",
}
ODD_VALUES = (
    "",
    "0",
    "-1",
    "Maybe",
    "4294967296",
    "0x",
    "0xzz",
    "None," * 300,
    "\xff\xfe",
    "1e9",
    "~",
    "Reject",
    "a" * 9000,
)


def flip_bits(data: bytes, rng: random.Random) -> bytes:
    """One to eight bits, the first 64 bytes more often than others."""
    spoilt = bytearray(data)
    for _ in range(rng.randint(1, 8)):
        end = min(len(spoilt), 64) if rng.random() < 0.7 else len(spoilt)
        spoilt[rng.randrange(end)] ^= 1 << rng.randrange(8)
    return bytes(spoilt)


def truncate(data: bytes, rng: random.Random) -> bytes:
    return data[: rng.randrange(len(data))]


def insert(data: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(data) + 1)
    return data[:at] + rng.randbytes(rng.choice((1, 3, 4, 48, 500))) + data[at:]


def repeat(data: bytes, rng: random.Random) -> bytes:
    return data * rng.randint(2, 5)


def lie_about_data_length(data: bytes, rng: random.Random) -> bytes:
    return data[:5] + rng.choice((0, 1, len(data), 8193, 262145, 0xFFFFFF)).to_bytes(3, "big") + data[8:]


def lie_about_ahs_length(data: bytes, rng: random.Random) -> bytes:
    return data[:4] + bytes([rng.choice((1, 2, 64, 255))]) + data[5:]


def other_opcode(data: bytes, rng: random.Random) -> bytes:
    return bytes([rng.randrange(256)]) + data[1:]


def boundary_word(data: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(8, 48, 4)
    return data[:at] + rng.choice(BOUNDARIES).to_bytes(4, "big") + data[at + 4 :]


MUTATIONS: tuple[Callable[[bytes, random.Random], bytes], ...] = (
    flip_bits,
    truncate,
    insert,
    repeat,
    lie_about_data_length,
    lie_about_ahs_length,
    other_opcode,
    boundary_word,
)


def spoil(data: bytes, rng: random.Random) -> bytes:
    """The bytes with one or two mutations."""
    for _ in range(rng.choice((1, 1, 1, 2))):
        data = rng.choice(MUTATIONS)(data, rng) or data
    return data


def any_request(rng: random.Random, **fields: int) -> layers.Pdu:
    """A request of any kind whose fields are either sensible or on a boundary; `fields` are set where they exist."""
    kind = rng.choice(layers.REQUESTS)
    pdu = kind(additional_headers=rng.choice((b"", b"", b"", rng.randbytes(4 * rng.randint(1, 12)))))
    names = [field.name for field in kind.fields_desc]
    for name, value in fields.items():
        if name in names:
            pdu.setfieldval(name, value)
    for field in rng.sample(kind.fields_desc[3:-1], rng.randint(0, 3)):
        if field.name not in ("total_ahs_length", "data_segment_length"):
            pdu.setfieldval(field.name, _any_value(field, rng))
    length = rng.choice((0, 0, 1, 3, 48, 4096))
    return pdu / Raw(rng.randbytes(length)) if length else pdu


def _any_value(field: object, rng: random.Random) -> object:
    size = getattr(field, "size", None)  # bits of a BitField
    if size:
        return rng.randrange(1 << size)
    length = field.sz  # type: ignore[attr-defined]
    if field.__class__.__name__ == "StrFixedLenField":
        return rng.randbytes(length or 16)
    return rng.choice(BOUNDARIES) & ((1 << 8 * int(length)) - 1)


def login_text(rng: random.Random) -> bytes:
    """Login keys in any order, some missing, repeated, odd or without their end."""
    keys = dict(rng.sample(sorted(LOGIN_KEYS.items()), rng.randint(0, len(LOGIN_KEYS))))
    for name in rng.sample(sorted(LOGIN_KEYS), rng.randint(0, 3)):
        keys[name] = rng.choice(ODD_VALUES)
    data = text(keys)
    return data[:-1] if rng.random() < 0.1 else data
