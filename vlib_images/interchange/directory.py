"""A tape as a plain directory: one file for what lies between two filemarks, and blocks.json, which says how it was cut
into blocks: {"files": [{"name": "file-0000", "blocks": [[length, count], ...]}, ...]}. Between every two files is a
filemark; a tape that ends with one ends with an empty file.
"""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from vlib_images.interchange.common import (
    InterchangeError,
    Notes,
    TapeObject,
    check_length,
    open_part,
    read_exactly,
    unmarked,
)

INDEX: Final = "blocks.json"
INDEX_BYTES_MAX: Final = 1 << 30


def write_directory(destination: Path, objects: Iterator[TapeObject], notes: Notes) -> None:
    """The files hold the bytes of the blocks and nothing else."""
    destination.mkdir()
    blocks = unmarked(objects, notes, "a directory")
    files: list[dict[str, Any]] = []
    more = True
    while more:
        name = f"file-{len(files):04d}"
        runs: list[list[int]] = []
        more = False
        with (destination / name).open("xb") as file:
            for item in blocks:
                if item is None:
                    more = True
                    break
                file.write(item)
                if runs and runs[-1][0] == len(item):
                    runs[-1][1] += 1
                else:
                    runs.append([len(item), 1])
        files.append({"name": name, "blocks": runs})
    (destination / INDEX).write_text(json.dumps({"files": files}, indent=1) + "\n")


def read_directory(source: Path, partition: int, notes: Notes) -> Iterator[TapeObject]:
    """What write_directory() made."""
    if partition:
        return
    try:
        files = json.loads(_index(source / INDEX))["files"]
        rows = [(str(row["name"]), [(int(length), int(count)) for length, count in row["blocks"]]) for row in files]
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise InterchangeError(f"{source / INDEX} does not say how the files are cut into blocks: {error}") from error
    for number, (name, runs) in enumerate(rows):
        if number:
            yield None
        if Path(name).name != name or name in ("", ".."):
            raise InterchangeError(f"{source / INDEX}: {name!r} lies outside the directory")
        yield from _blocks(source / name, runs)


def _index(path: Path) -> bytes:
    with open_part(path) as file:
        length = os.fstat(file.fileno()).st_size
        if length > INDEX_BYTES_MAX:
            raise InterchangeError(f"{path} has {length} bytes, more than the {INDEX_BYTES_MAX} that it can have")
        return file.read(INDEX_BYTES_MAX)


def _blocks(path: Path, runs: list[tuple[int, int]]) -> Iterator[TapeObject]:
    with open_part(path) as file:
        for length, count in runs:
            check_length(length, str(path))
            for _ in range(count):
                yield read_exactly(file, length, "a block")
        if file.read(1):
            raise InterchangeError(f"{path} is longer than {INDEX} says")
