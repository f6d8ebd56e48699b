"""Writes a starting corpus for fuzz_connection: valid conversations in its input format."""

import sys
from pathlib import Path

from tests.unit.engine.peer import NOP_OUT, TASK_MANAGEMENT, TEXT, Peer

RECEIVE = bytes([0xE1])
ANSWER = bytes([0xC0, 0x02])
ABORT = bytes([0xD0, 0x00])


def feed(pdus: bytes) -> bytes:
    """Steps that feed these bytes, in pieces as long as a step takes."""
    return b"".join(bytes([len(piece)]) + piece for at in range(0, len(pdus), 0xBE) if (piece := pdus[at : at + 0xBE]))


def conversations() -> dict[str, bytes]:
    with Peer(exp_cmd_sn=1) as peer:
        write = peer.command(1, expected=3000, data=bytes(1024), write=True, lun=1 << 48)
        solicited = peer.data_out(1, bytes(1976), offset=1024, ttt=1, lun=1 << 48)
        read = peer.command(2, expected=5000, read=True)
        unsolicited = peer.command(3, expected=1024, write=True, final=False)
        burst = peer.data_out(3, bytes(1024))
        extended = peer.command(4, ahs=bytes([0, 5, 1, 0]) + b"wxyz" + bytes([0, 5, 2, 0, 0, 0, 16, 0]))
        ping = peer.request(NOP_OUT, data=b"ping")
        abort = peer.request(TASK_MANAGEMENT, tag=9)
        text = peer.request(TEXT, immediate=False, data=b"SendTargets=\0")
        unknown = peer.request(0x1C)
    return {
        "solicited": b"\x08" + feed(write) + feed(solicited) + RECEIVE * 3 + ANSWER,
        "read": b"\x08" + feed(read.replace(b"\0\0\0\x02", b"\0\0\0\x01")) + RECEIVE * 3 + ANSWER,
        "unsolicited": b"\x00" + feed(write + solicited + read + unsolicited + burst) + RECEIVE * 5 + ANSWER * 3,
        "others": b"\x05" + feed(extended + ping + abort + text + unknown) + RECEIVE * 5 + ABORT + ANSWER,
    }


def main(directory: Path) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    for name, conversation in conversations().items():
        (directory / name).write_bytes(conversation)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
