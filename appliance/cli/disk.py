"""disk create and list."""

from typing import Annotated, Any

import typer

from appliance.cli.options import ConfigOption, JsonOption, reporting, show, table

app = typer.Typer(no_args_is_help=True, help="Make and list disks.")


@app.command(epilog='Example: tapebay disk create backup "10 GiB"')
def create(
    name: Annotated[str, typer.Argument(help="A new device name: lower case, for example backup.")],
    size: Annotated[str, typer.Argument(help='"10 GiB", "500 GB" or a number of bytes.')],
    block_size: Annotated[int, typer.Option(help="512 or 4096 bytes.")] = 512,
    removable: Annotated[bool, typer.Option("--removable", help="Initiators may eject it.")] = False,
    read_only: Annotated[bool, typer.Option("--read-only", help="Initiators cannot write it.")] = False,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make a sparse disk image and add it to tapebay.toml. A running daemon serves it after its next start."""
    with reporting(as_json):
        from appliance import config_file, disks

        path = config_file.find(config)
        made = disks.create(path, name, size, block_size=block_size, removable=removable, read_only=read_only)
        show(made, as_json, lambda disk: typer.echo(f"{disk['name']}: {disk['image']}, in {path}; restart to serve it"))


@app.command("list")
def list_(config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """List the disks of tapebay.toml and their images."""
    with reporting(as_json):
        from appliance import config_file, disks

        show(disks.describe(config_file.load(config_file.find(config))), as_json, _list)


def _size(length_bytes: int | None) -> str:
    from appliance.units import format_size

    return "missing" if length_bytes is None else format_size(length_bytes)


def _list(disks: list[dict[str, Any]]) -> None:
    table(
        ["name", ">size", ">stored", ">block", "flags", "image"],
        [
            (
                disk["name"],
                _size(disk["size_bytes"]),
                _size(disk["stored_bytes"]),
                disk["block_size"],
                " ".join(flag for flag in ("read_only", "removable") if disk[flag]).replace("_", "-"),
                disk["image"],
            )
            for disk in disks
        ],
    )
