"""How `status` and `demo` look to people, and a progress bar for what takes long."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import typer

from appliance.cli.options import Progress as ProgressCall
from appliance.cli.options import table


@contextmanager
def progress_bar(text: str, wanted: bool, *, of_bytes: bool = True) -> Iterator[ProgressCall]:
    """Yields progress(done, total), which draws a bar on standard error when that is a terminal."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TransferSpeedColumn,
    )

    console = Console(stderr=True)
    if not (wanted and console.is_terminal):
        yield lambda _done, _total: None
        return
    amount = (DownloadColumn(), TransferSpeedColumn()) if of_bytes else (MofNCompleteColumn(),)
    columns = (TextColumn("{task.description}"), BarColumn(), *amount, TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(text, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total or None)


def status(report: dict[str, Any]) -> None:
    """The answer of the verb `status`."""
    typer.echo(f"{report['library']}: Tapebay {report['version']}, process {report['pid']}, {report['config']}")
    for portal in report["portals"]:
        advertised = f", advertised as {portal['advertised']}" if portal["advertised"] else ""
        typer.echo(f"portal {portal['listen']}{advertised}, portal group {portal['group']}")
    for target in report["targets"]:
        typer.echo(f"target {target['iqn']}")
        table(["lun", "device", "type", "model", "serial", "holds"], _devices(report, target["luns"]))
    for device in report["devices"]:
        if device["problem"]:
            typer.secho(f"{device['name']} is not served: {device['problem']}", fg="red")
    table(
        ["place", ">address", "cartridge", "from"],
        [(row["place"], row["address"], row["barcode"], row["source"]) for row in report["elements"] if row["barcode"]],
        title="Cartridges in the library",
        empty="No cartridges in the library.",
    )
    free = sum(row["barcode"] is None and row["place"].startswith("slot:") for row in report["elements"])
    shelf = f"; on the shelf: {', '.join(report['shelf'])}" if report["shelf"] else ""
    typer.echo(f"{free} free slots{shelf}")
    for storage in report["storage"]:
        typer.echo(_storage(storage))
    table(
        ["initiator", "target", "address", ">commands"],
        [(row["initiator"], row["target"], row["address"], row["commands"]) for row in report["sessions"]],
        title="Sessions",
        empty="No sessions.",
    )


def _storage(storage: dict[str, Any]) -> str:
    from appliance.settings.units import format_size

    full = ": FULL, writes fail or are about to" if storage["full"] else ""
    free, total = format_size(storage["free_bytes"]), format_size(storage["total_bytes"])
    return f"storage of {', '.join(storage['holds'])}: {free} free of {total} ({storage['path']}){full}"


def _devices(report: dict[str, Any], luns: dict[str, str]) -> list[tuple[object, ...]]:
    devices = {device["name"]: device for device in report["devices"]}
    return [
        (lun, name, devices[name]["type"], devices[name]["model"], devices[name]["serial"], devices[name]["holds"])
        for lun, name in luns.items()
    ]


def demo(report: dict[str, Any]) -> None:
    """The report of the demonstration."""
    typer.echo("\n".join([*report["notes"], report["title"]]))
    table(
        ["step", ">bytes", ">seconds", ">MB/s"],
        [
            (step["name"], f"{step['bytes']:,}", f"{step['seconds']:.2f}", f"{step['megabytes_per_second']:.0f}")
            for step in report["steps"]
        ],
    )
    typer.echo("\n".join(report["text"]))
