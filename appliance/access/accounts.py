"""The CHAP accounts of a library, made ready once to be asked at each login."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import chain

from appliance.access.names import Names, matches
from appliance.settings.sections import ChapAccount


class Accounts:
    """Never changes, so it needs no lock. A login looks only at accounts of its initiator or of the user that it names,
    whatever their number."""

    def __init__(self, accounts: Sequence[ChapAccount]) -> None:
        self._accounts = accounts
        numbers: defaultdict[str, list[int]] = defaultdict(list)
        for number, account in enumerate(accounts):
            numbers[account.initiator.lower()].append(number)
        self._initiators = Names(numbers)
        self._of_user: defaultdict[str, list[ChapAccount]] = defaultdict(list)
        for account in accounts:
            self._of_user[account.user].append(account)

    @classmethod
    def of(cls, accounts: Sequence[ChapAccount], before: Accounts | None) -> Accounts:
        """Of these accounts: the same as before, where nothing has changed."""
        return before if before is not None and before._accounts is accounts else cls(accounts)

    def __bool__(self) -> bool:
        return bool(self._accounts)

    def concerning(self, initiator_name: str, target_name: str | None) -> Iterator[ChapAccount]:
        """Those that an initiator may prove at a target (None: at any), in their order."""
        for number in sorted(chain.from_iterable(self._initiators.matching(initiator_name))):
            if _is_for(self._accounts[number], target_name):
                yield self._accounts[number]

    def of_user(self, user: str, initiator_name: str, target_name: str | None) -> ChapAccount | None:
        """The first account of that user for this initiator and target."""
        for account in self._of_user.get(user, ()):
            if matches(account.initiator.lower(), initiator_name) and _is_for(account, target_name):
                return account
        return None


def _is_for(account: ChapAccount, target_name: str | None) -> bool:
    return target_name is None or matches(account.target.lower(), target_name)
