"""Keys: a capability that a host shows as its CHAP name, and the secret that only its holder and the gate know.

The terms are those of SPC-5's capability-based command security: whoever holds a working key of the gate makes the
capability and its secret, and the gate, which holds it too, needs nothing else to judge them. Nothing is stored for a
key.

    CHAP name   ak1.BASE64URL(capability), at most 255 characters: 20 logical units
    secret      16 characters of base64url(HMAC-SHA256(working key, label | target | capability))

A capability is 28 bytes, numbers big-endian, and 8 more for each logical unit:

    0  version (1)               12  grant (8)                  28  LUN (2), permissions (1), hash of the volume (5)
    1  version of working key    20  hash of initiator name (8)
    2  expires at, ms (6)
    8  policy tag (4)

Hashes are the first bytes of SHA-256. A volume hash of zeros: whatever volume is in the drive. Where the highest bit of
LUN is set, a group of drives stands there (DriveGroup), and the gate chooses the drive.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import secrets
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final, Self

from scsi_targets.devices.unit.principal import Permission

PREFIX: Final = "ak1."
VERSION: Final = 1
SECRET_CHARACTERS: Final = 16  # what every initiator takes
WORKING_KEY_BYTES: Final = 32
MOST_LUNS: Final = 20  # what 255 characters of a CHAP name have room for
ANY_VOLUME: Final = bytes(5)
ALL_DRIVES: Final = "all"

_HEADER: Final = struct.Struct(">BB6s4s8s8s")
_LUN: Final = struct.Struct(">HB5s")
_LONGEST: Final = _HEADER.size + MOST_LUNS * _LUN.size
_LABEL: Final = b"tapebay key: initiator"
_MUTUAL_LABEL: Final = b"tapebay key: target"


class BadKey(Exception):
    """A CHAP name that is no key of this gate; str() says why, for the log."""


@lru_cache(4096)  # asked for each command that comes with a key
def volume_hash(barcode: str) -> bytes:
    """How a capability names a volume, in 5 bytes."""
    return hashlib.sha256(b"volume:" + barcode.encode()).digest()[: len(ANY_VOLUME)]


def initiator_hash(name: str) -> bytes:
    """How a capability names an initiator, in 8 bytes. Capitals mean the same (RFC 3722)."""
    return hashlib.sha256(b"initiator:" + name.lower().encode()).digest()[:8]


@dataclass(frozen=True, slots=True)
class DriveGroup:
    """What a capability says in place of a LUN: any drive of a group. number: 0 to 255. priority: 0 to 7, the highest
    first. index: 0 to 15, which of several drives that one key opens."""

    number: int
    priority: int = 0
    index: int = 0

    @property
    def lun(self) -> int:
        """As it stands where a LUN would."""
        return 0x8000 | self.priority << 12 | self.index << 8 | self.number

    @classmethod
    def of(cls, lun: int) -> Self | None:
        """None: it is a LUN."""
        return cls(lun & 0xFF, lun >> 12 & 7, lun >> 8 & 15) if lun & 0x8000 else None


def group_number(name: str) -> int:
    """How a capability names a group of drives; 0 are all drives."""
    return 0 if name == ALL_DRIVES else 1 + hashlib.sha256(b"group:" + name.encode()).digest()[0] % 255


def tag_hash(tag: str) -> bytes:
    """How a capability names a policy tag, in 4 bytes; zeros: none."""
    return hashlib.sha256(b"tag:" + tag.encode()).digest()[:4] if tag else bytes(4)


@dataclass(frozen=True, slots=True)
class GrantedUnit:
    """One logical unit that a key opens. lun: or a DriveGroup's. volume: volume_hash() of the only volume that it is
    good for."""

    lun: int
    permissions: Permission
    volume: bytes = ANY_VOLUME


@dataclass(frozen=True, slots=True)
class Capability:
    """What a key allows. expires_at_ms: since 1970-01-01 00:00 UTC, for the first login. grant: 8 bytes."""

    key_version: int
    expires_at_ms: int
    grant: bytes
    initiator: bytes
    units: tuple[GrantedUnit, ...]
    policy_tag: bytes = bytes(4)

    def encode(self) -> bytes:
        """Raises ValueError for what does not fit."""
        if not 0 < len(self.units) <= MOST_LUNS or len({unit.lun for unit in self.units}) != len(self.units):
            raise ValueError(f"a key opens 1 to {MOST_LUNS} logical units, each once, not {len(self.units)}")
        sizes = (len(self.policy_tag), len(self.grant), len(self.initiator))
        if sizes != (4, 8, 8) or any(len(unit.volume) != len(ANY_VOLUME) for unit in self.units):
            raise ValueError("a part of the capability has another length than its field")
        try:
            expires_at = self.expires_at_ms.to_bytes(6, "big")
            units = [_LUN.pack(unit.lun, unit.permissions.value, unit.volume) for unit in self.units]
            header = _HEADER.pack(VERSION, self.key_version, expires_at, self.policy_tag, self.grant, self.initiator)
        except (OverflowError, struct.error) as error:
            raise ValueError(f"a part of the capability does not fit into its field: {error}") from None
        return header + b"".join(units)

    @classmethod
    def decode(cls, raw: bytes) -> Self:
        """Raises BadKey unless `raw` is exactly what encode() makes of the result."""
        count, rest = divmod(len(raw) - _HEADER.size, _LUN.size)
        if rest or not 0 < count <= MOST_LUNS:
            raise BadKey(f"a capability of {len(raw)} bytes")
        version, key_version, expires_at, tag, grant, initiator = _HEADER.unpack_from(raw)
        if version != VERSION:
            raise BadKey(f"a capability of version {version}")
        units = [_unit(*fields) for fields in _LUN.iter_unpack(raw[_HEADER.size :])]
        if len({unit.lun for unit in units}) != count:
            raise BadKey("a capability that names a logical unit twice")
        return cls(key_version, int.from_bytes(expires_at, "big"), grant, initiator, tuple(units), tag)


def _unit(lun: int, permissions: int, volume: bytes) -> GrantedUnit:
    if permissions & ~Permission.ALL.value:
        raise BadKey("a capability with a permission that there is not")
    return GrantedUnit(lun, Permission(permissions), volume)


@dataclass(frozen=True, slots=True)
class Key:
    """What a host logs in with. The target proves itself with `mutual_secret`, under its own name."""

    name: str
    secret: str = field(repr=False)
    mutual_secret: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class WorkingKeys:
    """The working keys of one gate by version: the newest makes keys, and while it is rotated the one before is still
    good. Versions go from 0 to 255 and around."""

    keys: Mapping[int, bytes] = field(repr=False)
    current: int

    @classmethod
    def new(cls) -> Self:
        """The first one."""
        return cls({0: secrets.token_bytes(WORKING_KEY_BYTES)}, 0)

    def rotated(self) -> WorkingKeys:
        """With a new one. The current one stays valid; the one before it does not, nor any key that was made by it."""
        newest = (self.current + 1) % 256
        return WorkingKeys(
            {self.current: self.keys[self.current], newest: secrets.token_bytes(WORKING_KEY_BYTES)}, newest
        )

    def without(self, version: int) -> WorkingKeys:
        """Without an older one: every key made by it is revoked. ValueError: it is the current one."""
        if version == self.current:
            raise ValueError("the current working key can only be rotated")
        return WorkingKeys({number: key for number, key in self.keys.items() if number != version}, self.current)

    def mint(self, target_name: str, capability: Capability) -> Key:
        """The key for a capability, always the same. KeyError: its working key is no longer valid."""
        raw = capability.encode()
        return _key(self.keys[capability.key_version], target_name, name_of(raw), raw)

    def verify(self, target_name: str, name: str) -> Judged:
        """The key that a CHAP name stands for. What is no key costs the same work as what is one, and is told apart by
        `problem` alone. Its holder is still to prove the secret, and what the capability allows is judged elsewhere."""
        problem = ""
        try:
            raw = raw_of(name)
        except BadKey as error:
            raw, problem = raw_of(_DECOY_NAME), str(error)
        try:
            capability = Capability.decode(raw)
        except BadKey as error:
            capability, problem = _DECOY, str(error)
        working_key = self.keys.get(capability.key_version)
        if working_key is None:
            problem = problem or "the working key that made it is no longer valid"
        key = _key(working_key or self.keys[self.current], target_name, name, capability.encode())
        return Judged(key, capability, problem)


@dataclass(frozen=True, slots=True)
class Judged:
    """What a CHAP name stands for. problem: why it is no key of this gate; then the other two are stand-ins, whose
    secret nobody can know."""

    key: Key
    capability: Capability
    problem: str


def name_of(raw: bytes) -> str:
    """The CHAP name of a capability."""
    return PREFIX + base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def raw_of(name: str) -> bytes:
    """The capability's bytes in a CHAP name. Raises BadKey unless it is exactly the name that name_of() gives them."""
    if not name.startswith(PREFIX) or len(name) > 255 or not name.isascii():
        raise BadKey("not a key's name")
    text = name[len(PREFIX) :]
    try:
        raw = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        raise BadKey("not base64url") from None
    if name_of(raw) != name:  # the same bytes in another spelling would be a second name of one key
        raise BadKey("not the canonical base64url")
    return raw


def _key(working_key: bytes, target_name: str, name: str, raw: bytes) -> Key:
    return Key(
        name, _secret(working_key, _LABEL, target_name, raw), _secret(working_key, _MUTUAL_LABEL, target_name, raw)
    )


def _secret(working_key: bytes, label: bytes, target_name: str, raw: bytes) -> str:
    # Neither a label nor an iSCSI name has a zero byte, so no two different triples make one message.
    message = b"\0".join((label, target_name.encode(), raw))
    digest = hmac.digest(working_key, message, "sha256")
    return base64.urlsafe_b64encode(digest).decode()[:SECRET_CHARACTERS]


# Of a grant that there never is: only 8 random bytes in a row make one.
_DECOY: Final = Capability(0, 0, bytes(8), bytes(8), (GrantedUnit(0, Permission(0)),))
_DECOY_NAME: Final = name_of(_DECOY.encode())
