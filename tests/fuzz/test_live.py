"""A live server and a peer that breaks every rule. The invariant:

whatever a peer sends, its connection is answered, rejected or closed; the process lives; other sessions never notice;
memory comes back; the log has one line about it and no traceback.

More of it: pytest tests/fuzz/test_live.py --fuzz-cases=100000 --fuzz-seed=random
"""

import contextlib
import random
import socket
import time
from collections.abc import Callable, Iterator

import pytest
from scapy.packet import Raw

from tests.fuzz import layers
from tests.fuzz.bystander import Bystander
from tests.fuzz.mutations import any_request, login_text, spoil
from tests.fuzz.peer import FULL_FEATURE, OPERATIONAL, SECURITY, HungUp, Peer, text
from tests.support import packages
from tests.support.appliance import Appliance, Disk
from tests.support.waiting import eventually

MEBIBYTE = 1 << 20
LOGIN_SECONDS = 6.0  # of those, too, that are to get in while the machine does much else
SEND_SECONDS = 2.0
# What a connection may hold, and what the process may keep over what it had: its pool of buffers and what Python
# itself keeps.
CONNECTION_MEBIBYTES = 8
POOL_MEBIBYTES = 64
RESIDENT_GROWTH_BYTES = (POOL_MEBIBYTES + 64) * MEBIBYTE
SETTINGS = f"""
[limits]
connection_memory = "{CONNECTION_MEBIBYTES} MiB"
buffer_memory = "{POOL_MEBIBYTES} MiB"
login_seconds = {LOGIN_SECONDS}
send_seconds = {SEND_SECONDS}
"""
CHECK_EVERY = 20


@pytest.fixture(scope="module")
def appliance(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Appliance]:
    packages.require("libiscsi7")
    folder = tmp_path_factory.mktemp("fuzz")
    # The bystander's disk and the one that is abused are two, so that the abuse may write.
    disks = [Disk("disk", "16 MiB"), Disk("victim", "16 MiB")]
    with Appliance.with_loaded_drive(folder, disks=disks, more=SETTINGS) as running:
        yield running
        assert running.is_running(), running.log_text()
        assert not running.problems(), running.problems()


@pytest.fixture
def bystander(appliance: Appliance) -> Iterator[Bystander]:
    with Bystander(appliance) as working:
        working.check()
        yield working
        working.check()


def open_peer(appliance: Appliance, source: str = "") -> Peer:
    return Peer(("127.0.0.1", appliance.port), source=source)


def finish(peer: Peer) -> None:
    """Say no more, and wait until the target has closed. Raise TimeoutError when it keeps the connection instead."""
    try:
        peer.socket.shutdown(socket.SHUT_WR)
        while peer.socket.recv(1 << 16):
            pass
    except ConnectionError:
        return  # reset: closed with something of ours unread
    except OSError as error:
        if isinstance(error, TimeoutError):
            raise
    finally:
        peer.close()


# ---- one case of each phase: what is sent on a connection that finish() then ends ----------------------------------


def before_login(peer: Peer, appliance: Appliance, rng: random.Random) -> None:
    if rng.random() < 0.3:
        peer.send_bytes(rng.randbytes(rng.choice((1, 47, 48, 49, 500, 20_000))))
    else:
        peer.send_bytes(spoil(peer.encode(any_request(rng)), rng))


def first_login(peer: Peer, appliance: Appliance, rng: random.Random) -> None:
    request = layers.LoginRequest(
        initiator_task_tag=1,
        transit=rng.randrange(2),
        continue_=rng.choice((0, 0, 1)),
        current_stage=rng.choice((SECURITY, OPERATIONAL, OPERATIONAL, 2, FULL_FEATURE)),
        next_stage=rng.randrange(4),
        version_min=rng.choice((0, 0, 0, 1)),
        tsih=rng.choice((0, 0, 0, 77)),
    )
    keys = login_text(rng) + (text({"TargetName": appliance.target_name}) if rng.random() < 0.8 else b"")
    encoded = peer.encode(request / Raw(keys))
    peer.send_bytes(spoil(encoded, rng) if rng.random() < 0.5 else encoded)


