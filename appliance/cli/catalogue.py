"""tapebay catalogue, tapebay verify: what is where on which cartridge, and whether it still is."""

from typing import Any

import typer

from appliance.cli.commands import VerbCommand, add, add_group
from appliance.cli.tables import table


def _list(kept: list[dict[str, Any]], _given: dict[str, Any]) -> None:
    table(
        [">backup", "disks", "cartridges", ">files", ">bytes"],
        [
            (one["backup"], " ".join(one["disks"]), " ".join(one["cartridges"]), one["files"], one["content_bytes"])
            for one in kept
        ],
        empty="No catalogue yet; make one: tapebay backup DISK --to CARTRIDGE",
    )


def _files(files: list[dict[str, Any]], _given: dict[str, Any]) -> None:
    table(
        [">backup", "name", "kind", ">size", "cartridge", ">block", "crc32c"],
        [
            (
                file["backup"],
                file["name"],
                file["kind"],
                file["size"],
                " ".join(place["cartridge"] + " (overwritten)" * place["lost"] for place in file["places"]),
                " ".join(str(place["block"]) for place in file["places"]),
                file["crc32c"],
            )
            for file in files
        ],
        empty="No such file.",
    )


def _verified(found: dict[str, Any], _given: dict[str, Any]) -> None:
    outcome = "all equal" if found["equal"] else f"{found['differences']} differences"
    typer.echo(f"backup {found['backup']}: {found['files']} files, {found['content_bytes']} bytes compared; {outcome}")
    for one in found["listed"]:
        typer.echo(f"  {one['name'] or 'cartridge ' + one['cartridge']}: {one['what']}")


COMMANDS = [
    VerbCommand("catalogue.list", _list),
    VerbCommand("catalogue.show", _files, example="tapebay catalogue show 3 --under data/home"),
    VerbCommand("catalogue.find", _files, example="tapebay catalogue find '*.odt'"),
    VerbCommand(
        "catalogue.rebuild", _list, doing="Reading cartridges", of_bytes=False,
        example="tapebay catalogue rebuild A00001L6 A00002L6",
    ),
]  # fmt: skip
VERIFY = VerbCommand(
    "verify", _verified, doing="Verifying", fails=lambda found: not found["equal"], example="tapebay verify 3"
)


def register(app: typer.Typer) -> None:
    """Adds `tapebay catalogue` and `tapebay verify`."""
    add_group(app, "catalogue", "Which file is where on which cartridge.", COMMANDS)
    add(app, [VERIFY])
