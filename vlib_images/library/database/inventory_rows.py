"""The rows of the inventory: one for each cartridge, where it is and where it came from."""

from collections.abc import Container, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, delete, insert, select, update

from vlib_images.library.database import schema
from vlib_images.library.database.errors import StateDamaged
from vlib_images.library.elements import ElementType, Place

TABLE = schema.inventory


@dataclass(frozen=True, slots=True)
class Record:
    """Where a cartridge is, None: on the shelf; the slot it was last taken from, None: unknown; who put it there."""

    place: Place | None
    source: Place | None = None
    placed_by_operator: bool = False


def read(connection: Connection, path: Path) -> dict[str, Record]:
    """Every cartridge. Raises StateDamaged."""
    records = {}
    for row in connection.execute(select(TABLE)):
        if not schema.is_sealed(TABLE, row):
            raise StateDamaged(path, f"damaged: the record of cartridge {row[0]!r} fails its checksum")
        barcode, element_type, element_index, source_type, source_index, placed_by_operator, _ = row
        place, source = _place(element_type, element_index), _place(source_type, source_index)
        records[barcode] = Record(place, source, placed_by_operator)
    return records


def write(connection: Connection, changes: Mapping[str, Record | None], known: Container[str]) -> None:
    """Cartridges that are new, changed, or (None) gone; `known`: those that have a row."""
    changed = [barcode for barcode in changes if barcode in known]
    if len(changed) > 1:  # an exchange: each leaves its element before another comes, as the constraint wants
        vacated = update(TABLE).values(element_type=None, element_index=None)
        connection.execute(vacated.where(TABLE.c.barcode.in_(changed)))
    new = []
    for barcode, record in changes.items():
        if barcode not in known:
            new += [_row(barcode, record)] if record is not None else []
            continue
        statement = delete(TABLE) if record is None else update(TABLE).values(_row(barcode, record))
        if connection.execute(statement.where(TABLE.c.barcode == barcode)).rowcount != 1:
            raise LookupError(f"the database has no row of cartridge {barcode}, which it had when it was opened")
    if new:
        connection.execute(insert(TABLE), new)


def _row(barcode: str, record: Record) -> dict[str, Any]:
    element_type, element_index = record.place or (None, None)
    source_type, source_index = record.source or (None, None)
    return schema.seal(
        TABLE,
        {
            "barcode": barcode,
            "element_type": element_type,
            "element_index": element_index,
            "source_type": source_type,
            "source_index": source_index,
            "placed_by_operator": record.placed_by_operator,
        },
    )


def _place(kind: int | None, index: int | None) -> Place | None:
    return None if kind is None or index is None else (ElementType(kind), index)
