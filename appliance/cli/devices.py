"""tapebay drive, changer, target, account: what the library is made of, and who may use it."""

from typing import Any

import typer

from appliance.cli.commands import VerbCommand, add
from appliance.cli.options import table

drive = typer.Typer(no_args_is_help=True, help="Add, remove and list tape drives.")
changer = typer.Typer(no_args_is_help=True, help="Give the library more or fewer slots.")
target = typer.Typer(no_args_is_help=True, help="Add, change, remove and list targets.")
account = typer.Typer(no_args_is_help=True, help="Add, change, remove and list CHAP accounts.")


def _restart(row: dict[str, Any]) -> str:
    return ", from the daemon's next start" if row.get("restart") else ""


def _drives(rows: list[dict[str, Any]], _given: dict[str, Any]) -> None:
    columns = ["name", "place", "model", "cartridge"]
    table(columns, [[row[column] for column in columns] for row in rows], empty="No drives.")


def _drive_made(row: dict[str, Any], _given: dict[str, Any]) -> None:
    typer.echo(f"{row['name']}: {row['model']}, {row['place']}{_restart(row)}")


def _drive_gone(row: dict[str, Any], _given: dict[str, Any]) -> None:
    typer.echo(f"{row['name']} is removed{_restart(row)}")


def _changer(row: dict[str, Any], _given: dict[str, Any]) -> None:
    typer.echo(f"{row['slots']} slots, {row['import_export']} import/export slots{_restart(row)}")


def _targets(rows: list[dict[str, Any]], _given: dict[str, Any]) -> None:
    table(
        ["target", "initiators", "luns"],
        [
            (row["iqn"], ", ".join(row["initiators"]), ", ".join(f"{lun} {name}" for lun, name in row["luns"].items()))
            for row in rows
        ],
    )


def _one_target(row: dict[str, Any], given: dict[str, Any]) -> None:
    _targets([row], given)


def _accounts(rows: list[dict[str, Any]], _given: dict[str, Any]) -> None:
    table(
        ["user", "initiator", "target", "mutual", "zones"],
        [
            (row["user"], row["initiator"], row["target"], "yes" if row["mutual"] else "no", ", ".join(row["zones"]))
            for row in rows
        ],
        empty="No accounts: nobody is asked to log in.",
    )


COMMANDS = [
    (drive, VerbCommand("drive.list", _drives)),
    (drive, VerbCommand("drive.create", _drive_made, example="tapebay drive create drive2")),
    (
        drive,
        VerbCommand(
            "drive.remove", _drive_gone, question=lambda given: f"Remove {given['name']}, also from initiators?"
        ),
    ),
    (changer, VerbCommand("changer.resize", _changer, example="tapebay changer resize --slots 40")),
    (target, VerbCommand("target.list", _targets)),
    (target, VerbCommand("target.create", _one_target, example="tapebay target create iqn.2026-11.io.tapebay:second")),
    (
        target,
        VerbCommand(
            "target.change", _one_target, example="tapebay target change IQN --initiators 'iqn.1993-08.org.debian:*'"
        ),
    ),
    (
        target,
        VerbCommand(
            "target.remove",
            lambda row, _given: typer.echo(f"{row['iqn']} is removed"),
            question=lambda given: f"Remove target {given['iqn']} and end its sessions?",
        ),
    ),
    (account, VerbCommand("account.list", _accounts)),
    (
        account,
        VerbCommand(
            "account.create",
            lambda row, given: _accounts([row], given),
            example="tapebay account create backup --secret-file backup.secret",
        ),
    ),
    (account, VerbCommand("account.show", lambda row, given: _accounts([row], given))),
    (
        account,
        VerbCommand(
            "account.change",
            lambda row, given: _accounts([row], given),
            example="tapebay account change backup --secret-command 'pass show backup'",
        ),
    ),
    (
        account,
        VerbCommand(
            "account.remove",
            lambda row, _given: typer.echo(f"the account of {row['user']} is removed"),
            question=lambda given: f"Remove the account of {given['user']} and end its sessions?",
        ),
    ),
]


def register(app: typer.Typer) -> None:
    """Adds the groups to `tapebay`."""
    for group, command in COMMANDS:
        add(group, command)
    for name, group in (("drive", drive), ("changer", changer), ("target", target), ("account", account)):
        app.add_typer(group, name=name)
