"""The TargetDirectory of iSCSI, answered from the configuration: who sees which target, and what it has to prove."""

from collections.abc import Mapping
from fnmatch import fnmatchcase

from appliance.settings.settings import ChapAccount, PortalSettings, Settings, TargetSettings
from scsi_targets.devices.unit.target import Target
from scsi_targets.iscsi.directory import ChapCredentials, Forbidden, NotFound, Portal


def portal_of(settings: PortalSettings) -> Portal:
    """iSCSI's portal for a [[portals]] section."""
    advertised = str(settings.advertise) if settings.advertise else None
    return Portal(settings.listen.host, settings.listen.port, settings.group, advertised)


class Directory:
    """The targets of one library. Reads only what never changes after start-up, so it needs no lock.

    Today an initiator either sees a target with all its devices or does not see it; zones (initiator groups times
    devices) will give open() another Target for another group.
    """

    def __init__(self, settings: Settings, targets: Mapping[str, Target]) -> None:
        self._targets = targets
        self._sections = {section.iqn: section for section in settings.targets}
        self._chap = settings.chap
        self.all_portals = [portal_of(portal) for portal in settings.portals]

    def target_names(self, initiator_name: str) -> list[str]:
        return [iqn for iqn, section in self._sections.items() if _admits(section, initiator_name)]

    def portals(self, target_name: str) -> list[Portal]:
        self._section(target_name)
        return self.all_portals

    def credentials(self, initiator_name: str, target_name: str | None) -> ChapCredentials | None:
        if not self._chap.accounts or (target_name is None and not self._chap.discovery):
            return None
        account = next((a for a in self._chap.accounts if _concerns(a, initiator_name, target_name)), None)
        if account is None:
            raise Forbidden(f"no CHAP account for {initiator_name} with {target_name or 'discovery'}")
        mutual = account.mutual_secret.get_secret_value() if account.mutual_secret else None
        return ChapCredentials(account.user, account.secret.get_secret_value(), account.mutual_user, mutual)

    def open(self, initiator_name: str, target_name: str) -> Target:
        if not _admits(self._section(target_name), initiator_name):
            raise Forbidden(f"{initiator_name} is not among the initiators of {target_name}")
        return self._targets[target_name]

    def _section(self, target_name: str) -> TargetSettings:
        try:
            return self._sections[target_name]
        except KeyError:
            raise NotFound(f"there is no target {target_name}") from None


def _admits(section: TargetSettings, initiator_name: str) -> bool:
    return any(fnmatchcase(initiator_name, pattern.lower()) for pattern in section.initiators)


def _concerns(account: ChapAccount, initiator_name: str, target_name: str | None) -> bool:
    return fnmatchcase(initiator_name, account.initiator.lower()) and (
        target_name is None or fnmatchcase(target_name, account.target.lower())
    )
