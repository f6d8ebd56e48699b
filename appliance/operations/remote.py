"""Disks and tape drives of other iSCSI targets, which EXTENDED COPY can copy from and to."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import Field, Strict

from appliance.operations.verb import Nothing, OnFiles, OnLibrary, Parameters, Positional, Result, Scope, verb

if TYPE_CHECKING:
    from appliance.library.remotes import Remote, Remotes
    from datamover.initiator import Credentials

DEFAULT_INITIATOR = "iqn.2026-11.io.tapebay:copy-manager"
Name = Annotated[str, Positional("NAME"), Field(description="The name that this library calls it by.")]


class RemoteUnit(Result):
    """naa: the designator that a copy names it by, as hexadecimal digits."""

    name: str
    kind: str = Field(description='"disk" or "tape drive".')
    address: str
    naa: str
    target: str = Field(description="The target in whose sessions it can be copied from and to.")
    user: str | None


class Add(Parameters):
    name: Name
    address: Annotated[str, Positional("ADDRESS"), Field(description="iscsi://HOST[:PORT]/IQN/LUN")]
    target: Annotated[
        str | None, Field(description="This library's target whose sessions may copy it; its only one by default.")
    ] = None
    user: Annotated[str | None, Field(description="The CHAP user that the other target asks for.")] = None
    secret_file: Annotated[
        Path | None, Strict(False), Field(description="A file with that user's secret in its first line.")
    ] = None
    initiator: Annotated[str, Field(description="Our initiator name there.")] = DEFAULT_INITIATOR


class Remove(Parameters):
    name: Name


@verb("remote.add", Scope.ADMINISTER)
def add(context: OnFiles, parameters: Add) -> RemoteUnit:
    """Add a disk or tape drive of another iSCSI target, for EXTENDED COPY to copy from and to."""
    from appliance.library.remotes import parse_remote_address

    address = parse_remote_address(parameters.address, parameters.initiator, _credentials(parameters))
    made = _remotes(context).add(context.files.settings, parameters.name, address, _target(context, parameters.target))
    _tell(context)
    return _shown(made)


@verb("remote.list", Scope.READ, key=("name",))
def list_(context: OnFiles, parameters: Nothing) -> list[RemoteUnit]:
    """List the disks and tape drives of other targets."""
    return [_shown(remote) for remote in _remotes(context)]


@verb("remote.remove", Scope.ADMINISTER)
def remove(context: OnFiles, parameters: Remove) -> RemoteUnit:
    """Forget a disk or tape drive of another target. What it holds stays as it is."""
    gone = _remotes(context).remove(parameters.name)
    _tell(context)
    return _shown(gone)


def _remotes(context: OnFiles) -> Remotes:
    from appliance.library.remotes import Remotes

    return context.library.remotes if isinstance(context, OnLibrary) else Remotes(context.files.store)


def _tell(context: OnFiles) -> None:
    if isinstance(context, OnLibrary):
        context.library.server.views_changed()


def _target(context: OnFiles, wanted: str | None) -> str:
    from appliance.failures import Failure, OperatorError

    names = [section.iqn for section in context.files.settings.targets]
    if wanted is None and len(names) > 1:
        raise OperatorError(Failure.USAGE, f"say whose sessions may copy it: --target {' or --target '.join(names)}")
    return wanted or names[0]


def _credentials(parameters: Add) -> Credentials | None:
    from appliance.failures import Failure, OperatorError
    from datamover.initiator import Credentials

    if (parameters.user is None) != (parameters.secret_file is None):
        raise OperatorError(Failure.USAGE, "give both --user and --secret-file, or neither")
    if parameters.user is None or parameters.secret_file is None:
        return None
    try:
        lines = parameters.secret_file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise OperatorError(Failure.REFUSED, f"{parameters.secret_file} cannot be read: {error}") from None
    if not lines or not lines[0]:
        raise OperatorError(Failure.REFUSED, f"{parameters.secret_file} has no secret in its first line")
    return Credentials(parameters.user, lines[0])


def _shown(remote: Remote) -> RemoteUnit:
    address = remote.unit.address
    user = address.credentials.user if address.credentials else None
    return RemoteUnit(
        name=remote.name, kind=remote.kind, address=str(address), naa=remote.naa, target=remote.target, user=user
    )
