"""The CHAP accounts of a library, made ready once to be asked at each login."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase

from appliance.access.names import Names
from appliance.settings.settings import ChapAccount


class Accounts:
    """Never changes, so it needs no lock. A login looks only at accounts of its initiator or of the user that it names,
    whatever their number."""

    def __init__(self, accounts: Sequence[ChapAccount]) -> None:
        self._accounts = accounts
        self._initiators = Names((account.initiator.lower(), number) for number, account in enumerate(accounts))
        self._of_user: defaultdict[str, list[ChapAccount]] = defaultdict(list)
        for account in accounts:
            self._of_user[account.user].append(account)

    def __bool__(self) -> bool:
        return bool(self._accounts)

    def concerning(self, initiator_name: str, target_name: str | None) -> Iterator[ChapAccount]:
        """Those that an initiator may prove at a target (None: at any), in their order."""
        for number in self._initiators.numbers(initiator_name):
            if _is_for(self._accounts[number], target_name):
                yield self._accounts[number]

    def of_user(self, user: str, initiator_name: str, target_name: str | None) -> ChapAccount | None:
        """The first account of that user for this initiator and target."""
        for account in self._of_user.get(user, ()):
            if fnmatchcase(initiator_name, account.initiator.lower()) and _is_for(account, target_name):
                return account
        return None


def _is_for(account: ChapAccount, target_name: str | None) -> bool:
    return target_name is None or fnmatchcase(target_name, account.target.lower())
