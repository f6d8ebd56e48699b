"""cartridge verify, recover, import, export: what takes long."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from appliance.cli.options import ConfigOption, JsonOption, reporting, request, show
from appliance.cli.render import progress_bar
from appliance.failures import Failure

if TYPE_CHECKING:
    from appliance.settings.settings import Settings

Barcode = Annotated[str, typer.Argument(metavar="BARCODE", help="For example A00001L6.")]
MediumOption = Annotated[
    str | None, typer.Option("--medium", help="LTO-5 to LTO-9; by default what the barcode's end says.")
]
FormatOption = Annotated[str, typer.Option("--format", help="simh, e11, awstape, directory; import also mhvtl, tgt.")]

_NEEDS_KEY = (
    "A cartridge does not hold its keys: give the one that its blocks were encrypted with (--key-file), or read them "
    "through a drive to which the application has given it."
)


def register(app: typer.Typer) -> None:
    """Adds the commands to `tapebay cartridge`."""
    app.command(epilog="Example: tapebay cartridge verify A00001L6")(verify)
    app.command(epilog="Example: tapebay cartridge recover A00001L6 A00101L6")(recover)
    app.command("import", epilog="Example: tapebay cartridge import A00009L6 old.tap --format simh")(import_)
    app.command(epilog="Example: tapebay cartridge export A00001L6 tape.tap --format simh")(export)


def _settings(config: Path | None) -> "Settings":
    from appliance.settings import config_file

    return config_file.load(config_file.find(config))


def verify(barcode: Barcode, config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Read and check every block of a cartridge. It may be in a drive, and in use."""
    with reporting(as_json):
        from appliance.operations import cartridge_work

        settings = _settings(config)
        with progress_bar(f"Verifying {barcode}", not as_json) as progress:
            report = cartridge_work.verify_cartridge(settings, barcode, progress)
        lines = [str(report), *(f"damaged: {damage}" for damage in report.damages)]
        show(asdict(report), as_json, lambda _: typer.echo("\n".join(lines)))
        if report.damages:
            raise typer.Exit(Failure.REFUSED.exit_status)


def recover(
    barcode: Barcode,
    new_barcode: Annotated[str, typer.Argument(metavar="NEW", help="The new cartridge's barcode.")],
    medium: MediumOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Copy what reads of a damaged cartridge to a new one, on the shelf, and say what was lost."""
    with reporting(as_json):
        from appliance.operations import cartridge_work

        settings = _settings(config)
        with progress_bar(f"Saving {barcode}", not as_json) as progress:
            report = cartridge_work.recover_cartridge(settings, barcode, new_barcode, medium, progress)
        request(config, "cartridge.adopt", barcode=new_barcode)
        lines = [str(report), *(f"lost: {damage}" for damage in report.lost), *(f"note: {n}" for n in report.notes)]
        show(asdict(report), as_json, lambda _: typer.echo("\n".join(lines)))
        if report.lost:  # so that `recover ... && delete ...` does not delete what may be needed again
            raise typer.Exit(Failure.REFUSED.exit_status)


def import_(
    barcode: Barcode,
    file: Annotated[Path, typer.Argument(exists=True, help="The other program's tape: a file, or a directory.")],
    format_name: FormatOption,
    medium: MediumOption = None,
    capacity: Annotated[str | None, typer.Option(help='"100 GiB"; by default what such a medium holds.')] = None,
    salvage: Annotated[
        bool, typer.Option("--salvage", help="Keep what reads of a truncated or damaged source. Status 1: not all did.")
    ] = False,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make a new cartridge, on the shelf, of another program's tape."""
    with reporting(as_json):
        from appliance.operations import cartridge_work

        settings = _settings(config)
        with progress_bar(f"Importing {file}", not as_json) as progress:
            report = cartridge_work.import_cartridge(
                settings, barcode, file, format_name, medium, capacity, progress, salvage=salvage
            )
        request(config, "cartridge.adopt", barcode=barcode)
        show(asdict(report), as_json, lambda result: _copied(f"{file} imported as {barcode}", result))
        if report.incomplete:
            raise typer.Exit(Failure.REFUSED.exit_status)


def export(
    barcode: Barcode,
    file: Annotated[Path, typer.Argument(help="What to make; it must not exist.")],
    format_name: FormatOption,
    partition: Annotated[int, typer.Option(min=0, max=3, help="Which partition of the cartridge.")] = 0,
    key_file: Annotated[
        Path | None,
        typer.Option(dir_okay=False, help="Decrypts with this key: 64 hexadecimal digits, as of `stenc -g`."),
    ] = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write a cartridge, which must not be in a drive, in another program's format. Status 1: blocks were left out."""
    with reporting(as_json):
        from appliance.operations import cartridge_work

        settings = _settings(config)
        with progress_bar(f"Exporting {barcode}", not as_json) as progress:
            report = cartridge_work.export_cartridge(
                settings, barcode, file, format_name, partition, key_file, progress
            )
        show(asdict(report), as_json, lambda result: _copied(f"{barcode} exported to {file}", result))
        if report.left_out:
            raise typer.Exit(Failure.REFUSED.exit_status)


def _copied(what: str, report: dict[str, Any]) -> None:
    from appliance.settings.units import format_size

    size = format_size(report["bytes_copied"])
    typer.echo(f"{what}: {report['blocks']} blocks, {report['filemarks']} filemarks, {size}")
    for note in report["notes"]:
        typer.echo(f"note: {note}")
    if report["undecrypted"]:
        typer.echo(_NEEDS_KEY)
