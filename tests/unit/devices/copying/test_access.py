"""Who may do what: checked of every end of every segment before a byte moves, and again at each transfer."""

import pytest

from scsi_targets.devices.unit.principal import Permission
from scsi_targets.t10 import copy_descriptors as copy
from tests.unit.devices.copying.support import BLOCKS, Running, Site, block_to_stream, content, stream_to_block
from tests.unit.devices.copying.test_failures import code_of
from tests.unit.devices.support import BETA, send
from tests.unit.devices.tape.support import good

DISK, TAPE = 0, 1


@pytest.fixture
def site(tmp_path, monkeypatch):
    monkeypatch.setattr("datamover.copy_job.CHUNK_BYTES", 65536)
    site = Site(tmp_path)
    yield site
    site.close()


def reserved(site, unit):
    good(send(unit, bytes([0x16, 0, 0, 0, 0, 0]), nexus=BETA))


def registrants_only(site, unit):
    key = (0xABC).to_bytes(8, "big")
    good(send(unit, bytes([0x5F, 0, 0, 0, 0, 0, 0, 0, 24, 0]), data=bytes(8) + key + bytes(8), nexus=BETA))
    good(send(unit, bytes([0x5F, 1, 6, 0, 0, 0, 0, 0, 24, 0]), data=key + bytes(16), nexus=BETA))


def protected(site, unit):
    if unit is site.disk:
        unit.software_write_protect = True
        unit.update_access()
    else:
        unit.loaded.write_protected = True
        unit.decide_legality()


def forwarded(response, byte):
    """Status and sense code that came from an end."""
    raw = response.sense
    assert raw[2] & 0xF == 0xA, raw.hex()
    at = raw[byte]
    assert at, raw.hex()
    return raw[at], code_of(raw[at + 1 :]) if len(raw) > at + 1 else None


LAST = 3
HARMLESS = [copy.VerifyCscd.encode(source=DISK)] * (LAST - 1)


@pytest.mark.parametrize("how", [reserved, registrants_only, protected])
@pytest.mark.parametrize("end", [DISK, TAPE])
def test_before_a_byte_moves(site, how, end):
    """What only the last segment needs is refused before the first has done anything."""
    unit = (site.disk, site.tape)[end]
    site.fill([content(4096), None], site.other)
    site.tape.loaded.rewind()
    how(site, unit)
    cscds = [site.disk_descriptor(), site.tape_descriptor(), site.tape_descriptor(site.other)]
    first = copy.StreamToDiscard.encode(source=2, stream_device_transfer_length=4096, number_of_bytes=4096)
    if end == TAPE:
        last = block_to_stream(4096, 8)
    else:
        last = stream_to_block(4096, 8, source=2)
    response = site.copy(first, *HARMLESS, last, cscds=cscds, unit=site.other)
    status, code = forwarded(response, 9)
    assert (status, code) == ((2, (7, 0x27, (2, 0)[end])) if how is protected else (0x18, None))
    assert int.from_bytes(response.sense[10:12], "big") == LAST
    assert site.other.loaded.position == (0, 0)


@pytest.mark.parametrize(("end", "use"), [(DISK, Permission.READ_DATA), (TAPE, Permission.WRITE_DATA)])
def test_rights_before_a_byte_moves(site, end, use):
    site.permissions = {**dict.fromkeys(range(3), Permission.ALL), end: Permission.ALL & ~use}
    mark = copy.WriteFilemarks.encode(destination=2, filemark_count=1)
    cscds = [site.disk_descriptor(), site.tape_descriptor(), site.tape_descriptor(site.other)]
    response = site.copy(mark, *HARMLESS, block_to_stream(4096, 8), cscds=cscds, unit=site.other)
    assert forwarded(response, 8 if end == DISK else 9) == (2, (5, 0x20, 2))
    assert site.written(site.other) == []


@pytest.mark.parametrize(
    ("how", "end"),
    [(reserved, DISK), (reserved, TAPE), (registrants_only, DISK), (registrants_only, TAPE), (protected, TAPE)],
)
def test_at_each_transfer(site, how, end, monkeypatch):
    """In mid-copy things change: what was written before stays, and nothing comes after it."""
    running = Running(site, site.other, monkeypatch)
    for unit in (site.disk, site.tape):
        while unit.take_unit_attention(BETA):
            pass
    how(site, (site.disk, site.tape)[end])
    running.go.set()
    assert running.done.wait(60)
    status, code = forwarded(running.answers[0], 8 if end == DISK else 9)
    assert (status, code) == ((2, (7, 0x27, 0)) if how is protected else (0x18, None))
    written = b"".join(site.written())
    assert written == site.disk_data[: len(written)]
    assert len(written) < BLOCKS * 512


def test_a_destination_disk_that_is_protected_in_mid_copy(site):
    blocks = [content(65536, seed=n) for n in range(8)]
    site.fill(blocks)
    write, writes = site.disk.medium.write, []

    def protecting(*args, **more):
        writes.append(args)
        if len(writes) == 2:
            protected(site, site.disk)
        return write(*args, **more)

    site.disk.medium.write = protecting
    response = site.copy(stream_to_block(65536, 1024))
    assert forwarded(response, 9) == (2, (7, 0x27, 2))
    assert len(writes) == 2
