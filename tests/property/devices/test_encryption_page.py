"""The Set Data Encryption page: whatever comes is a set of parameters or one of two refusals."""

import struct

from hypothesis import example, given
from hypothesis import strategies as st

from scsi_targets.devices.tape.encryption_request import parse_set_data_encryption
from scsi_targets.t10 import sense
from scsi_targets.t10.sense import CheckCondition
from vlib_images.cartridge.codec import EncryptionKey

KEY = bytes(range(1, 33))
KADS = st.lists(st.tuples(st.integers(0, 4), st.binary(max_size=70)), max_size=4)
REFUSALS = (sense.PARAMETER_LIST_LENGTH_ERROR, sense.INVALID_FIELD_IN_PARAMETER_LIST)


def page(head: bytes, kads: list[tuple[int, bytes]]) -> bytes:
    """head: SCOPE to KAD FORMAT, 7 bytes."""
    body = head + bytes(7) + struct.pack(">H", len(KEY)) + KEY
    body += b"".join(struct.pack(">BBH", kind, 0, len(data)) + data for kind, data in kads)
    return struct.pack(">HH", 0x0010, len(body)) + body


def parsed(data: bytes) -> bool:
    """Whether it was taken; anything but the declared refusals fails the test."""
    try:
        parameters = parse_set_data_encryption(memoryview(data)).parameters
    except CheckCondition as refusal:
        assert refusal.sense.code in REFUSALS
        return False
    assert parameters.key is None or isinstance(parameters.key, EncryptionKey)
    parameters.wipe()
    return True


@given(st.binary(max_size=200))
def test_anything(data: bytes) -> None:
    parsed(data)


@given(st.binary(min_size=7, max_size=7), KADS, st.integers(0, 400), st.binary(max_size=20))
@example(bytes([0x40, 0x40, 2, 2, 1, 0, 0]), [(0, b"name"), (1, b"a")], 400, b"")
def test_pages_cut_off_anywhere_and_with_something_behind(
    head: bytes, kads: list[tuple[int, bytes]], end: int, behind: bytes
) -> None:
    whole = page(head, kads)
    taken = parsed(whole)
    assert parsed(whole + behind) == taken
    if end < len(whole):
        assert not parsed(whole[:end])


@given(KADS)
def test_key_associated_data_comes_in_order_and_in_bounds(kads: list[tuple[int, bytes]]) -> None:
    kinds = [kind for kind, _ in kads]
    longest = {0: 32, 1: 60}
    fits = all(kind in longest and len(data) <= longest[kind] for kind, data in kads)
    assert parsed(page(bytes([0x40, 0x40, 2, 2, 1, 0, 0]), kads)) == (fits and kinds == sorted(set(kinds)))
