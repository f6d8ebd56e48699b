"""tapebay cartridge: create, list, show, protect, unprotect, delete, verify, recover, import, export."""

from pathlib import Path
from typing import Any

import typer

from appliance.cli.ask import ask_by_name
from appliance.cli.commands import VerbCommand, add_group
from appliance.cli.tables import table

_NEEDS_KEY = (
    "A cartridge does not hold its keys: give the one that its blocks were encrypted with (--key-file), or read them "
    "through a drive to which the application has given it."
)


def _list(cartridges: list[dict[str, Any]], _given: dict[str, Any]) -> None:
    from appliance.settings.units import format_size

    table(
        ["barcode", "place", "partition", "pool", "medium", ">capacity", ">written", "remarks"],
        [
            (
                row["barcode"],
                row["place"],
                row["library_partition"],
                row["pool"],
                row["medium"],
                format_size(row["capacity_bytes"]),
                format_size(row["used_bytes"]),
                row["problem"] or " ".join(flag for flag in ("worm", "write_protected") if row[flag]).replace("_", "-"),
            )
            for row in cartridges
        ],
        empty="No cartridges; make some: tapebay cartridge create A00001L6 --count 10",
    )


def _show(cartridge: dict[str, Any], _given: dict[str, Any]) -> None:
    from appliance.settings.units import format_size

    for name, value in cartridge.items():
        label = name.removesuffix("_bytes").replace("_", " ")
        typer.echo(f"{label:18}{format_size(value) if name.endswith('_bytes') else value}")


def _protected(cartridge: dict[str, Any], _given: dict[str, Any]) -> None:
    typer.echo(f"{cartridge['barcode']} is {'' if cartridge['write_protected'] else 'not '}write protected")


def _deleted(result: dict[str, Any], _given: dict[str, Any]) -> None:
    first, *rest = result["barcodes"]
    typer.echo(f"{first} to {rest[-1]} are deleted: {1 + len(rest)} cartridges" if rest else f"{first} is deleted")


def _delete_question(given: dict[str, Any]) -> str:
    count = given.get("count", 1)
    if count == 1:
        return f"Delete cartridge {given['barcode']} and all its data?"
    return f"Delete {count} cartridges from {given['barcode']} on, as many as there are, and all their data?"


def _must_be_there(config: Path | None, given: dict[str, Any]) -> None:
    if given.get("count", 1) == 1:
        ask_by_name(config, "cartridge.show", barcode=given["barcode"])


def _text(report: dict[str, Any], _given: dict[str, Any]) -> None:
    typer.echo("\n".join(report["text"]))


def _imported(report: dict[str, Any], given: dict[str, Any]) -> None:
    _copied(f"{given['file']} imported as {given['barcode']}", report)


def _exported(report: dict[str, Any], given: dict[str, Any]) -> None:
    _copied(f"{given['barcode']} exported to {given['file']}", report)


def _copied(what: str, report: dict[str, Any]) -> None:
    from appliance.settings.units import format_size

    size = format_size(report["bytes_copied"])
    typer.echo(f"{what}: {report['blocks']} blocks, {report['filemarks']} filemarks, {size}")
    for note in report["notes"]:
        typer.echo(f"note: {note}")
    if report["undecrypted"]:
        typer.echo(_NEEDS_KEY)


COMMANDS = [
    VerbCommand(
        "cartridge.create",
        _list,
        example="tapebay cartridge create A00001L6 --count 10 makes A00001L6 to A00010L6 in the free slots.",
        doing="Making cartridges",
        of_bytes=False,
        interrupted="interrupted; what was made stays, and the same command with --skip-existing makes the rest",
    ),
    VerbCommand("cartridge.list", _list),
    VerbCommand("cartridge.show", _show),
    VerbCommand(
        "cartridge.protect",
        _protected,
        help="Slide the write-protect tab of a cartridge: drives only read it.",
        fixed=(("protected", True),),
    ),
    VerbCommand(
        "cartridge.protect",
        _protected,
        name="unprotect",
        help="Slide the write-protect tab back: drives write it again.",
        fixed=(("protected", False),),
    ),
    VerbCommand(
        "cartridge.delete",
        _deleted,
        example="tapebay cartridge delete A00001L6 --count 10 deletes what there is of A00001L6 to A00010L6.",
        doing="Deleting cartridges",
        of_bytes=False,
        question=_delete_question,
        before=_must_be_there,
        interrupted="interrupted; what was deleted is gone, and the same command deletes the rest",
    ),
    VerbCommand(
        "cartridge.verify",
        _text,
        example="tapebay cartridge verify A00001L6",
        doing="Verifying {barcode}",
        fails=lambda report: bool(report["damages"]),
    ),
    VerbCommand(
        "cartridge.recover",
        _text,
        example="tapebay cartridge recover A00001L6 A00101L6",
        doing="Saving {barcode}",
        fails=lambda report: bool(report["lost"]),  # so that `recover ... && delete ...` deletes nothing that is needed
    ),
    VerbCommand(
        "cartridge.import",
        _imported,
        example="tapebay cartridge import A00009L6 old.tap --format simh",
        doing="Importing {file}",
        fails=lambda report: bool(report["incomplete"]),
    ),
    VerbCommand(
        "cartridge.export",
        _exported,
        example="tapebay cartridge export A00001L6 tape.tap --format simh",
        doing="Exporting {barcode}",
        fails=lambda report: bool(report["left_out"]),
    ),
]


def register(app: typer.Typer) -> None:
    """Adds `tapebay cartridge`."""
    add_group(app, "cartridge", "Make, list, check, convert and delete cartridges.", COMMANDS)
