"""Whom a key serves, and when it goes: scopes, locks, reservations, demounting, resets (SSC-4 4.2.23)."""

import pytest

from scsi_targets.devices.unit.task import Nexus
from scsi_targets.t10 import spc, ssc
from tests.unit.devices.support import ALPHA, BETA, TARGET, send, sense_of
from tests.unit.devices.tape.encryption_support import (
    LOCAL,
    OTHER_KEY,
    PUBLIC,
    TEXT,
    next_block,
    off,
    set_encryption,
    set_page,
    spin,
    spout,
    status,
)
from tests.unit.devices.tape.support import (
    good,
    make_cartridge,
    make_drive,
    moved,
    quiet,
    read,
    rewind,
    write,
)

# ---- scopes ----------------------------------------------------------------------------------------------------------


def test_a_shared_key_serves_all_and_they_are_told(drive):
    good(set_encryption(drive))
    assert sense_of(read(drive, 1)) == (8, 0x00, 0x05)
    assert sense_of(send(drive, bytes(6), nexus=BETA)) == (6, 0x2A, 0x11)
    assert status(drive, nexus=BETA)[4:8] == bytes([0x02, 2, 2, 1])
    good(write(drive, TEXT, nexus=BETA))
    rewind(drive)
    assert next_block(drive)[12] == 5
    good(set_encryption(drive, key=OTHER_KEY, nexus=BETA))
    assert sense_of(send(drive, bytes(6))) == (6, 0x2A, 0x11)
    assert status(drive)[4] == 0x02
    assert sense_of(read(drive, len(TEXT))) == (7, 0x74, 0x03)


def test_a_local_key_is_one_nexus_s_own(drive):
    good(set_encryption(drive, scope=LOCAL))
    assert drive.take_unit_attention(BETA) is None
    assert status(drive)[4] == 0x21
    assert status(drive, nexus=BETA)[4:8] == bytes(4)
    good(write(drive, TEXT))
    good(write(drive, b"clear", nexus=BETA))
    good(write(drive, TEXT))
    rewind(drive)
    assert sense_of(send(drive, ssc.Read6.encode(transfer_length=9), nexus=BETA)) == (7, 0x74, 0x01)
    assert moved(read(drive, len(TEXT))) == TEXT
    assert moved(send(drive, ssc.Read6.encode(transfer_length=5), nexus=BETA)) == b"clear"
    assert moved(read(drive, len(TEXT))) == TEXT
    good(spout(drive, set_page(scope=PUBLIC)))
    assert not drive.encryption.parameters.any
    assert status(drive)[4:8] == bytes(4)


def test_a_local_key_ends_with_its_nexus_and_a_shared_one_stays(drive):
    good(set_encryption(drive, scope=LOCAL, nexus=BETA))
    good(set_encryption(drive))
    drive.nexus_lost(BETA)
    assert len(drive.encryption.parameters.sets()) == 1
    drive.nexus_lost(ALPHA)
    assert drive.encryption.parameters.shared is not None


def test_the_others_may_write_in_clear_when_nothing_is_set_any_more(drive):
    good(set_encryption(drive))
    good(write(drive, TEXT))
    good(off(drive))
    good(write(drive, b"clear"))
    assert not drive.encryption_watched
    assert drive.medium.encoder is None
    rewind(drive)
    good(send(drive, ssc.Space6.encode(code=0, count=1)))
    assert moved(read(drive, 5)) == b"clear"


def test_lock(drive):
    good(set_encryption(drive, scope=PUBLIC, lock=1, nexus=BETA))
    good(write(drive, b"in clear, as agreed", nexus=BETA))
    good(set_encryption(drive))
    quiet(drive)
    assert sense_of(write(drive, b"x", nexus=BETA)) == (7, 0x2A, 0x13)
    good(write(drive, b"x"))
    good(set_encryption(drive, scope=PUBLIC, nexus=BETA))
    good(write(drive, b"y", nexus=BETA))


def test_who_locked_a_key_never_writes_in_clear_after_it_went(drive):
    good(set_encryption(drive, lock=1, flags=0x44))
    good(write(drive, TEXT))
    drive.load(drive.unload())
    quiet(drive)
    assert drive.encryption.parameters.sets() == []
    assert sense_of(write(drive, TEXT)) == (7, 0x2A, 0x13)


# ---- when a key goes -------------------------------------------------------------------------------------------------


