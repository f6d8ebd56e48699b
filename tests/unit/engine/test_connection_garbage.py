"""Garbage in every field: the outcome is a request, a Reject, ProtocolError or ConnectionClosed, and nothing leaks."""

import random

import pytest

from datamover.engine import BufferPool, ConnectionClosed, DataBuffer, ProtocolError, ScsiCommand

from .peer import DATA_OUT, LOGOUT, NOP_OUT, R2T, SCSI_COMMAND, SNACK, TASK_MANAGEMENT, TEXT, Peer

OPCODES = [SCSI_COMMAND] * 8 + [DATA_OUT] * 2 + [NOP_OUT, TASK_MANAGEMENT, TEXT, LOGOUT, SNACK]
INTERESTING = [0, 1, 2, 9, 10, 11, 17, 18, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFE, 0xFFFFFFFF, 512, 4096, 65536]


def plausible_header(rng: random.Random, peer: Peer, r2ts: list[tuple[int, int, int]]) -> bytearray:
    """A header that gets far: small tags, CmdSNs about the window, answers to R2Ts that are open."""
    header = bytearray(48)
    header[0] = rng.choice(OPCODES) | rng.choice([0, 0, 0x40])
    header[1] = rng.choice([0x80, 0xA1, 0xC1, 0xE1, 0x21, 0x00, rng.randrange(256)])
    header[16:20] = rng.randrange(12).to_bytes(4, "big")
    header[20:24] = rng.choice([0, 100, 5000, 70_000, 0xFFFFFFFF]).to_bytes(4, "big")
    cmd_sn = peer.take_cmd_sn(bool(header[0] & 0x40)) + rng.choice([0] * 20 + [1, 2, -1, 9])
    header[24:28] = cmd_sn.to_bytes(4, "big")
    if r2ts and rng.random() < 0.4:
        tag, ttt, offset = rng.choice(r2ts)
        header[0:2] = bytes([DATA_OUT, rng.choice([0, 0x80])])
        header[16:20], header[20:24] = tag.to_bytes(4, "big"), ttt.to_bytes(4, "big")
        header[36:40], header[40:44] = rng.randrange(3).to_bytes(4, "big"), offset.to_bytes(4, "big")
    return header


def mutate(rng: random.Random, header: bytearray) -> None:
    for _ in range(rng.choice([1, 1, 2, 5])):
        if rng.random() < 0.5:
            header[rng.randrange(48)] = rng.randrange(256)
        else:
            at = rng.randrange(8, 48, 4)
            header[at : at + 4] = rng.choice(INTERESTING).to_bytes(4, "big")


def wild_pdu(rng: random.Random, peer: Peer, header: bytearray) -> bytes:
    mutate(rng, header)
    ahs = rng.randbytes(4 * rng.choice([0, 0, 1, 3, 255]))
    pdu = bytearray(peer.pdu(header, rng.randbytes(rng.choice([0, 1, 100, 4096, 66_000])), ahs))
    if rng.random() < 0.3:
        pdu[rng.randrange(len(pdu))] ^= 1 << rng.randrange(8)
    if rng.random() < 0.1:
        del pdu[rng.randrange(len(pdu)) :]
    return bytes(pdu)


def garbage_pdu(rng: random.Random, peer: Peer, r2ts: list[tuple[int, int, int]]) -> bytes:
    header = plausible_header(rng, peer, r2ts)
    if rng.random() < 0.05:
        return wild_pdu(rng, peer, header)
    data = rng.randbytes(rng.choice([0, 0, 1, 100, 4096, 5000]))
    if header[0] & 0x3F == SCSI_COMMAND and not header[1] & 0x20:  # else it is a format error, and all is over
        header[1] |= 0x80
        data = b""
    return peer.pdu(header, data)


