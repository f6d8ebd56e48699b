"""Disks and tape drives of other iSCSI targets, which EXTENDED COPY can copy from and to."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import Field, Strict

from appliance.operations import content
from appliance.operations.verb import Nothing, OnFiles, OnLibrary, Parameters, Positional, Result, Scope, verb

if TYPE_CHECKING:
    from appliance.library.remotes import Remote, Remotes

DEFAULT_INITIATOR = "iqn.2026-11.io.tapebay:copy-manager"  # as sections.COPY_MANAGER, which is not imported here
Name = Annotated[str, Positional("NAME"), Field(description="The name that this library calls it by.")]


class RemoteUnitDetails(Result):
    """naa: the designator that a copy names it by, as hexadecimal digits."""

    name: str
    kind: str = Field(description='"disk" or "tape drive"; "" until it was reached once.')
    address: str
    naa: str
    target: str = Field(description="The target in whose sessions it can be copied from and to.")
    user: str | None


class AddRemote(Parameters):
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


class OneRemote(Parameters):
    name: Name


@verb("remote.add", Scope.ADMINISTER)
def add(context: OnFiles, parameters: AddRemote) -> RemoteUnitDetails:
    """Add a disk or tape drive of another iSCSI target, for EXTENDED COPY to copy from and to."""
    from appliance.failures import Failure, OperatorError
    from appliance.settings.sections import RemoteSettings

    settings, remotes = context.files.settings, _remotes(context)
    if parameters.name in settings.device_names() or parameters.name in [row.name for row in settings.remotes]:
        message = f"there is a device {parameters.name} already; choose another name"
        raise OperatorError(Failure.REFUSED, message)
    given = parameters.model_dump(exclude={"target", "secret_file"})
    target, secret = _target(context, parameters.target), _secret(parameters)
    made = content.section(RemoteSettings, **given, target=target, secret=secret)
    remotes.learn(made, remotes.ask(made))
    try:
        content.change(context, lambda now: {"remotes": [*now.remotes, made]})
    except BaseException:
        remotes.forget(made.name)
        raise
    return _shown(_remotes(context).named(made.name))


@verb("remote.list", Scope.READ, key=("name",))
def list_(context: OnFiles, parameters: Nothing) -> list[RemoteUnitDetails]:
    """List the disks and tape drives of other targets."""
    return [_shown(remote) for remote in _remotes(context)]


@verb("remote.show", Scope.READ)
def show(context: OnFiles, parameters: OneRemote) -> RemoteUnitDetails:
    """One disk or tape drive of another target: what it is, where, and whose sessions may copy it."""
    return _shown(_remotes(context).named(parameters.name))


@verb("remote.reach", Scope.ADMINISTER, changes="remote.show")
def reach(context: OnFiles, parameters: OneRemote) -> RemoteUnitDetails:
    """Ask a unit of another target what it is, and keep that: one that was not reached yet, or that was replaced."""
    remotes = _remotes(context)
    remotes.named(parameters.name)
    row = next(row for row in context.files.settings.remotes if row.name == parameters.name)
    remotes.learn(row, remotes.ask(row))
    remotes.show(context.files.settings)
    if isinstance(context, OnLibrary):
        context.library.server.views_changed()
    return _shown(remotes.named(parameters.name))


@verb("remote.remove", Scope.ADMINISTER, changes="remote.show")
def remove(context: OnFiles, parameters: OneRemote) -> RemoteUnitDetails:
    """Forget a disk or tape drive of another target. What it holds stays as it is."""
    remotes = _remotes(context)
    gone = _shown(remotes.named(parameters.name))
    content.change(context, lambda now: {"remotes": [row for row in now.remotes if row.name != gone.name]})
    remotes.forget(gone.name)
    return gone


def _remotes(context: OnFiles) -> Remotes:
    from appliance.library.remotes import Remotes

    if isinstance(context, OnLibrary):
        return context.library.remotes
    return Remotes(context.files.store, context.files.settings)


def _target(context: OnFiles, wanted: str | None) -> str:
    from appliance.failures import Failure, OperatorError

    names = [section.iqn for section in context.files.settings.targets]
    if wanted is None and len(names) > 1:
        raise OperatorError(Failure.USAGE, f"say whose sessions may copy it: --target {' or --target '.join(names)}")
    if wanted is not None and wanted.lower() not in names:
        raise OperatorError(Failure.NOT_FOUND, f"this library has no target {wanted}")
    return wanted or names[0]


def _secret(parameters: AddRemote) -> str | None:
    from appliance.failures import Failure, OperatorError

    if (parameters.user is None) != (parameters.secret_file is None):
        raise OperatorError(Failure.USAGE, "give both --user and --secret-file, or neither")
    if parameters.secret_file is None:
        return None
    try:
        lines = parameters.secret_file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise OperatorError(Failure.REFUSED, f"{parameters.secret_file} cannot be read: {error}") from None
    if not lines or not lines[0]:
        raise OperatorError(Failure.REFUSED, f"{parameters.secret_file} has no secret in its first line")
    return lines[0]


def _shown(remote: Remote) -> RemoteUnitDetails:
    user = remote.address.credentials.user if remote.address.credentials else None
    return RemoteUnitDetails(
        name=remote.name, kind=remote.kind, address=str(remote.address), naa=remote.naa, target=remote.target, user=user
    )
