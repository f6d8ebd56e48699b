"""What of this machine has a block device or an image file in use already: a mount, swap, LVM, RAID, a loop device.

Writing to it at the same time would destroy what is on it. The kernel says whether a device is taken (EBUSY to O_EXCL,
open(2)); by what is told from /proc and /sys.
"""

import os
import re
from collections.abc import Iterator
from pathlib import Path

PROC = Path("/proc")
SYS = Path("/sys")


def device_holders(device: int) -> list[str]:
    """Who uses a block device, or a partition of it, in words; empty where that cannot be told. device: st_rdev."""
    devices = _with_partitions(_number(device))
    return [*_mounts(devices), *_swap(devices), *_stacked(devices)]


def file_holders(path: Path) -> list[str]:
    """Who writes to an image file through the kernel, in words: a loop device, swap."""
    try:
        identity = _identity(path)
    except OSError:
        return []
    loops = [
        f"attached to /dev/{name}" for name, backing in _loop_devices() if _same_file(backing, identity)
    ]  # fmt: skip
    swap = [f"used as swap ({area})" for area in _swap_areas() if _same_file(area, identity)]
    return [*loops, *swap]


def _number(device: int) -> str:
    return f"{os.major(device)}:{os.minor(device)}"


def _identity(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_dev, status.st_ino


def _same_file(path: Path, identity: tuple[int, int]) -> bool:
    try:
        return _identity(path) == identity
    except OSError:
        return False


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="surrogateescape")
    except OSError:
        return ""


def _with_partitions(number: str) -> dict[str, str]:
    """major:minor of the device and of its partitions, each with its name."""
    folder = SYS / "dev/block" / number
    name = folder.resolve().name
    partitions = {_read(path / "dev").strip(): path.name for path in folder.glob("*/") if (path / "partition").exists()}
    return {number: name, **partitions}


def _mounts(devices: dict[str, str]) -> Iterator[str]:
    for line in _read(PROC / "self/mountinfo").splitlines():
        fields = line.split(" ")  # proc(5): id, parent, major:minor, root, mount point, ...
        if len(fields) > 4 and fields[2] in devices:
            yield f"/dev/{devices[fields[2]]} is mounted on {_unescaped(fields[4])}"


def _swap_areas() -> Iterator[Path]:
    for line in _read(PROC / "swaps").splitlines()[1:]:
        yield Path(_unescaped(line.split(" ")[0].split("\t")[0]))


def _swap(devices: dict[str, str]) -> Iterator[str]:
    for area in _swap_areas():
        try:
            number = _number(area.stat().st_rdev)
        except OSError:
            continue
        if number in devices:
            yield f"{area} is used as swap"


def _stacked(devices: dict[str, str]) -> Iterator[str]:
    for number, name in devices.items():
        for holder in sorted((SYS / "dev/block" / number / "holders").glob("*")):
            kind = _read(holder / "dm/name").strip() or ("RAID" if (holder / "md").exists() else "")
            yield f"/dev/{name} is part of /dev/{holder.name}" + (f" ({kind})" if kind else "")


def _loop_devices() -> Iterator[tuple[str, Path]]:
    """Those that can be written, with the files behind them."""
    for folder in sorted((SYS / "block").glob("loop*")):
        backing = _read(folder / "loop/backing_file").removesuffix("\n")
        if backing and _read(folder / "ro").strip() == "0":
            yield folder.name, Path(backing)


def _unescaped(field: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), field)
