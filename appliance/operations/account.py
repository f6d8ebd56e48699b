"""CHAP accounts: who may log in. Secrets go in and never come out."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from appliance.failures import Failure, OperatorError
from appliance.operations import content
from appliance.operations.verb import Nothing, OnFiles, Parameters, Positional, Result, Scope, Secret, verb

User = Annotated[str, Positional("USER"), Field(description="The name that the initiator gives.")]
Initiator = Annotated[str, Field(description="For which initiators: an iSCSI name, * and ? match any characters.")]
TargetPattern = Annotated[str, Field(description="For which targets: an iSCSI name, * and ? match any characters.")]


class Account(Result):
    """An account, without its secrets."""

    user: str
    initiator: str
    target: str
    mutual: bool = Field(description="The target proves itself as well.")


class Create(Parameters):
    user: User
    secret: Annotated[str, Secret(), Field(repr=False, description="12 to 16 characters fit every initiator.")]
    initiator: Initiator = "*"
    target: TargetPattern = "*"


class OneAccount(Parameters):
    user: User
    initiator: Initiator = "*"
    target: TargetPattern = "*"


@verb("account.list", Scope.READ)
def list_(context: OnFiles, parameters: Nothing) -> list[Account]:
    """List the accounts; of several with one user, the first that matches counts."""
    return [
        Account(user=one.user, initiator=one.initiator, target=one.target, mutual=one.mutual_secret is not None)
        for one in context.files.settings.chap.accounts
    ]


@verb("account.create", Scope.ADMINISTER)
def create(context: OnFiles, parameters: Create) -> Account:
    """Add an account. With the first one, initiators without an account can no longer log in; their sessions end."""
    from appliance.settings.settings import ChapAccount

    made = content.section(ChapAccount, **parameters.model_dump())
    for one in context.files.settings.chap.accounts:
        if (one.user, one.initiator, one.target) == (made.user, made.initiator, made.target):
            raise OperatorError(Failure.REFUSED, f"there is such an account of {made.user} already; remove it first")
    content.change(context, lambda now: {"accounts": [*now.accounts, made]})
    return Account(user=made.user, initiator=made.initiator, target=made.target, mutual=False)


@verb("account.remove", Scope.ADMINISTER)
def remove(context: OnFiles, parameters: OneAccount) -> Account:
    """Remove an account; sessions that were logged in with it end."""
    key = (parameters.user, parameters.initiator, parameters.target)
    accounts = context.files.settings.chap.accounts
    what = f"account of {parameters.user} for initiator {parameters.initiator} and target {parameters.target}"
    gone = content.found(accounts, lambda one: (one.user, one.initiator, one.target) == key, what)
    content.change(context, lambda now: {"accounts": [one for one in now.accounts if one != gone]})
    return Account(user=gone.user, initiator=gone.initiator, target=gone.target, mutual=bool(gone.mutual_secret))
