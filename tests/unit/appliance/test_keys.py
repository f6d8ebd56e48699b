"""Keys: what one is, and that nothing else is one."""

import hashlib
import hmac
import os
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.access.keys import (
    MOST_LUNS,
    BadKey,
    Capability,
    GrantedUnit,
    Judged,
    WorkingKeys,
    initiator_hash,
    name_of,
    raw_of,
    volume_hash,
)
from scsi_targets.devices.unit.principal import Permission

TARGET = "iqn.2026-11.io.tapebay:gate"
HOST = "iqn.1993-08.org.debian:host"
SEED = int(os.environ.get("TAPEBAY_SEED", "20261129"))

UNITS = st.builds(
    GrantedUnit,
    st.integers(0, 16383),
    st.integers(0, Permission.ALL.value).map(Permission),
    st.binary(min_size=5, max_size=5),
)
CAPABILITIES = st.builds(
    Capability,
    key_version=st.integers(0, 255),
    expires_at_ms=st.integers(0, 2**48 - 1),
    grant=st.binary(min_size=8, max_size=8),
    initiator=st.binary(min_size=8, max_size=8),
    units=st.lists(UNITS, min_size=1, max_size=MOST_LUNS, unique_by=lambda unit: unit.lun).map(tuple),
    policy_tag=st.binary(min_size=4, max_size=4),
)


def capability(units: int = 1, key_version: int = 0) -> Capability:
    granted = [GrantedUnit(lun, Permission.READ_DATA, volume_hash("A00001L6")) for lun in range(1, units + 1)]
    return Capability(key_version, 1_800_000_000_000, b"grant-01", initiator_hash(HOST), tuple(granted))


@given(CAPABILITIES)
def test_a_capability_survives_its_name(given: Capability) -> None:
    name = name_of(given.encode())
    assert len(name) <= 255
    assert Capability.decode(raw_of(name)) == given


def test_twenty_logical_units_fill_a_chap_name() -> None:
    assert len(name_of(capability(MOST_LUNS).encode())) == 255
    with pytest.raises(ValueError, match="1 to 20 logical units"):
        capability(MOST_LUNS + 1).encode()


def test_the_gate_comes_to_the_same_secrets() -> None:
    keys = WorkingKeys.new()
    key = keys.mint(TARGET, capability())
    assert (len(key.secret), len(key.mutual_secret)) == (16, 16)
    assert key.secret != key.mutual_secret
    assert keys.verify(TARGET, key.name) == Judged(key, capability(), "")
    assert keys.verify(TARGET + "2", key.name).key.secret != key.secret
    assert key.secret not in repr(key)
    assert keys.keys[0].hex() not in repr(keys)


def test_two_working_keys_are_valid_while_one_is_rotated() -> None:
    first = WorkingKeys.new()
    old = first.mint(TARGET, capability())
    second = first.rotated()
    new = second.mint(TARGET, capability(key_version=1))
    assert second.current == 1
    assert (second.verify(TARGET, old.name).key, second.verify(TARGET, new.name).key) == (old, new)
    for later in (second.rotated(), second.without(0)):
        judged = later.verify(TARGET, old.name)
        assert judged.problem == "the working key that made it is no longer valid"
        assert judged.key.secret != old.secret
        assert later.verify(TARGET, new.name).key == new
    with pytest.raises(ValueError, match="rotated"):
        second.without(1)


def test_ten_thousand_mutated_keys_none_of_which_has_the_secret() -> None:
    """Whatever is done to a name or its bytes, the holder of the key's secret cannot prove the result."""
    keys = WorkingKeys.new().rotated()
    key = keys.mint(TARGET, capability(3, key_version=1))
    randomness, raw = random.Random(SEED), raw_of(key.name)
    secrets = {key.secret, key.mutual_secret}
    for number in range(10_000):
        name = mutated(key.name, raw, randomness)
        found = keys.verify(TARGET, name).key
        assert not {found.secret, found.mutual_secret} & secrets, (SEED, number)


def mutated(name: str, raw: bytes, randomness: random.Random) -> str:
    """Another name: a changed bit, byte, character or length, in the bytes or in their spelling."""
    changed = bytearray(raw)
    at = randomness.randrange(len(raw))
    kind = randomness.randrange(6)
    if kind == 0:
        changed[at] ^= 1 << randomness.randrange(8)
    elif kind == 1:
        changed[at] = (changed[at] + randomness.randrange(1, 256)) % 256
    elif kind == 2:
        del changed[at : at + randomness.randrange(1, 9)]
    elif kind == 3:
        changed[at:at] = randomness.randbytes(randomness.randrange(1, 9))
    elif kind == 4:
        changed[:] = randomness.randbytes(len(raw))
    text = name_of(bytes(changed))
    if kind == 5 or text == name:
        place = randomness.randrange(len(name))
        others = [c for c in "ABCabc012-_.=+/ " if c != name[place]]
        text = name[:place] + randomness.choice(others) + name[place + 1 :]
    assert text != name
    return text


@settings(max_examples=300)
@given(st.text(max_size=300))
def test_any_text_is_judged(text: str) -> None:
    assert WorkingKeys.new().verify(TARGET, text).problem


@settings(max_examples=300)
@given(st.binary(max_size=200))
def test_any_bytes_are_judged(raw: bytes) -> None:
    try:
        assert Capability.decode(raw).encode() == raw
    except BadKey as error:
        assert str(error)


def test_what_is_no_key_costs_the_same_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """As many HMACs for a name that nobody has; times themselves would depend on the machine's load."""
    made = 0
    digest = hmac.digest

    def counted(key: bytes, message: bytes, method: str) -> bytes:
        nonlocal made
        made += 1
        return digest(key, message, method)

    monkeypatch.setattr(hmac, "digest", counted)
    keys = WorkingKeys.new()
    for name in (name_of(capability().encode()), name_of(capability(key_version=9).encode()), "ak1.", "somebody", ""):
        made = 0
        keys.verify(TARGET, name)
        assert made == 2, name


def test_one_key_has_one_name() -> None:
    """Unused bits of the last character and padding would be other names of the same bytes."""
    name = name_of(capability().encode())  # 36 bytes: no unused bits
    with pytest.raises(BadKey):
        raw_of(name + "=")
    raw = hashlib.sha256(b"").digest()  # 32 bytes: two unused bits in the last character
    spelled = name_of(raw)
    following = chr(ord(spelled[-1]) + 1)
    with pytest.raises(BadKey, match="canonical"):
        raw_of(spelled[:-1] + following)
