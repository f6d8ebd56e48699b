"""tapebay mount, renew, release: drives of a library as devices of this server. They are clients of its API."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from appliance.cli.ask import ask_by_name
from appliance.cli.options import ConfigOption, JsonOption, reporting, show
from appliance.failures import Failure, OperatorError
from appliance.own_program import own_command, own_environment

if TYPE_CHECKING:
    from appliance.agent.mount import Agent
    from appliance.agent.mounts import MountedGrant

Volumes = Annotated[list[str], typer.Option("--volume", metavar="BARCODE", help="A cartridge; a drive for each.")]
DevicesOption = Annotated[list[str], typer.Option("--device", metavar="NAME", help="A device that only grants show.")]
PoolOption = Annotated[str | None, typer.Option(help="The pool that the cartridges are of.")]
ScratchOption = Annotated[
    int | None, typer.Option(min=0, help="So many drives with blank cartridges \\[default: 1 if nothing is named].")
]
What = Annotated[str | None, typer.Argument(metavar="[REQUEST|DEVICE]", help="By default all of this server.")]
One = Annotated[str, typer.Argument(metavar="REQUEST|DEVICE", help="As `tapebay mount` printed it.")]


class _Api:
    """The API of TAPEBAY_API, or of the library of `config`."""

    def __init__(self, config: Path | None) -> None:
        from appliance.control.client import Client

        client = Client.from_environment()
        self._config = config
        self.host = client.host if client is not None else ""

    def call(self, verb: str, /, **parameters: Any) -> Any:
        """Raises OperatorError."""
        return ask_by_name(self._config, verb, **parameters)

    def events(self, subject: str, /, *, timeout_seconds: float) -> Iterator[object]:
        """Raises OperatorError."""
        from appliance.control.client import Client
        from appliance.settings import config_file

        client = Client.from_environment()
        if client is None:
            client = Client.at_socket(config_file.control_socket(config_file.find(self._config)))
        return client.events(subject, timeout_seconds=timeout_seconds)


def _agent(config: Path | None) -> Agent:
    from appliance.agent.mount import Agent

    return Agent(_Api(config))


def mount(
    volume: Volumes = [],  # noqa: B006 - typer's way
    scratch: ScratchOption = None,
    pool: PoolOption = None,
    device: DevicesOption = [],  # noqa: B006
    read_only: Annotated[bool, typer.Option("--read-only", help="Do not write.")] = False,
    group: Annotated[str, typer.Option(help="Which drives.")] = "all",
    by_gate: Annotated[bool, typer.Option("--by-gate", help="The gate chooses the drives at the login.")] = False,
    priority: Annotated[int, typer.Option(min=0, max=7, help="At the gate, the highest first.")] = 0,
    tag: Annotated[str, typer.Option(help="A policy tag.")] = "",
    lease_seconds: Annotated[float, typer.Option(min=10, max=86400, help="Freed when it is not renewed.")] = 180.0,
    wait: Annotated[float | None, typer.Option(metavar="SECONDS", help="Give up when it is not granted.")] = None,
    foreground: Annotated[
        bool, typer.Option("--foreground", help="Stay and renew, and release at SIGTERM or Ctrl-C: for a service.")
    ] = False,
    no_renew: Annotated[
        bool, typer.Option("--no-renew", help="Do not renew in the background: cron does, `tapebay renew`.")
    ] = False,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Get drives with volumes on this server, and print their devices, a line each, in the order of the library."""
    with reporting(as_json):
        agent = _agent(config)
        _let_signals_interrupt()
        mounted = agent.mount(
            wait_seconds=wait, told=_tell, volume=volume, scratch=scratch, pool=pool, device=device,
            read_only=read_only, group=group, by_gate=by_gate, priority=priority, tag=tag, lease_seconds=lease_seconds,
        )  # fmt: skip
        show(asdict(mounted), as_json, _print_devices)
        sys.stdout.flush()
        if foreground:
            try:
                with suppress(KeyboardInterrupt):
                    agent.keep_renewed(mounted, threading.Event().wait)
            finally:
                agent.release(mounted)
        elif not no_renew:
            _renew_in_background(mounted, config)


def renew(
    what: What = None,
    keep: Annotated[bool, typer.Option("--keep", help="Go on renewing until it is released.")] = False,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Say that what this server has mounted is still used: for cron, every minute, after `mount --no-renew`."""
    with reporting(as_json):
        agent = _agent(config)
        mounts = agent.all() if what is None else [agent.find(what)]
        if keep:
            _keep(agent, mounts)
            return
        failed = [error for each in mounts if (error := _renewed(agent, each)) is not None]
        if failed:
            raise OperatorError(failed[0].failure, "\n".join(str(error) for error in failed))
        show([each.request for each in mounts], as_json, lambda names: typer.echo(f"{len(names)} renewed"))


def release(what: One, config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Give drives back: log out, remove what `tapebay mount` made here; the cartridges go home."""
    with reporting(as_json):
        agent = _agent(config)
        mounted = agent.find(what)
        agent.release(mounted)
        show({"request": mounted.request}, as_json, lambda done: typer.echo(f"{done['request']}: released"))


def _tell(line: str) -> None:
    typer.echo(f"tapebay: {line}", err=True)


def _print_devices(mounted: dict[str, Any]) -> None:
    for path in mounted["devices"].values():
        typer.echo(path)


def _renewed(agent: Agent, mounted: MountedGrant) -> OperatorError | None:
    try:
        agent.renew(mounted)
    except OperatorError as error:
        return error
    return None


def _keep(agent: Agent, mounts: list[MountedGrant]) -> None:
    """Until it is released here, or over; then what is left of it here is removed."""
    if len(mounts) != 1:
        raise OperatorError(Failure.USAGE, "say which one to keep: tapebay renew --keep REQUEST")
    pause = threading.Event().wait
    (mounted,) = mounts

    def is_released(seconds: float) -> bool:
        pause(seconds)
        return mounted.request not in [each.request for each in agent.all()]

    try:
        agent.keep_renewed(mounted, is_released)
    except OperatorError as error:
        if error.failure is not Failure.NOT_PERMITTED:  # what is written now goes on until the lease ends
            agent.release(mounted)
        raise


def _renew_in_background(mounted: MountedGrant, config: Path | None) -> None:
    """By a process of its own, which ends with the grant. It inherits the environment: TAPEBAY_API and the token."""
    where = ["--config", str(config.absolute())] if config is not None else []
    subprocess.Popen(
        own_command("appliance", "renew", "--keep", mounted.request, *where),
        env=own_environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def _let_signals_interrupt() -> None:
    """So that what was begun is undone, whichever signal ends the command."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)


def register(app: typer.Typer) -> None:
    """Adds `tapebay mount`, `tapebay renew` and `tapebay release`."""
    app.command("mount", epilog="Example: tar -cf $(tapebay mount) /srv")(mount)
    app.command("renew", epilog="Example: tapebay renew")(renew)
    app.command("release", epilog="Example: tapebay release /dev/nst0")(release)
