"""CHAP accounts: who may log in. Secrets go in and never come out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from appliance.failures import Failure, OperatorError
from appliance.operations import content
from appliance.operations.verb import Nothing, OnFiles, Parameters, Positional, Result, Scope, Secret, verb
from appliance.operations.versions import version_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from appliance.settings.content import Content
    from appliance.settings.sections import ChapAccount

User = Annotated[str, Positional("USER"), Field(description="The name that the initiator gives.")]
Initiator = Annotated[str, Field(description="For which initiators: an iSCSI name, * and ? match any characters.")]
TargetPattern = Annotated[str, Field(description="For which targets: an iSCSI name, * and ? match any characters.")]


NewSecret = Annotated[str, Secret(), Field(repr=False, description="12 to 16 characters fit every initiator.")]
MutualUser = Annotated[str | None, Field(description="The name that the target proves itself by, in return.")]
MutualSecret = Annotated[
    str | None, Secret(beside="mutual_user"), Field(repr=False, description="The secret that the target proves.")
]


class Account(Result):
    """An account, without its secrets."""

    user: str
    initiator: str
    target: str
    mutual: bool = Field(description="The target proves itself as well.")
    zones: list[str] = Field(description="The zones that name it.")
    version: str = Field(description="Another after each change, of a secret too, and each start of the daemon.")
    foreseen: content.Foreseen | None = Field(default=None, description="Of a dry run: nothing was changed.")


class AccountDescription(Parameters):
    """What an account is told."""

    user: User
    secret: NewSecret
    initiator: Initiator = "*"
    target: TargetPattern = "*"
    mutual_user: MutualUser = None
    mutual_secret: MutualSecret = None


class CreateAccount(AccountDescription):
    dry_run: content.DryRun = False


class OneAccount(Parameters):
    user: User
    initiator: Initiator = "*"
    target: TargetPattern = "*"


class DeleteAccount(OneAccount):
    dry_run: content.DryRun = False


@verb("account.list", Scope.READ, key=("user", "initiator", "target"))
def list_(context: OnFiles, parameters: Nothing) -> list[Account]:
    """List the accounts; of several with one user, the first that matches counts."""
    return [_account(context, one) for one in context.files.settings.chap.accounts]


@verb("account.show", Scope.READ)
def show(context: OnFiles, parameters: OneAccount) -> Account:
    """One account: for whom it is, and the zones that name it."""
    return _account(context, _among(context.files.settings.chap.accounts, parameters))


@verb("account.change", Scope.ADMINISTER, changes="account.show")
def change(context: OnFiles, parameters: AccountDescription) -> Account:
    """Give an account other secrets; without one for the target, that no longer proves itself. Sessions stay."""
    from appliance.settings.sections import ChapAccount

    made = content.section(ChapAccount, **parameters.model_dump())
    key = OneAccount(user=made.user, initiator=made.initiator, target=made.target)

    def changed(now: Content) -> dict[str, Any]:
        was = _among(now.accounts, key)
        return {"accounts": [made if one is was else one for one in now.accounts]}

    content.change(context, changed)
    return _account(context, made)


@verb("account.create", Scope.ADMINISTER)
def create(context: OnFiles, parameters: CreateAccount) -> Account:
    """Add an account. With the first one, initiators without an account can no longer log in; their sessions end."""
    from appliance.settings.sections import ChapAccount

    made = content.section(ChapAccount, **parameters.model_dump(exclude={"dry_run"}))
    for one in context.files.settings.chap.accounts:
        if (one.user, one.initiator, one.target) == (made.user, made.initiator, made.target):
            raise OperatorError(Failure.REFUSED, f"there is such an account of {made.user} already; delete it first")
    return _changed(
        context, _account(context, made), lambda now: {"accounts": [*now.accounts, made]}, parameters.dry_run
    )


@verb("account.delete", Scope.ADMINISTER, changes="account.show")
def delete(context: OnFiles, parameters: DeleteAccount) -> Account:
    """Delete an account; sessions that were logged in with it end."""
    gone = _among(context.files.settings.chap.accounts, parameters)

    def without_it(now: Content) -> dict[str, Any]:
        return {"accounts": [one for one in now.accounts if one != gone]}

    return _changed(context, _account(context, gone), without_it, parameters.dry_run)


def _changed(context: OnFiles, shown: Account, make: Callable[[Content], dict[str, Any]], dry_run: bool) -> Account:
    if dry_run:
        return shown.model_copy(update={"foreseen": content.foreseen(context, make)})
    content.change(context, make)
    return shown


def _among(accounts: list[ChapAccount], wanted: OneAccount) -> ChapAccount:
    key = (wanted.user, wanted.initiator, wanted.target)
    what = f"account of {wanted.user} for initiator {wanted.initiator} and target {wanted.target}"
    return content.found(accounts, lambda one: (one.user, one.initiator, one.target) == key, what)


def _account(context: OnFiles, one: ChapAccount) -> Account:
    return Account(
        user=one.user,
        initiator=one.initiator,
        target=one.target,
        mutual=one.mutual_secret is not None,
        zones=[zone.name for zone in context.files.settings.zones if one.user in zone.accounts],
        version=version_of(one.model_dump(mode="json", context={"secrets": True})),
    )
