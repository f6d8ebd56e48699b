"""Small durable facts of a library: where cartridges are, reservations, saved mode pages, serial numbers.

One JSON document per namespace, replaced as a whole: after a crash at any moment a namespace holds either all of an
update or nothing of it. A CRC32C over the canonical form of the data tells damage from content.
"""

import copy
import json
import re
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import TypeAlias

from datamover.engine import crc32c
from vlib_images.atomic import sync_directory, write_atomically
from vlib_images.plain_files import read_plain

JsonValue: TypeAlias = "bool | int | float | str | list[JsonValue] | dict[str, JsonValue] | None"

FORMAT = "tapebay-state"
VERSION = 1
_NAMESPACE = re.compile(r"[a-z][a-z0-9_-]{0,62}")


class StateDamaged(Exception):
    """A state file cannot be trusted; str() names the file, what is wrong and what to do."""

    def __init__(self, path: Path, problem: str) -> None:
        super().__init__(f"{path}: {problem}. Restore the file from a backup of the library.")
        self.path = path


class StateStore:
    """Keys and JSON values, grouped into namespaces, kept in `directory`. Thread-safe; one process writes at a time.

    What a caller gets is a copy and what it gave is copied, so nothing changes a stored value but update().
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._lock = threading.Lock()
        self._loaded: dict[str, dict[str, JsonValue]] = {}

    @classmethod
    def create(cls, directory: Path) -> "StateStore":
        """Make `directory` (its parent must exist) and open it. Raises OSError."""
        directory.mkdir(mode=0o750, exist_ok=True)
        sync_directory(directory.parent)
        return cls(directory)

    def get(self, namespace: str, key: str) -> JsonValue:
        """The value of `key`, None when there is none. Raises StateDamaged, OSError."""
        with self._lock:
            return copy.deepcopy(self._namespace(namespace).get(key))

    def items(self, namespace: str) -> dict[str, JsonValue]:
        """Every key and value of `namespace`; empty when nothing was ever stored. Raises StateDamaged, OSError."""
        with self._lock:
            return copy.deepcopy(self._namespace(namespace))

    def put(self, namespace: str, key: str, value: JsonValue) -> None:
        """Set one key, durable when this returns; None deletes it. Raises as update() does."""
        self.update(namespace, {key: value})

    def update(self, namespace: str, changes: Mapping[str, JsonValue]) -> None:
        """Set several keys in one step, durable when this returns; the value None deletes its key.

        Raises OSError when the storage fails, StateDamaged when what is there cannot be read, TypeError or ValueError
        for a value that JSON does not have. In each case nothing has changed.
        """
        with self._lock:
            merged = {**self._namespace(namespace), **changes}
            data = json.loads(_canonical({key: value for key, value in merged.items() if value is not None}))
            write_atomically(self._path(namespace), _encode(data))
            self._loaded[namespace] = data

    def namespace(self, namespace: str) -> "Namespace":
        """One namespace as a store of its own: what a logical unit is given for its reservations and mode pages."""
        return Namespace(self, namespace)

    def _namespace(self, namespace: str) -> dict[str, JsonValue]:
        if namespace not in self._loaded:
            self._loaded[namespace] = _read(self._path(namespace))
        return self._loaded[namespace]

    def _path(self, namespace: str) -> Path:
        if not _NAMESPACE.fullmatch(namespace):
            raise ValueError(f"not a namespace: {namespace!r}")
        return self._directory / f"{namespace}.json"


class Namespace:
    """get() and put() of one namespace of a StateStore; they raise what the store's own raise."""

    def __init__(self, store: StateStore, name: str) -> None:
        self._store = store
        self._name = name

    def get(self, key: str, /) -> JsonValue:
        return self._store.get(self._name, key)

    def put(self, key: str, value: JsonValue, /) -> None:
        self._store.put(self._name, key, value)


def _canonical(data: Mapping[str, JsonValue]) -> str:
    return json.dumps(data, sort_keys=True, separators=(",", ":"), allow_nan=False)


def _encode(data: dict[str, JsonValue]) -> bytes:
    checksum = crc32c(_canonical(data).encode())
    document = {"format": FORMAT, "version": VERSION, "crc32c": f"{checksum:08x}", "data": data}
    return (json.dumps(document, indent=1, sort_keys=True) + "\n").encode()


def _read(path: Path) -> dict[str, JsonValue]:
    try:
        document = json.loads(read_plain(path.parent.resolve() / path.name))
    except FileNotFoundError:
        return {}
    except ValueError as error:  # not JSON, or not UTF-8
        raise StateDamaged(path, f"not readable as JSON ({error})") from error
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise StateDamaged(path, "not a Tapebay state file")
    if document.get("version") != VERSION:
        raise StateDamaged(path, f"its version is {document.get('version')!r}, this Tapebay reads {VERSION}")
    data = document.get("data")
    if not isinstance(data, dict) or document.get("crc32c") != f"{crc32c(_canonical(data).encode()):08x}":
        raise StateDamaged(path, "its checksum does not match its content (damaged, or edited by hand)")
    return data