def test_clear_on_demount(drive, tmp_path):
    good(set_encryption(drive, flags=0x44))
    key = drive.encryption.parameters.of(ALPHA).key
    good(write(drive, TEXT))
    drive.load(drive.unload())
    quiet(drive)
    assert key._key == bytes(32)
    assert sense_of(read(drive, len(TEXT))) == (7, 0x74, 0x01)
    empty = make_drive()
    assert sense_of(set_encryption(empty, flags=0x44)) == (5, 0x26, 0)
    empty.close()


def test_without_that_flag_the_key_serves_the_next_cartridge(drive, tmp_path):
    good(set_encryption(drive))
    first = drive.unload()
    assert first.encoder is None
    drive.load(make_cartridge(tmp_path, "TAP002L8"))
    quiet(drive)
    good(write(drive, TEXT))
    rewind(drive)
    assert next_block(drive)[12] == 5
    drive.unload().close()
    drive.load(first)
    quiet(drive)


def test_a_reset_clears_all(drive):
    good(set_encryption(drive))
    quiet(drive)
    good(set_encryption(drive, scope=LOCAL, nexus=BETA))
    keys = [each.key for each in drive.encryption.parameters.sets()]
    drive.reset()
    quiet(drive)
    assert all(key._key == bytes(32) for key in keys)
    assert status(drive)[4:8] == bytes(4)
    good(write(drive, b"clear"))


def register(drive, nexus, key):
    data = bytes(8) + key.to_bytes(8, "big") + bytes(8)
    good(send(drive, spc.Register.encode(parameter_list_length=24), data=data, nexus=nexus))


def persistent(drive, command, nexus, key, victim=0):
    data = key.to_bytes(8, "big") + victim.to_bytes(8, "big") + bytes(8)
    return good(send(drive, command.encode(type=1, parameter_list_length=24), data=data, nexus=nexus))


def reserved_with_key(drive, flags):
    register(drive, ALPHA, 1)
    persistent(drive, spc.ReservePersistent, ALPHA, 1)
    good(set_encryption(drive, flags=flags))
    quiet(drive)


def waiting(drive, nexus):
    return {drive.take_unit_attention(nexus) for _ in range(8)}


@pytest.mark.parametrize(("flags", "cleared"), [(0x41, True), (0x42, False), (0x43, True)])
def test_clear_on_reservation_loss(drive, flags, cleared):
    reserved_with_key(drive, flags)
    key = drive.encryption.parameters.of(ALPHA).key
    persistent(drive, spc.ReleasePersistent, ALPHA, 1)
    assert (drive.encryption.parameters.shared is None) == cleared
    assert (key._key == bytes(32)) == cleared
    for nexus in (ALPHA, BETA):
        assert ((6, 0x2A, 0x12) in waiting(drive, nexus)) == cleared


@pytest.mark.parametrize(("flags", "cleared"), [(0x41, True), (0x42, True), (0x40, False)])
def test_clear_on_reservation_preempt(drive, flags, cleared):
    reserved_with_key(drive, flags)
    register(drive, BETA, 2)
    persistent(drive, spc.Preempt, BETA, 2, victim=1)
    assert (drive.encryption.parameters.shared is None) == cleared
    for nexus in (ALPHA, BETA):
        assert ((6, 0x2A, 0x12) in waiting(drive, nexus)) == cleared


def test_clear_on_loss_of_a_simple_reservation(drive):
    good(send(drive, spc.Reserve6.encode()))
    good(set_encryption(drive, flags=0x41))
    good(send(drive, spc.Release6.encode()))
    assert drive.encryption.parameters.shared is None
    quiet(drive)
    good(send(drive, spc.Reserve6.encode()))
    good(set_encryption(drive, flags=0x41))
    drive.nexus_lost(ALPHA)
    assert drive.encryption.parameters.shared is None


def test_reservations_keep_others_out(drive):
    good(send(drive, spc.Reserve6.encode()))
    assert set_encryption(drive, nexus=BETA).status == 0x18
    assert spin(drive, 0x20, nexus=BETA).status == 0x18


def test_a_nexus_that_came_later_shares_the_key(drive):
    good(set_encryption(drive))
    late = Nexus("iqn.2026-11.test:late", bytes(6), TARGET)
    assert status(drive, nexus=late)[4:8] == bytes([0x02, 2, 2, 1])
