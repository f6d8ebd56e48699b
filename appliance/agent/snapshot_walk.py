"""The files of a snapshot, from its own mount: a process of its own, whose mounts nobody else sees.

What is mapped is the snapshot and never the live file system, whose blocks may be freed and used anew after the
instant. The snapshot is mounted without its journal being replayed ("noload", "norecovery"), which is right for a file
system that was held still, and for that one only: an ext4 whose superblock asks for recovery is refused.

    python -m appliance.agent.snapshot_walk < ORDER

ORDER is one line of JSON; each line that comes out is one file as appliance.backup.listing writes it, and after the
last one {"end": COUNT}, or {"failed": WHY}. As a program it imports little, and it runs as root.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from appliance.agent import kernel
from appliance.agent.block_devices import SECTOR, DeviceRange, Stack
from appliance.agent.file_systems import NotMapped
from appliance.agent.walk import Walk, mapper
from appliance.backup.listing import to_line
from appliance.own_program import own_command, own_environment

_OPTIONS: Final = {"ext2": "noload", "ext3": "noload", "ext4": "noload", "xfs": "norecovery,nouuid"}
_SUPERBLOCK, _MAGIC_AT, _INCOMPATIBLE_AT = 1024, 0x38, 0x60  # ext4's superblock, the offsets within it
_MAGIC, _NEEDS_RECOVERY = 0xEF53, 0x4
END_SECONDS: Final = 30.0
_MAPPER: Final = Path("/dev/mapper")


class WalkFailed(Exception):
    """The snapshot's files could not be listed; str() says why."""


@dataclass(frozen=True, slots=True)
class Order:
    """What is to be walked. device: the snapshot's, a whole disk. pieces: what the file system lies on, (start, length,
    disk, offset on the disk) in bytes, all of one disk. prefix, only, exclude: as Walk has them, as text."""

    device: str
    file_system: str
    pieces: list[list[Any]]
    prefix: str = ""
    only: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()

    @classmethod
    def of(cls, device: str, file_system: str, stack: Stack, **choices: Any) -> Order:
        """Of a mounted file system as it is made now. Raises NotMapped where it lies on several disks."""
        stack.only_disk()
        return cls(device, file_system, [list(piece) for piece in stack.pieces], **choices)


def lines_of(order: Order) -> Iterator[str]:
    """The snapshot's files, walked by a process of its own. Raises WalkFailed, also after some of them; OSError."""
    command = own_command("appliance.agent.snapshot_walk")
    with subprocess.Popen(
        command, env=own_environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as walk:
        assert walk.stdin and walk.stdout and walk.stderr  # pipes, as asked
        walk.stdin.write(json.dumps(asdict(order)) + "\n")
        walk.stdin.close()
        try:
            for count, line in enumerate(walk.stdout):
                if line.startswith(('{"end":', '{"failed":')):
                    _check_end(json.loads(line), count)
                    return
                yield line.rstrip("\n")
            raise WalkFailed(f"the walk ended too early: {walk.stderr.read()[-500:]}")
        finally:
            walk.terminate()  # it has ended, or nobody wants the rest: it takes its mount and device away
            with suppress(subprocess.TimeoutExpired):
                walk.wait(END_SECONDS)
            walk.kill()


def _check_end(last: dict[str, Any], count: int) -> None:
    if "failed" in last:
        raise WalkFailed(str(last["failed"]))
    if last["end"] != count:
        raise WalkFailed(f"{count} lines came of {last['end']}")


def needs_recovery(device: Path) -> bool:
    """Whether an ext4 was not held still when the snapshot was made. Raises OSError."""
    with device.open("rb") as file:
        file.seek(_SUPERBLOCK)
        block = file.read(1024)
    magic = int.from_bytes(block[_MAGIC_AT : _MAGIC_AT + 2], "little")
    incompatible = int.from_bytes(block[_INCOMPATIBLE_AT : _INCOMPATIBLE_AT + 4], "little")
    return magic == _MAGIC and bool(incompatible & _NEEDS_RECOVERY)


# ---- the process itself ----------------------------------------------------------------------------------------------


def walked(order: Order) -> Iterator[str]:
    """The lines, from a mount that is gone at the end. Raises NotMapped, OSError."""
    stack = Stack((order.device,), tuple(DeviceRange(*piece) for piece in order.pieces))
    with ExitStack() as opened:
        device = opened.enter_context(_assembled(order.device, stack))
        if order.file_system.startswith("ext") and needs_recovery(device):
            raise NotMapped("the file system was not held still when the snapshot was made; make a new one")
        top = Path(opened.enter_context(tempfile.TemporaryDirectory(prefix="tapebay-snapshot-")))
        kernel.leave_mounts_to_others()
        kernel.mount_read_only(os.fsencode(device), os.fsencode(top), order.file_system, _OPTIONS[order.file_system])
        opened.callback(lambda: subprocess.run(["umount", top], check=False))
        walk = Walk(
            os.fsencode(top), mapper(stack.locate, stack.disks[0]), os.fsencode(order.prefix),
            [os.fsencode(path) for path in order.only], [os.fsencode(pattern) for pattern in order.exclude],
        )  # fmt: skip
        yield from map(to_line, walk.entries())


@contextmanager
def _assembled(device: str, stack: Stack) -> Iterator[Path]:
    """The file system's device over the snapshot's disk, read-only: the disk itself, or the same pieces of it by
    dm-linear. A volume group is never activated: its names are those of the live one."""
    if len(stack.pieces) == 1 and stack.pieces[0].disk_offset == 0:
        yield Path(device)
        return
    name = f"tapebay-{os.getpid()}"
    table = "\n".join(
        f"{piece.start // SECTOR} {piece.length // SECTOR} linear {device} {piece.disk_offset // SECTOR}"
        for piece in stack.pieces
    )
    _dmsetup("create", "--readonly", name, given=table)
    try:
        if not (_MAPPER / name).exists():  # no udev makes it here
            _dmsetup("mknodes", name)
        yield _MAPPER / name
    finally:
        with suppress(OSError):
            _dmsetup("remove", "--retry", name)
            if (_MAPPER / name).is_block_device():
                _dmsetup("mknodes", name)


def _dmsetup(*arguments: str, given: str = "") -> None:
    done = subprocess.run(["dmsetup", *arguments], input=given, capture_output=True, text=True, timeout=60)
    if done.returncode:
        raise OSError(f"dmsetup {arguments[0]}: {done.stderr.strip()}")


def main() -> None:
    signal.signal(signal.SIGTERM, lambda _number, _frame: sys.exit(1))
    order = Order(**json.loads(sys.stdin.readline()))
    count = 0
    try:
        for line in walked(order):
            print(line)
            count += 1
        print(json.dumps({"end": count}))
    except (NotMapped, OSError, KeyError) as error:
        print(json.dumps({"failed": str(error)}))


if __name__ == "__main__":
    main()
