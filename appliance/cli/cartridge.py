"""cartridge create, list, show, protect, unprotect, delete."""

from pathlib import Path
from typing import Annotated, Any

import typer

from appliance.cli.options import ConfigOption, JsonOption, YesOption, confirm, reporting, request, show, table
from appliance.cli.render import progress_bar

app = typer.Typer(no_args_is_help=True, help="Make, list, check, convert and delete cartridges.")

Barcode = Annotated[str, typer.Argument(metavar="BARCODE", help="For example A00001L6.")]


@app.command(
    epilog="Example: tapebay cartridge create A00001L6 --count 10 makes A00001L6 to A00010L6 in the free slots."
)
def create(
    barcode: Barcode,
    count: Annotated[int, typer.Option(min=1, max=65535, help="How many, numbered on from the barcode.")] = 1,
    medium: Annotated[str | None, typer.Option(help="LTO-5 to LTO-9; by default what the barcode's end says.")] = None,
    capacity: Annotated[str | None, typer.Option(help='"100 GiB"; by default what such a medium holds.')] = None,
    worm: Annotated[bool, typer.Option("--worm", help="Write once, read many.")] = False,
    place: Annotated[
        str | None, typer.Option("--to", help="slot:3, shelf, ...; by default the first free slot.")
    ] = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make new, empty cartridges."""
    with reporting(as_json):
        params = {"count": count, "medium": medium, "capacity": capacity, "worm": worm, "place": place}
        with progress_bar("Making cartridges", not as_json, of_bytes=False) as progress:
            made = request(config, "cartridge.create", progress, barcode=barcode, **params)
        show(made, as_json, _list)


@app.command("list")
def list_(config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """List every cartridge, in the library and on the shelf. Works without a daemon."""
    with reporting(as_json):
        show(request(config, "cartridge.list"), as_json, _list)


@app.command("show")
def show_(barcode: Barcode, config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Show one cartridge in full."""
    with reporting(as_json):
        show(request(config, "cartridge.show", barcode=barcode), as_json, _show)


@app.command()
def protect(barcode: Barcode, config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Slide the write-protect tab of a cartridge: drives only read it."""
    _protect(barcode, True, config, as_json)


@app.command()
def unprotect(barcode: Barcode, config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Slide the write-protect tab back: drives write it again."""
    _protect(barcode, False, config, as_json)


def _protect(barcode: str, protected: bool, config: Path | None, as_json: bool) -> None:
    with reporting(as_json):
        result = request(config, "cartridge.protect", barcode=barcode, protected=protected)
        show(result, as_json, lambda _: typer.echo(f"{barcode} is {'' if protected else 'not '}write protected"))


@app.command()
def delete(barcode: Barcode, yes: YesOption = False, config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Delete a cartridge and what is on it. There is no way back."""
    with reporting(as_json):
        request(config, "cartridge.show", barcode=barcode)  # a wrong barcode is said before the question
        confirm(f"Delete cartridge {barcode} and all its data?", yes)
        show(
            request(config, "cartridge.delete", barcode=barcode), as_json, lambda _: typer.echo(f"{barcode} is deleted")
        )


def _list(cartridges: list[dict[str, Any]]) -> None:
    from appliance.settings.units import format_size

    table(
        ["barcode", "place", "medium", ">capacity", ">written", "remarks"],
        [
            (
                row["barcode"],
                row["place"],
                row["medium"],
                format_size(row["capacity_bytes"]),
                format_size(row["used_bytes"]),
                row["problem"] or " ".join(flag for flag in ("worm", "write_protected") if row[flag]).replace("_", "-"),
            )
            for row in cartridges
        ],
        empty="No cartridges; make some: tapebay cartridge create A00001L6 --count 10",
    )


def _show(cartridge: dict[str, Any]) -> None:
    from appliance.settings.units import format_size

    for name, value in cartridge.items():
        label = name.removesuffix("_bytes").replace("_", " ")
        typer.echo(f"{label:18}{format_size(value) if name.endswith('_bytes') else value}")