def later_login(peer: Peer, appliance: Appliance, rng: random.Random) -> None:
    keys = {"InitiatorName": "iqn.2026-01.org.example:fuzz", "TargetName": appliance.target_name, "AuthMethod": "None"}
    peer.send(layers.LoginRequest(transit=0, current_stage=SECURITY, next_stage=0, cmd_sn=1) / Raw(text(keys)))
    peer.receive()
    for _ in range(rng.randint(1, 4)):
        stage = rng.choice((SECURITY, OPERATIONAL))
        request = layers.LoginRequest(
            current_stage=stage,
            next_stage=rng.choice((OPERATIONAL, FULL_FEATURE)),
            cmd_sn=1,
            exp_stat_sn=peer.exp_stat_sn,
        )
        encoded = peer.encode(request / Raw(login_text(rng)))
        peer.send_bytes(spoil(encoded, rng) if rng.random() < 0.5 else encoded)


def discovery(peer: Peer, appliance: Appliance, rng: random.Random) -> None:
    peer.login(None)
    for _ in range(rng.randint(1, 4)):
        keys = rng.choice((b"SendTargets=All\0", b"SendTargets=\0", b"SendTargets=iqn.x\0", b"X=1\0", b"SendTargets"))
        request = layers.TextRequest(
            initiator_task_tag=peer.tag(),
            cmd_sn=peer.take_cmd_sn(),
            target_transfer_tag=rng.choice((layers.NO_TAG, layers.NO_TAG, 5)),
            final=rng.randrange(2),
            continue_=rng.randrange(2),
        )
        encoded = peer.encode(request / Raw(keys))
        peer.send_bytes(spoil(encoded, rng) if rng.random() < 0.4 else encoded)


def log_in(peer: Peer, appliance: Appliance, rng: random.Random) -> None:
    digests = {"HeaderDigest": rng.choice(("None", "CRC32C")), "DataDigest": rng.choice(("None", "CRC32C"))}
    peer.login(appliance.target_name, **digests, InitialR2T=rng.choice(("Yes", "No")), ImmediateData="Yes")


def full_feature(peer: Peer, appliance: Appliance, rng: random.Random) -> None:
    log_in(peer, appliance, rng)
    for _ in range(rng.randint(1, 12)):
        pdu = any_request(rng, cmd_sn=peer.cmd_sn, exp_stat_sn=peer.exp_stat_sn, lun=rng.choice((0, 1, 4)) << 48)
        if not pdu.immediate:
            peer.take_cmd_sn()
        encoded = peer.encode(pdu)
        peer.send_bytes(spoil(encoded, rng) if rng.random() < 0.3 else encoded)


def any_command(peer: Peer, appliance: Appliance, rng: random.Random) -> None:
    log_in(peer, appliance, rng)
    for _ in range(rng.randint(1, 20)):
        lun = appliance.lun(rng.choice(("changer", "drive0", "drive1", "victim")))
        cdb = bytes([rng.choice(OPERATION_CODES)]) + rng.randbytes(15)
        length = rng.choice((0, 1, 255, 512, 4096, 70_000))
        reads = rng.randrange(2)
        data = rng.randbytes(min(length, 4096)) if not reads else b""
        command = peer.command(lun, cdb, read=reads, write=1 - reads, expected_data_transfer_length=length)
        peer.send(command / Raw(data) if data else command)