def read_r2ts(peer: Peer, stream: bytearray) -> list[tuple[int, int, int]]:
    """Takes what the target has sent; (Initiator Task Tag, Target Transfer Tag, Buffer Offset) of the R2Ts in it."""
    peer.socket.settimeout(0)
    try:
        while piece := peer.socket.recv(1 << 20):
            stream += piece
    except BlockingIOError:
        pass
    r2ts = []
    header = 52 if peer.options["header_digest"] else 48
    while len(stream) >= header:
        length = int.from_bytes(stream[5:8], "big")
        whole = header + length + -length % 4 + (4 if length and peer.options["data_digest"] else 0)
        if len(stream) < whole:
            break
        peer.cmd_sn = int.from_bytes(stream[28:32], "big")
        if stream[0] == R2T:
            words = [int.from_bytes(stream[at : at + 4], "big") for at in (16, 20, 40)]
            r2ts.append((words[0], words[1], words[2]))
        del stream[:whole]
    return r2ts


def act(rng: random.Random, peer: Peer, command: ScsiCommand, kept: list[ScsiCommand]) -> None:
    choice = rng.random()
    if choice < 0.5:
        buffer: bytes | DataBuffer = rng.choice([b"", bytes(100), peer.pool.acquire(20_000)])
        peer.connection.respond(command, rng.choice([0, 2]), rng.randbytes(rng.choice([0, 18])), buffer)
    elif choice < 0.6:
        peer.connection.discard(command)
    else:
        kept.append(command)


def converse(rng: random.Random, peer: Peer) -> str:
    kept: list[ScsiCommand] = []
    r2ts: list[tuple[int, int, int]] = []
    stream = bytearray()
    try:
        for _ in range(rng.randrange(5, 60)):
            peer.send(garbage_pdu(rng, peer, r2ts))
            for _ in range(3):
                item = peer.connection.receive(0)
                if isinstance(item, ScsiCommand):
                    act(rng, peer, item, kept)
            if kept and rng.random() < 0.2:
                peer.connection.respond(kept.pop(), 0)
            if rng.random() < 0.2:  # what Python does for task management; else the window soon fills up for good
                peer.connection.abort(lun=rng.choice([0, None]))
                peer.connection.plug(rng.choice([peer.cmd_sn, rng.randrange(10, 40)]))
            r2ts = (r2ts + read_r2ts(peer, stream))[-6:]
    except (ProtocolError, ConnectionClosed) as error:
        return type(error).__name__
    return "open"


def torment(seed: int) -> tuple[str, int, BufferPool]:
    rng = random.Random(seed)
    digests = {"header_digest": rng.random() < 0.3, "data_digest": rng.random() < 0.3}
    negotiated = {"initial_r2t": rng.random() < 0.5, "immediate_data": rng.random() < 0.8, "max_outstanding_r2t": 3}
    with Peer(**digests, **negotiated, first_burst_length=4096, max_burst_length=8192, command_window=6) as peer:
        return converse(rng, peer), peer.connection.commands, peer.pool


@pytest.mark.parametrize("block", range(8))
def test_garbage_has_only_the_declared_outcomes(block: int) -> None:
    outcomes, commands = set(), 0
    for seed in range(block * 100, block * 100 + 100):
        try:
            outcome, handed_out, pool = torment(seed)
        except Exception as error:
            raise AssertionError(f"seed {seed}: {error!r}") from error
        assert pool.in_use_bytes == 0, f"seed {seed}: memory is not given back"
        outcomes.add(outcome)
        commands += handed_out

    assert commands > 200, "the garbage never gets far"
    assert outcomes >= {"open", "ProtocolError"}, "the garbage is neither all harmless nor all fatal"


@pytest.mark.parametrize("seed", range(20))
def test_pure_noise(seed: int) -> None:
    with Peer() as peer:
        peer.send(random.Random(seed).randbytes(200_000))
        peer.socket.close()
        with pytest.raises((ProtocolError, ConnectionClosed)):
            while True:
                peer.connection.receive(5)
