"""The TargetDirectory of iSCSI, answered from what the library contains: who sees what, and what it has to prove."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from typing import Protocol

from appliance.access.accounts import Accounts
from appliance.access.members import ZoneMembers
from appliance.access.names import Names
from appliance.access.zones import Seen, Zoning, view_for
from appliance.settings.sections import PortalSettings
from appliance.settings.settings import Settings
from scsi_targets.devices.unit.logical_unit import LogicalUnit
from scsi_targets.devices.unit.principal import Principal
from scsi_targets.devices.unit.view import View
from scsi_targets.iscsi.directory import ChapCredentials, Forbidden, NotFound, Portal, Who


def portal_of(settings: PortalSettings) -> Portal:
    """iSCSI's portal for a [[portals]] section."""
    advertised = str(settings.advertise) if settings.advertise else None
    return Portal(settings.listen.host, settings.listen.port, settings.group, advertised)


class RemoteUnits(Protocol):
    """The logical units of other targets that sessions of ours may copy."""

    def of(self, target_name: str, names: Collection[str] | None, /) -> tuple[object, ...]:
        """Of a target; names: of these only."""


class Directory:
    """The targets of one library and who may use them. Reads only what never changes, so it needs no lock: other
    settings or units are another Directory.

    A session is somebody first (its CHAP account, else its initiator name); what that principal sees is decided by
    view_for() alone.
    """

    def __init__(
        self,
        settings: Settings,
        units: Mapping[str, LogicalUnit],
        remotes: RemoteUnits | None = None,
        before: "Directory | None" = None,
    ) -> None:
        """before: another that it takes over from what is the same."""
        self._remotes = remotes
        self._units = units
        self._admitted = {
            section.iqn: Names(dict.fromkeys(map(str.lower, section.initiators))) for section in settings.targets
        }
        self._accounts: Accounts = Accounts.of(settings.chap.accounts, None if before is None else before._accounts)
        self._prove_for_discovery = settings.chap.discovery
        self._zones = settings.zones
        self._copy_rate = settings.limits.copy_rate or 0
        self._members: ZoneMembers = ZoneMembers(settings.zones, None if before is None else before._members)
        zonings: Mapping[str, Zoning] = {} if before is None else before._access
        self._access: Mapping[str, Zoning] = {
            section.iqn: Zoning.of(settings.zones, settings.lun_map(section), self._members, zonings.get(section.iqn))
            for section in settings.targets
        }
        self.all_portals = [portal_of(portal) for portal in settings.portals]

    def target_names(self, who: Who) -> list[str]:
        """The targets that this session may log in to, by whatever portal, as what it proved. Where discovery is open
        to anybody, those that its initiator may log in to with some account."""
        return [
            iqn
            for iqn, admitted in self._admitted.items()
            if who.initiator_name in admitted and self._portals_for(who, iqn)
        ]

    def portals(self, target_name: str, who: Who | None = None) -> list[Portal]:
        self._admitted_to(target_name)
        return self.all_portals if who is None else self._portals_for(who, target_name)

    def _portals_for(self, who: Who, target_name: str) -> list[Portal]:
        """Those by which the target has anything for whoever may stand behind this initiator."""
        principals = list(self._principals(who, target_name))
        return [
            portal
            for portal in self.all_portals
            if any(self._shows(replace(who, target_name=target_name, portal=portal), each) for each in principals)
        ]

    def authentication(self, who: Who) -> bool:
        if not self._accounts or (who.target_name is None and not self._prove_for_discovery):
            return False
        if any(self._accounts.concerning(who.initiator_name, who.target_name)):
            return True
        if self._is_known_by_name(who.initiator_name):
            return False
        raise Forbidden(f"no CHAP account for {who.initiator_name} with {who.target_name or 'discovery'}")

    def credentials(self, who: Who, username: str) -> ChapCredentials | None:
        account = self._accounts.of_user(username, who.initiator_name, who.target_name)
        if account is None:
            return None
        mutual = account.mutual_secret.get_secret_value() if account.mutual_secret else None
        return ChapCredentials(account.user, account.secret.get_secret_value(), account.mutual_user, mutual)

    def open(self, who: Who) -> View:
        principal, seen = self.decide(who)
        target_name = who.target_name
        assert target_name is not None
        return View(
            principal,
            target_name,
            {lun: self._units[name] for lun, name in seen.luns.items() if name in self._units},  # one may be on its way
            tuple(sorted({portal.portal_group_tag for portal in self.all_portals})),
            remote_units=self._remotes.of(target_name, seen.remotes) if self._remotes is not None else (),
            copy_bytes_per_second=self._copy_rate,
        )

    def decide(self, who: Who) -> tuple[Principal, Seen]:
        """Who a session is that wants to log in to a target, and what it sees there. Raises NotFound, Forbidden."""
        target_name = who.target_name
        assert target_name is not None  # a discovery session sees nothing
        if who.initiator_name not in self._admitted_to(target_name):
            raise Forbidden(f"{who.initiator_name} is not among the initiators of {target_name}")
        principal = self._proved(who)
        seen = view_for(self._access[target_name], principal, who.portal, who.peer)
        if self._zones and not seen.admitting:
            raise Forbidden("; ".join(seen.reasons))
        if self._zones and not seen.luns:
            raise Forbidden(f"no device of {target_name} is in {' or '.join(f'zone {name}' for name in seen.zones)}")
        return principal, seen

    def _proved(self, who: Who) -> Principal:
        """Who a session is. Raises Forbidden when it has not proved what it must."""
        if who.account is None:
            must_prove = self.authentication(who)
        else:
            must_prove = self._accounts.of_user(who.account, who.initiator_name, who.target_name) is None
        if must_prove:
            raise Forbidden(f"{who.initiator_name} has not proved an account for {who.target_name}")
        return Principal.initiator(who.initiator_name) if who.account is None else Principal.account(who.account)

    def _is_known_by_name(self, initiator_name: str) -> bool:
        """Whether a zone names an initiator that has no account."""
        return bool(self._members.groups_of(Principal.initiator(initiator_name)))

    def _shows(self, who: Who, principal: Principal) -> bool:
        """Whether a target has anything for a principal."""
        assert who.target_name is not None
        return not self._zones or bool(view_for(self._access[who.target_name], principal, who.portal, who.peer).luns)

    def accounts_for(self, initiator_name: str, target_name: str) -> list[str]:
        """The users that an initiator may prove to be at a target."""
        accounts = self._accounts.concerning(initiator_name, target_name)
        return list(dict.fromkeys(account.user for account in accounts))

    def _principals(self, who: Who, target_name: str) -> Iterator[Principal]:
        """Who CHAP would let this session be at a target: with the secret that it proved, or with any if it was asked
        for none."""
        accounts = list(self._accounts.concerning(who.initiator_name, target_name))
        if not accounts and (not self._accounts or self._is_known_by_name(who.initiator_name)):
            yield Principal.initiator(who.initiator_name)
        elif who.account is not None:
            proved = self._accounts.of_user(who.account, who.initiator_name, who.target_name)
            accounts = [a for a in accounts if proved and (a.user, a.secret) == (proved.user, proved.secret)]
        yield from (Principal.account(account.user) for account in accounts)

    def _admitted_to(self, target_name: str) -> Names[None]:
        """The initiators that a target admits. Raises NotFound."""
        try:
            return self._admitted[target_name]
        except KeyError:
            raise NotFound(f"there is no target {target_name}") from None


class CurrentDirectory:
    """The directory that holds now: sessions ask it, and what it answers from is replaced whole."""

    def __init__(self, directory: Directory) -> None:
        self._current = directory

    def replace(self, settings: Settings, units: Mapping[str, LogicalUnit], remotes: RemoteUnits | None = None) -> None:
        """By one of these, from the next question on. Portals stay: they are bound at the start."""
        self._current = Directory(settings, units, remotes, before=self._current)

    @property
    def all_portals(self) -> list[Portal]:
        return self._current.all_portals

    def target_names(self, who: Who) -> list[str]:
        return self._current.target_names(who)

    def portals(self, target_name: str, who: Who | None = None) -> list[Portal]:
        return self._current.portals(target_name, who)

    def authentication(self, who: Who) -> bool:
        return self._current.authentication(who)

    def credentials(self, who: Who, username: str) -> ChapCredentials | None:
        return self._current.credentials(who, username)

    def open(self, who: Who) -> View:
        return self._current.open(who)