def data_out(peer: Peer, appliance: Appliance, rng: random.Random) -> None:
    log_in(peer, appliance, rng)
    length = rng.choice((512 * 512, 128 * 512))
    cdb = bytes([0x2A, 0]) + bytes(5) + (length // 512).to_bytes(2, "big") + b"\0"
    command = peer.command(appliance.lun("victim"), cdb, write=1, expected_data_transfer_length=length)
    peer.send(command)
    for number in range(rng.randint(1, 8)):
        pdu = layers.DataOut(
            initiator_task_tag=rng.choice((command.initiator_task_tag, command.initiator_task_tag, 0x1234)),
            target_transfer_tag=rng.choice((layers.NO_TAG, 0, 1, 2, rng.randrange(1 << 32))),
            data_sn=rng.choice((number, number, 0, 77)),
            buffer_offset=rng.choice((number * 4096, 0, length, length - 1, 0xFFFFFFFF)),
            final=rng.choice((0, 0, 1)),
        )
        encoded = peer.encode(pdu / Raw(rng.randbytes(rng.choice((0, 1, 4096, 8192)))))
        peer.send_bytes(spoil(encoded, rng) if rng.random() < 0.2 else encoded)


def management(peer: Peer, appliance: Appliance, rng: random.Random) -> None:
    log_in(peer, appliance, rng)
    for _ in range(rng.randint(1, 6)):
        peer.send(peer.command(appliance.lun("victim"), bytes(6)))
        request = layers.TaskManagementRequest(
            initiator_task_tag=peer.tag(),
            # Not target cold reset: that ends everybody's session, as it should.
            function=rng.choice((0, 1, 2, 3, 4, 5, 8, 9, 14, 127)),
            referenced_task_tag=rng.choice((peer.tag() - 1, layers.NO_TAG, 0)),
            ref_cmd_sn=rng.choice((peer.cmd_sn - 1, 0, 0xFFFFFFFF)),
            cmd_sn=peer.cmd_sn,
            lun=rng.choice((appliance.lun("victim") << 48, 0x7FFF << 48, 0xC101 << 48, rng.randrange(1 << 64))),
        )
        peer.send(request)
    peer.send(layers.LogoutRequest(reason=rng.choice((0, 1, 2, 3, 127)), cid=rng.choice((0, 9)), cmd_sn=peer.cmd_sn))
    peer.send(peer.command(appliance.lun("victim"), bytes(6)))


# Without EXTENDED COPY, FORMAT UNIT and the like being harmful: what they find is the victim's and the tape's alone.
# The changer's moves are left out, as a drive without its cartridge would make the rest less interesting.
OPERATION_CODES = [code for code in range(256) if code not in (0xA5, 0xA6)]

PHASES = (
    before_login, first_login, later_login, discovery, full_feature, any_command, data_out, management
)  # fmt: skip


@pytest.mark.parametrize("phase", PHASES, ids=lambda phase: phase.__name__)
@pytest.mark.timeout(0)
def test_garbage(
    appliance: Appliance,
    bystander: Bystander,
    phase: Callable[[Peer, Appliance, random.Random], None],
    fuzz_seed: int,
    fuzz_cases: int,
) -> None:
    resident = appliance.resident_bytes()
    for case in range(fuzz_cases):
        rng = random.Random(f"{fuzz_seed} {phase.__name__} {case}")
        where = f"--fuzz-seed={fuzz_seed}, phase {phase.__name__}, case {case}"
        peer = open_peer(appliance)
        try:
            phase(peer, appliance, rng)
        except HungUp:
            pass  # closed while we were still talking
        except TimeoutError as error:
            raise AssertionError(f"{where}: the target neither answers nor closes\n{appliance.log_text()}") from error
        try:
            finish(peer)
        except TimeoutError as error:
            raise AssertionError(f"{where}: the target keeps the connection\n{appliance.log_text()}") from error
        assert appliance.is_running(), f"{where}: the process has ended\n{appliance.log_text()}"
        assert not appliance.problems(), f"{where}\n{appliance.problems()}"
        if case % CHECK_EVERY == CHECK_EVERY - 1:
            bystander.check()
    growth = appliance.resident_bytes() - resident
    assert growth < RESIDENT_GROWTH_BYTES, f"--fuzz-seed={fuzz_seed}, {phase.__name__}: {growth >> 20} MiB more"


@pytest.mark.parametrize("device", ["victim", "drive0", "changer"])
def test_every_operation_code(appliance: Appliance, bystander: Bystander, device: str) -> None:
    """Each of 256 operation codes is answered with a status, whatever the rest of its CDB says."""
    rng = random.Random(device)
    with open_peer(appliance) as peer:
        peer.login(appliance.target_name)
        for code in range(256):
            for rest in (bytes(15), b"\xff" * 15, rng.randbytes(15)):
                if code in (0xA5, 0xA6) and rest != bytes(15):
                    continue
                command = peer.command(
                    appliance.lun(device), bytes([code]) + rest, read=1, expected_data_transfer_length=4096
                )
                peer.send(command)
                answer = peer.receive()
                while isinstance(answer, layers.DataIn) and not answer.has_status:
                    answer = peer.receive()
                assert isinstance(answer, layers.ScsiResponse | layers.DataIn), (hex(code), answer)
                assert answer.initiator_task_tag == command.initiator_task_tag
        assert peer.is_alive()


def test_a_data_segment_of_16_mebibytes(appliance: Appliance, bystander: Bystander) -> None:
    """Claimed before, during and after the login: refused by its length, never waited for or stored."""
    resident = appliance.resident_bytes()
    for logged_in in (False, True):
        with open_peer(appliance) as peer:
            if logged_in:
                peer.login(appliance.target_name)
            kind = layers.NopOut if logged_in else layers.LoginRequest
            peer.send_bytes(bytes(kind(data_segment_length=0xFFFFFF, cmd_sn=peer.cmd_sn)) + bytes(64 * 1024))
            with pytest.raises(HungUp):
                while True:
                    peer.receive()
    assert appliance.resident_bytes() - resident < 4 * MEBIBYTE


def test_a_login_that_never_ends(appliance: Appliance, bystander: Bystander) -> None:
    started = time.monotonic()
    with open_peer(appliance) as silent, open_peer(appliance) as half:
        half.send_bytes(bytes(layers.LoginRequest())[:30])
        for peer in (silent, half):
            with pytest.raises(HungUp):
                peer.receive()
    assert LOGIN_SECONDS * 0.8 < time.monotonic() - started < LOGIN_SECONDS + 50


def test_a_peer_that_stops_reading(appliance: Appliance, bystander: Bystander) -> None:
    """It asks for far more than it takes: the target holds a bounded amount, and lets it go after send_seconds."""
    resident, before = appliance.resident_bytes(), len(appliance.log)
    peer = open_peer(appliance)
    peer.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    peer.login(appliance.target_name)
    peer.socket.settimeout(SEND_SECONDS + 30)
    # From the bystander's disk, which nobody has reserved or formatted.
    cdb = bytes([0x28]) + bytes(6) + (2048).to_bytes(2, "big") + b"\0"
    highest = resident
    with contextlib.suppress(HungUp):
        for _ in range(4096):
            # When the target takes no more commands either, this waits until it hangs up.
            peer.send(peer.command(appliance.lun("disk"), cdb, read=1, expected_data_transfer_length=MEBIBYTE))
            highest = max(highest, appliance.resident_bytes())
    bystander.check()
    eventually(lambda: warnings(appliance, before, address_of(peer)), SEND_SECONDS + 60)
    assert len(warnings(appliance, before, address_of(peer))) == 1, appliance.log_text()
    peer.close()
    assert highest - resident < 4 * CONNECTION_MEBIBYTES * MEBIBYTE


def test_many_connections_that_say_nothing(appliance: Appliance, bystander: Bystander) -> None:
    """They cost the others nothing, and go when their time is over."""
    peers = [open_peer(appliance) for _ in range(100)]
    bystander.check()
    for peer in peers:
        with pytest.raises(HungUp):
            peer.receive()
        peer.close()
    with open_peer(appliance) as peer:
        peer.login(appliance.target_name)
        assert peer.is_alive()


@pytest.mark.parametrize(
    ("source", "attack"),
    [  # each from an address of its own: of one that has failed often the log leaves lines out
        ("127.0.0.2", lambda peer, name: peer.send_bytes(b"GET / HTTP/1.1\r\nHost: library\r\n\r\n" + bytes(64))),
        ("127.0.0.3", lambda peer, name: peer.send(login_pdu("iqn.2026-01.org.example:nowhere"))),
        ("127.0.0.4", lambda peer, name: send_bad_digest(peer, name)),
        ("127.0.0.5", lambda peer, name: send_too_much_data(peer, name)),
    ],
    ids=["not iSCSI", "unknown target", "bad digest", "too much data"],
)
def test_the_log_has_one_clear_line(appliance: Appliance, source: str, attack: Callable[[Peer, str], None]) -> None:
    before = len(appliance.log)
    peer = open_peer(appliance, source)
    address = address_of(peer)
    with contextlib.suppress(HungUp):
        attack(peer, appliance.target_name)
    finish(peer)
    eventually(lambda: warnings(appliance, before, address))
    lines = warnings(appliance, before, address)
    assert len(lines) == 1, lines
    assert lines[0].get("reason"), lines


def address_of(peer: Peer) -> str:
    """This end's address, as the target's log names it."""
    return "{}:{}".format(*peer.socket.getsockname())


def warnings(appliance: Appliance, start: int, address: str) -> list[dict[str, object]]:
    return [
        entry
        for entry in appliance.log[start:]
        if entry.get("level") == "warning" and address in (str(value) for value in entry.values())
    ]


def login_pdu(target_name: str) -> layers.Pdu:
    keys = {"InitiatorName": "iqn.2026-01.org.example:fuzz", "TargetName": target_name}
    return layers.LoginRequest(initiator_task_tag=1) / Raw(text(keys))


def send_bad_digest(peer: Peer, target_name: str) -> None:
    peer.login(target_name, HeaderDigest="CRC32C")
    peer.header_digest = False
    peer.send_bytes(bytes(layers.NopOut(initiator_task_tag=7, cmd_sn=1)) + b"\0\0\0\0")
    peer.header_digest = True
    while True:
        peer.receive()


def send_too_much_data(peer: Peer, target_name: str) -> None:
    peer.login(target_name)
    peer.send_bytes(bytes(layers.NopOut(data_segment_length=0xFFFFFF, cmd_sn=1)))
    while True:
        peer.receive()
