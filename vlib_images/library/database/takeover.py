"""State of versions before the database, one JSON document for each namespace, taken over once.

The order makes a crash at any moment harmless. The new database is made under another name, with everything that the
old files hold and their checksums, and takes its name when it is whole: until then the old files count, from then on
it does. Then the old files get another name. Those that a crash leaves under their own are known by their checksums,
and renamed at the next start; any others beside a database were not taken over, and that is for a person to look
into.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import structlog
from sqlalchemy import Connection

from datamover.engine import crc32c
from vlib_images.atomic import sync_directory
from vlib_images.library.database import events, inventory_rows
from vlib_images.library.database.database import FILE_NAME, Database
from vlib_images.library.database.errors import DatabaseMissing, StateDamaged
from vlib_images.library.database.events import Event
from vlib_images.library.database.inventory_rows import Record
from vlib_images.library.elements import ElementType, Place
from vlib_images.library.state import LibraryState, put_document
from vlib_images.plain_files import read_plain

log = structlog.get_logger(__name__)

OLD_FILES: Final = ("inventory.json", "devices.json", "identity.json")  # all that version 0.1 kept
OLD_BYTES_MAX: Final = 64 << 20  # of one; 60,000 cartridges are about 8 MB
SET_ASIDE: Final = ".taken-over"
NAMESPACE: Final = "takeover"  # file name to CRC32C of what was taken over
_FORMAT, _VERSION = "tapebay-state", 1


def open_database(directory: Path) -> Database:
    """The database in `directory`; made from the old state files when they are there and it is not.

    Raises DatabaseMissing (neither is there), StateDamaged, OSError.
    """
    path = directory / FILE_NAME
    real = directory.resolve()  # links on the way to it are the operator's, a link instead of a file in it is nobody's
    old = {name: read_plain(real / name, OLD_BYTES_MAX) for name in OLD_FILES if os.path.lexists(real / name)}
    documents = {name: _document(directory / name, content) for name, content in old.items()}
    if not path.exists():
        if not old:
            raise DatabaseMissing(path)
        _take_over(path, old, documents)
    database = Database.open(path)
    try:
        if old:
            _set_aside(database, directory, old)
    except BaseException:
        database.close()
        raise
    return database


def _take_over(path: Path, old: Mapping[str, bytes], documents: Mapping[str, dict[str, Any]]) -> None:
    if "identity.json" not in old:
        raise StateDamaged(
            path.with_name("identity.json"), "missing beside other state files; serial numbers come from it"
        )
    with Database.being_made(path) as connection:
        inventory_rows.write(connection, _records(path.parent, documents), known=())
        for name in ("devices.json", "identity.json"):
            for key, value in documents.get(name, {}).items():
                put_document(connection, name.removesuffix(".json"), key, json.dumps(value, allow_nan=False))
        for name, content in old.items():
            put_document(connection, NAMESPACE, name, str(crc32c(content)))
        _tell(connection, path, documents)


def _tell(connection: Connection, path: Path, documents: Mapping[str, dict[str, Any]]) -> None:
    cartridges = len(documents.get("inventory.json", {}))
    events.record(connection, [Event("state files taken over", path.name, {"files": [*documents]})])
    log.warning(
        f"state files of an earlier version were taken over into the database; they are kept as *{SET_ASIDE}",
        path=str(path),
        files=[*documents],
        cartridges=cartridges,
    )


def _set_aside(database: Database, directory: Path, old: Mapping[str, bytes]) -> None:
    taken = LibraryState(database).items(NAMESPACE)
    for name, content in old.items():
        path = directory / name
        if taken.get(name) != crc32c(content):
            raise StateDamaged(
                path,
                f"a state file of an earlier version beside {database.path.name}, which does not know it",
                "Move away the one of the two that does not belong to this library",
            )
    for name in old:
        (directory / name).rename(directory / f"{name}{SET_ASIDE}")
    sync_directory(directory)


def _records(directory: Path, documents: Mapping[str, dict[str, Any]]) -> dict[str, Record]:
    path = directory / "inventory.json"
    occupants: dict[Place, str] = {}
    records = {}
    for barcode, value in documents.get("inventory.json", {}).items():
        record = records[barcode] = _record(path, value)
        if record.place is not None and (other := occupants.setdefault(record.place, barcode)) != barcode:
            place = f"{record.place[0].name.lower()}:{record.place[1]}"
            raise StateDamaged(path, f"it says that {other} and {barcode} are both in {place}")
    return records


def _record(path: Path, value: Any) -> Record:
    match value:
        case {
            "place": str() | None as place,
            "source": str() | None as source,
            "by_operator": bool() as by_operator,
        }:
            return Record(_place(path, place), _place(path, source), by_operator)
    raise StateDamaged(path, f"inventory record not understood: {value!r}")


def _place(path: Path, text: str | None) -> Place | None:
    if text is None:
        return None
    kind, _, index = text.partition(":")
    if kind.upper() not in ElementType.__members__ or not index.isdecimal():
        raise StateDamaged(path, f"place not understood: {text!r}")
    return ElementType[kind.upper()], int(index)


def _document(path: Path, content: bytes) -> dict[str, Any]:
    """What an old state file holds. Raises StateDamaged."""
    try:
        document = json.loads(content)
    except ValueError as error:  # not JSON, or not UTF-8
        raise StateDamaged(path, f"not readable as JSON ({error})") from error
    if not isinstance(document, dict) or document.get("format") != _FORMAT:
        raise StateDamaged(path, "not a Tapebay state file")
    if document.get("version") != _VERSION:
        raise StateDamaged(path, f"its version is {document.get('version')!r}, this Tapebay reads {_VERSION}")
    data = document.get("data")
    if not isinstance(data, dict) or document.get("crc32c") != f"{crc32c(_canonical(data).encode()):08x}":
        raise StateDamaged(path, "its checksum does not match its content (damaged, or edited by hand)")
    return data


def _canonical(data: Mapping[str, Any]) -> str:
    return json.dumps(data, sort_keys=True, separators=(",", ":"), allow_nan=False)
