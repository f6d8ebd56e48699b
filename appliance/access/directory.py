"""The TargetDirectory of iSCSI, answered from the configuration: who sees which target, and what it has to prove."""

from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Protocol

from appliance.settings.settings import ChapAccount, PortalSettings, Settings, TargetSettings
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

    def of(self, target_name: str, /) -> tuple[object, ...]: ...


class Directory:
    """The targets of one library and who may use them. Reads only what never changes, so it needs no lock: other
    settings or units are another Directory.

    Today an initiator either sees a target with all its devices or does not see it; zones (principals times devices)
    will give open() another view for another principal.
    """

    def __init__(
        self, settings: Settings, units: Mapping[str, LogicalUnit], remotes: RemoteUnits | None = None
    ) -> None:
        self._remotes = remotes
        self._settings = settings
        self._units = units
        self._sections = {section.iqn: section for section in settings.targets}
        self._chap = settings.chap
        self.all_portals = [portal_of(portal) for portal in settings.portals]

    def target_names(self, who: Who) -> list[str]:
        """The targets that this session may log in to as what it proved. Where discovery is open to anybody, those that
        its initiator may log in to with some account."""
        return [
            iqn
            for iqn, section in self._sections.items()
            if _admits(section, who.initiator_name) and self._account_admits(who, iqn)
        ]

    def portals(self, target_name: str) -> list[Portal]:
        self._section(target_name)
        return self.all_portals

    def authentication(self, who: Who) -> bool:
        if not self._chap.accounts or (who.target_name is None and not self._chap.discovery):
            return False
        if not any(_concerns(account, who.initiator_name, who.target_name) for account in self._chap.accounts):
            raise Forbidden(f"no CHAP account for {who.initiator_name} with {who.target_name or 'discovery'}")
        return True

    def credentials(self, who: Who, username: str) -> ChapCredentials | None:
        account = self._account(who, username)
        if account is None:
            return None
        mutual = account.mutual_secret.get_secret_value() if account.mutual_secret else None
        return ChapCredentials(account.user, account.secret.get_secret_value(), account.mutual_user, mutual)

    def open(self, who: Who) -> View:
        target_name = who.target_name
        assert target_name is not None  # a discovery session sees nothing
        section = self._section(target_name)
        if not _admits(section, who.initiator_name):
            raise Forbidden(f"{who.initiator_name} is not among the initiators of {target_name}")
        if self._chap.accounts and (who.account is None or self._account(who, who.account) is None):
            raise Forbidden(f"{who.initiator_name} has not proved an account for {target_name}")
        luns = self._settings.lun_map(section)
        return View(
            Principal.initiator(who.initiator_name) if who.account is None else Principal.account(who.account),
            target_name,
            {lun: self._units[name] for lun, name in luns.items() if name in self._units},  # one may be on its way
            tuple(sorted({portal.portal_group_tag for portal in self.all_portals})),
            remote_units=self._remotes.of(target_name) if self._remotes is not None else (),
        )

    def _account(self, who: Who, username: str) -> ChapAccount | None:
        """The first account of that user for this initiator and target."""
        return next(
            (
                account
                for account in self._chap.accounts
                if account.user == username and _concerns(account, who.initiator_name, who.target_name)
            ),
            None,
        )

    def _account_admits(self, who: Who, target_name: str) -> bool:
        """Whether CHAP would let this session in to a target: with the secret that it proved, or with any if it was
        asked for none."""
        accounts = [a for a in self._chap.accounts if _concerns(a, who.initiator_name, target_name)]
        if not self._chap.accounts or who.account is None:
            return bool(accounts) or not self._chap.accounts
        proved = self._account(who, who.account)
        return proved is not None and any((a.user, a.secret) == (proved.user, proved.secret) for a in accounts)

    def _section(self, target_name: str) -> TargetSettings:
        try:
            return self._sections[target_name]
        except KeyError:
            raise NotFound(f"there is no target {target_name}") from None


class CurrentDirectory:
    """The directory that holds now: sessions ask it, and what it answers from is replaced whole."""

    def __init__(self, directory: Directory) -> None:
        self._current = directory

    def replace(self, directory: Directory) -> None:
        """From the next question on. Portals stay: they are bound at the start."""
        self._current = directory

    @property
    def all_portals(self) -> list[Portal]:
        return self._current.all_portals

    def target_names(self, who: Who) -> list[str]:
        return self._current.target_names(who)

    def portals(self, target_name: str) -> list[Portal]:
        return self._current.portals(target_name)

    def authentication(self, who: Who) -> bool:
        return self._current.authentication(who)

    def credentials(self, who: Who, username: str) -> ChapCredentials | None:
        return self._current.credentials(who, username)

    def open(self, who: Who) -> View:
        return self._current.open(who)


def _admits(section: TargetSettings, initiator_name: str) -> bool:
    return any(fnmatchcase(initiator_name, pattern.lower()) for pattern in section.initiators)


def _concerns(account: ChapAccount, initiator_name: str, target_name: str | None) -> bool:
    return fnmatchcase(initiator_name, account.initiator.lower()) and (
        target_name is None or fnmatchcase(target_name, account.target.lower())
    )
