"""What a valid configuration says that can never work, or that its operator may not have meant."""

import ipaddress
from collections.abc import Iterator
from fnmatch import fnmatchcase

from appliance.settings.sections import ChapAccount, TargetSettings
from appliance.settings.settings import Settings


def advice_on(settings: Settings) -> list[str]:
    """A line for each such thing; `tapebay check` prints them and the daemon logs them at its start."""
    return [
        *_open_to_the_network(settings),
        *_accounts(settings),
        *_locked_out(settings),
        *_zones(settings),
        *_zones_of_what_is_not_there(settings),
        *_gate(settings),
        *_partitions(settings),
        *_out_of_sight(settings),
    ]


def _open_to_the_network(settings: Settings) -> Iterator[str]:
    by_name = [zone.name for zone in settings.zones if zone.initiators]
    for portal in settings.portals:
        if ipaddress.ip_address(portal.listen.host.partition("%")[0]).is_loopback:
            continue
        if by_name:
            yield (
                f"portal {portal.listen} is open to the network, and whoever reaches it may be in zone "
                f"{' or '.join(by_name)}, as an initiator's name can be chosen freely; give such zones `accounts`"
            )
        elif not settings.chap.accounts and not settings.zones:
            yield (
                f"portal {portal.listen} is open to the network without login: whoever reaches it may read and write "
                "everything; add [[chap.accounts]], as an initiator's name can be chosen freely"
            )
        elif not settings.zones:
            yield (
                f"portal {portal.listen} is open to the network and there are no zones: every account sees every "
                "device; say who sees what: tapebay zone create"
            )


def _zones(settings: Settings) -> Iterator[str]:
    for zone in settings.zones:
        if not zone.initiators and not zone.accounts:
            yield f"zone {zone.name} names no initiators and no accounts: nobody is in it"
        if not zone.device_names():
            yield f"zone {zone.name} has no devices: whoever is in no other zone cannot log in"
        for name in zone.initiators:
            account = next((one for one in settings.chap.accounts if _covers(one.initiator, name)), None)
            if account is not None:
                yield (
                    f"zone {zone.name}: initiator {name} is asked for a CHAP account ({account.user}), and then is "
                    "that account and no mere name; name the account in the zone's `accounts`"
                )


def _zones_of_what_is_not_there(settings: Settings) -> Iterator[str]:
    """The verbs refuse these; here the portal or unit may come later."""
    remotes, groups = ({row.name for row in settings.remotes}, {portal.group for portal in settings.portals})
    for zone in settings.zones:
        for name in zone.remotes:
            if name not in remotes:
                yield f"zone {zone.name}: there is no remote unit {name!r} that its copies could reach"
        for group in zone.portal_groups:
            if group not in groups:
                yield f"zone {zone.name}: there is no portal of group {group}, so nobody comes in by one"


def _gate(settings: Settings) -> Iterator[str]:
    drives = {drive.name for drive in settings.drives}
    for group, names in (settings.gate.groups if settings.gate is not None else {}).items():
        for name in names:
            if name not in drives:
                yield f"[gate.groups] {group}: there is no drive {name!r}, and no request will have it"


def _accounts(settings: Settings) -> Iterator[str]:
    accounts = settings.chap.accounts
    for number, account in enumerate(accounts, start=1):
        earlier = next((n for n, one in enumerate(accounts[: number - 1], start=1) if _hides(one, account)), None)
        if earlier:
            yield (
                f"chap.accounts[{number}] (user {account.user!r}) never counts: chap.accounts[{earlier}] has the same "
                "user and matches the same initiators and targets first; put the narrower one first, or remove one"
            )
        if not any(_matches(target.iqn, account.target) for target in settings.targets):
            yield f"chap.accounts[{number}] (user {account.user!r}) is of no use: no target matches {account.target!r}"


def _hides(earlier: ChapAccount, later: ChapAccount) -> bool:
    """Of accounts with the same user, the first that matches counts."""
    same_user = earlier.user == later.user
    return same_user and _covers(earlier.initiator, later.initiator) and _covers(earlier.target, later.target)


def _locked_out(settings: Settings) -> Iterator[str]:
    for target in settings.targets:
        if not target.initiators:
            yield f"target {target.iqn} has no initiators: nobody sees it"
        accounts = [account for account in settings.chap.accounts if _matches(target.iqn, account.target)]
        if not settings.chap.accounts:
            continue
        for pattern in target.initiators:
            if not any(_overlap(pattern, account.initiator) for account in accounts):
                yield (
                    f"target {target.iqn}: no initiator {pattern!r} can log in, as none of [[chap.accounts]] is for "
                    "it; with accounts, only who has one may"
                )


def _out_of_sight(settings: Settings) -> Iterator[str]:
    seen = {name for target in settings.targets for name in _luns(settings, target)}
    zoned = {name for zone in settings.zones for name in zone.device_names()}
    for name in settings.device_names():
        if name in settings.drives_of_nobody():
            if settings.gate is None:
                yield f"{name} is in no partition: only operators use it"
        elif name not in seen:
            yield f"{name} is in no target's luns: no initiator sees it"
        elif settings.zones and name not in zoned:
            yield f"{name} is in no zone: no initiator sees it"


def _partitions(settings: Settings) -> Iterator[str]:
    for partition in settings.partitions:
        if not partition.drives:
            yield f"partition {partition.name} has no drives: its cartridges can only be moved about"


def _luns(settings: Settings, target: TargetSettings) -> list[str]:
    return list(settings.lun_map(target).values())


def _matches(name: str, pattern: str) -> bool:
    return fnmatchcase(name, pattern.lower())


def _covers(wide: str, narrow: str) -> bool:
    """Whether every name that `narrow` matches is matched by `wide`: tried with the least and with more than any '?'
    of `wide` could stand for."""
    return all(_matches(narrow.lower().replace("*", filling), wide) for filling in ("", "\0\1\2"))


def _overlap(one: str, other: str) -> bool:
    """Whether some name matches both patterns."""
    return (
        _matches(one.lower().replace("*", ""), other)
        or _matches(other.lower().replace("*", ""), one)
        or ("*" in one and "*" in other and _beginnings_agree(one, other))
    )


def _beginnings_agree(one: str, other: str) -> bool:
    first, second = (pattern.lower().partition("*")[0] for pattern in (one, other))
    length = min(len(first), len(second))
    return fnmatchcase(first[:length], second[:length]) or fnmatchcase(second[:length], first[:length])
