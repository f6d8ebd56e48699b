"""What /proc tells of a process while its threads, files and children come and go."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path


def is_there(process_id: int) -> bool:
    """Whether it runs: one that nobody has waited for yet is over all the same."""
    try:
        return Path(f"/proc/{process_id}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):  # the latter: it has ended between open() and read()
        return False


def children(process_id: int | str = "self") -> list[int]:
    """The processes that it has begun and that nobody has waited for."""
    found = list[int]()
    for path in Path(f"/proc/{process_id}/task").iterdir():
        with suppress(FileNotFoundError, ProcessLookupError):  # a thread that has ended meanwhile
            found += [int(word) for word in (path / "children").read_text().split()]
    return found


def thread_names(process_id: int | str = "self") -> set[str]:
    names = set[str]()
    for path in Path(f"/proc/{process_id}/task").iterdir():
        with suppress(FileNotFoundError, ProcessLookupError):  # a thread that has ended meanwhile
            names.add((path / "comm").read_text().strip())
    return names


def open_files(process_id: int | str = "self") -> list[str]:
    """What it has open, files without a name too."""
    names = list[str]()
    for path in Path(f"/proc/{process_id}/fd").iterdir():
        with suppress(FileNotFoundError, ProcessLookupError):  # closed meanwhile
            names.append(str(path.readlink()))
    return names
