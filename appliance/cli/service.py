"""tapebay init, serve, stop, check, models, demo, version."""

from pathlib import Path
from typing import Annotated, Any

import typer

from appliance import __version__
from appliance.cli.options import ConfigOption, JsonOption, reporting, show
from appliance.cli.progress import progress_bar
from appliance.cli.tables import table

PortalOption = Annotated[str, typer.Option(metavar="HOST:PORT", help="Where initiators connect.")]
Advertise = Annotated[
    str | None, typer.Option(metavar="HOST:PORT", help="What discovery answers instead (behind NAT, in a container).")
]


def register(app: typer.Typer) -> None:
    """Adds them to `tapebay`."""
    app.command(epilog="Example: tapebay init /srv/library --portal 192.0.2.10:3260 --drives 4 --slots 40")(init)
    app.command(epilog="Example: tapebay serve --config /srv/library")(serve)
    for command in (stop, check, models, demo, version):
        app.command()(command)


def init(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Made if it is not there.")],
    portal: PortalOption = "0.0.0.0:3260",
    advertise: Advertise = None,
    name: Annotated[
        str | None, typer.Option(help="The library's name, part of its IQN \\[default: DIR's name].")
    ] = None,
    drives: Annotated[int, typer.Option(help="How many tape drives.")] = 2,
    slots: Annotated[int, typer.Option(help="How many storage slots.")] = 20,
    import_export: Annotated[int, typer.Option(help="How many import/export slots.")] = 2,
    model: Annotated[str | None, typer.Option(help="The library's model; `tapebay models` lists them.")] = None,
    drive_model: Annotated[str | None, typer.Option(help="The drives' model; `tapebay models` lists them.")] = None,
    demo: Annotated[bool, typer.Option("--demo", help="With four cartridges and a 256 MiB disk of data.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Make a library: DIR/tapebay.toml with every setting explained, and what belongs to it.

    Where DIR/tapebay.toml is there already and its library is not, the library that it describes is made.
    """
    with reporting(as_json):
        from appliance.operations import setup
        from appliance.settings import config_file

        plan = setup.plan(
            directory,
            portal=portal,
            advertise=advertise,
            name=name,
            drives=drives,
            slots=slots,
            import_export=import_export,
            changer_model=model,
            drive_model=drive_model,
            demo=demo,
        )
        with progress_bar("Making the demonstration's disk", demo and not as_json) as progress:
            path = setup.create(directory, plan, progress)
        settings = config_file.load(path)
        made = {"config": str(path), "target": settings.targets[0].iqn, "portal": str(settings.portals[0].listen)}
        show(made, as_json, lambda _: typer.echo(f"{path} is ready; now: tapebay serve --config {directory}"))


def serve(
    config: ConfigOption = None,
    init: Annotated[bool, typer.Option("--init", help="Make the library first where there is none.")] = False,
    apply: Annotated[
        bool, typer.Option("--apply", help="First carry out what changed in tapebay.toml, as `tapebay apply` does.")
    ] = False,
) -> None:
    """Serve the library until SIGTERM or SIGINT. The last start-up line of the log says that it is ready, and where."""
    with reporting():
        from appliance import daemon
        from appliance.operations import setup
        from appliance.settings import config_file

        if init:
            setup.create_default(config_file.wanted(config))
        daemon.serve(config_file.find(config), apply=apply)


def stop(config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Stop the running daemon: sessions are logged out, everything is flushed; cartridges stay where they are."""
    with reporting(as_json):
        from appliance import daemon
        from appliance.settings import config_file

        daemon.stop(config_file.load(config_file.find(config)))
        show({"stopped": True}, as_json, lambda _: typer.echo("stopped"))


def check(config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Check tapebay.toml and all that serving it needs: devices, ports, images, permissions. Every error is reported.

    Warnings are about what is valid and can never work, or may not be meant.
    """
    with reporting(as_json):
        from appliance.library import check as library_check
        from appliance.settings import config_file
        from appliance.settings.advice import advice_on

        path = config_file.find(config)
        settings = config_file.with_advertised_address(config_file.load(path))
        problems = library_check.problems_of(settings)
        if problems:
            raise config_file.ConfigError(path, problems)
        warnings = advice_on(settings)
        lines = [*(f"warning: {line}" for line in warnings), f"{path} is valid"]
        report = {"config": str(path), "valid": True, "warnings": warnings}
        show(report, as_json, lambda _: typer.echo("\n".join(lines)))


def models(as_json: JsonOption = False) -> None:
    """List the libraries and drives that can be presented."""
    from scsi_targets.devices.changer.models import MODELS
    from scsi_targets.devices.tape.models import DRIVE_MODELS

    known = {"changer": sorted(MODELS), "drive": sorted(DRIVE_MODELS)}
    show(known, as_json, lambda _: table(["kind", "model"], [(kind, name) for kind in known for name in known[kind]]))


def demo(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Where the library is, or will be made.")] = Path(
        "tapebay-demo"
    ),
    portal: PortalOption = "127.0.0.1:3260",
    as_json: JsonOption = False,
) -> None:
    """Back the files of a disk up to a tape, read it through tar, check it, and leave the library running.

    Makes the library in DIR and starts its daemon as needed; may be run again. Where the portal's port is taken,
    another is chosen and said.
    """
    with reporting(as_json):
        from appliance.demo import demo as demonstration

        with progress_bar("Backing up and checking", not as_json) as progress:
            report = demonstration.run(directory, portal, progress)
        show(report, as_json, _demonstrated)


def version(as_json: JsonOption = False) -> None:
    """Print the version."""
    show({"version": __version__}, as_json, lambda _: typer.echo(f"tapebay {__version__}"))


def _demonstrated(report: dict[str, Any]) -> None:
    typer.echo("\n".join([*report["notes"], report["title"]]))
    table(
        ["step", ">bytes", ">seconds", ">MB/s"],
        [
            (step["name"], f"{step['bytes']:,}", f"{step['seconds']:.2f}", f"{step['megabytes_per_second']:.0f}")
            for step in report["steps"]
        ],
    )
    typer.echo("\n".join(report["text"]))
