"""disk create, import, export, grow and list."""

from pathlib import Path
from typing import Annotated, Any

import typer

from appliance.cli.options import ConfigOption, JsonOption, reporting, show, table

app = typer.Typer(no_args_is_help=True, help="Make, import, export, grow and list disks.")


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
        from appliance.library import disks
        from appliance.settings import config_file

        path = config_file.find(config)
        made = disks.create(path, name, size, block_size=block_size, removable=removable, read_only=read_only)
        show(made, as_json, lambda disk: typer.echo(f"{disk['name']}: {disk['image']}, in {path}; restart to serve it"))


@app.command("import", epilog="Example: tapebay disk import backup old.qcow2")
def import_(
    name: Annotated[str, typer.Argument(help="A new device name: lower case, for example backup.")],
    file: Annotated[Path, typer.Argument(help="A raw, qcow2, VMDK, VHDX, ... image.", dir_okay=False)],
    block_size: Annotated[int, typer.Option(help="512 or 4096 bytes.")] = 512,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make a disk from an image of another format and add it to tapebay.toml. Needs qemu-img."""
    with reporting(as_json):
        from appliance.library import disks
        from appliance.settings import config_file

        path = config_file.find(config)
        made = disks.import_disk(path, name, file, block_size=block_size)
        show(made, as_json, lambda disk: typer.echo(f"{disk['name']}: {disk['image']}, in {path}; restart to serve it"))


@app.command(epilog="Example: tapebay disk export backup backup.qcow2")
def export(
    name: Annotated[str, typer.Argument(help="The disk.")],
    file: Annotated[Path, typer.Argument(help="The image to make.", dir_okay=False)],
    image_format: Annotated[
        str | None, typer.Option("--format", help="qcow2, vmdk, vhdx, vdi, vpc or raw; by default the file's suffix.")
    ] = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write a disk to an image of another format, while the daemon does not run. Needs qemu-img."""
    with reporting(as_json):
        from appliance.library import disks
        from appliance.settings import config_file

        settings = config_file.load(config_file.find(config))
        made = disks.export_disk(settings, name, file, image_format or file.suffix.removeprefix("."))
        show(made, as_json, lambda image: typer.echo(f"{image['name']}: written to {image['image']}"))


@app.command(epilog='Example: tapebay disk grow backup "20 GiB"')
def grow(
    name: Annotated[str, typer.Argument(help="The disk.")],
    size: Annotated[str, typer.Argument(help='The new size: "20 GiB" or a number of bytes.')],
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make a disk larger, in tapebay.toml and, when a daemon serves it, at once: initiators are told."""
    with reporting(as_json):
        from appliance.control import client as control
        from appliance.failures import Failure, OperatorError
        from appliance.library import disks
        from appliance.settings import config_file
        from appliance.settings.units import parse_size

        path = config_file.find(config)
        grown = disks.grow(path, name, size)
        socket_path = config_file.load(path).library.control_socket
        try:
            control.call(socket_path, "disk.grow", name=name, size_bytes=parse_size(size))
            grown["size_bytes"] = parse_size(size)
        except OperatorError as error:
            if error.failure is not Failure.NOT_RUNNING:
                raise
        show(grown, as_json, lambda disk: typer.echo(f"{disk['name']}: {_size(disk['size_bytes'])}"))


@app.command("list")
def list_(config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """List the disks of tapebay.toml and their images."""
    with reporting(as_json):
        from appliance.library import disks
        from appliance.settings import config_file

        show(disks.describe(config_file.load(config_file.find(config))), as_json, _list)


def _size(length_bytes: int | None) -> str:
    from appliance.settings.units import format_size

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
        empty='No disks; make one: tapebay disk create backup "10 GiB"',
    )
