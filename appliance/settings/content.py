"""What a library contains, apart from what the daemon needs to start: devices, partitions, pools, targets, accounts,
zones.

tapebay.toml declares it, the library keeps it, and verbs change what the library keeps, never the file.
"""

from typing import Any, TypeVar

from pydantic import ValidationError

from appliance.settings.problems import problems_of
from appliance.settings.secrets import SecretError
from appliance.settings.sections import (
    ChangerSettings,
    ChapAccount,
    DiskSettings,
    DriveSettings,
    PartitionSettings,
    PoolSettings,
    RemoteSettings,
    Section,
    TargetSettings,
    ZoneSettings,
)
from appliance.settings.settings import Settings
from appliance.settings.values import Lun
from appliance.settings.zones import conflicts

WithSecret = TypeVar("WithSecret", ChapAccount, RemoteSettings)


class Content(Section):
    """luns: the LUNs that devices have in targets which name none; once given, a device keeps its own."""

    changer: ChangerSettings = ChangerSettings()
    drives: list[DriveSettings] = []
    partitions: list[PartitionSettings] = []
    pools: list[PoolSettings] = []
    disks: list[DiskSettings] = []
    targets: list[TargetSettings]
    accounts: list[ChapAccount] = []
    zones: list[ZoneSettings] = []
    remotes: list[RemoteSettings] = []
    luns: dict[str, Lun] = {}


class ContentError(Exception):
    """The parts do not fit together; str() has a line for each problem."""


def declared_in(settings: Settings) -> Content:
    """What tapebay.toml declares, with the LUNs that this gives its devices, and the secrets from where it says that
    they are. Raises ContentError."""
    content = Content(
        changer=settings.changer,
        drives=settings.drives,
        partitions=settings.partitions,
        pools=settings.pools,
        disks=settings.disks,
        targets=settings.targets,
        accounts=[
            _resolved("chap.accounts, user", account.user, account, settings) for account in settings.chap.accounts
        ],
        zones=settings.zones,
        remotes=[_resolved("remotes", remote.name, remote, settings) for remote in settings.remotes],
    )
    return content.model_copy(update={"luns": settings.automatic_luns()})


def _resolved(where: str, name: str, row: WithSecret, settings: Settings) -> WithSecret:
    try:
        return row.resolved(settings.directory)
    except SecretError as error:
        raise ContentError(f"{where} {name}: {error}") from None
    except ValidationError as error:
        lines = problems_of(error, type(row))
        raise ContentError("\n".join(f"{where} {name}: {line}" for line in lines)) from None


def with_content(settings: Settings, content: Content) -> Settings:
    """The settings of a library that contains `content`, checked as a file's are. Raises ContentError."""
    chap = settings.chap.model_copy(update={"accounts": content.accounts})
    given: dict[str, Any] = {name: getattr(settings, name) for name in Settings.model_fields}
    sections = ("changer", "drives", "partitions", "pools", "disks", "targets", "zones", "remotes")
    given |= {name: getattr(content, name) for name in sections}
    try:
        made = Settings(**{**given, "chap": chap})
    except ValidationError as error:
        raise ContentError("\n".join(problems_of(error, Settings))) from None
    placed = made.placed(settings.directory, content.luns)
    if problems := conflicts(placed):
        raise ContentError("\n".join(problems))
    return placed


def settled(settings: Settings, content: Content) -> tuple[Content, Settings]:
    """`content` with a LUN for each of its devices: those it has keep theirs; and its settings. Raises ContentError."""
    made = with_content(settings, content)
    luns = made.automatic_luns()
    return content.model_copy(update={"luns": luns}), made.placed(made.directory, luns)
