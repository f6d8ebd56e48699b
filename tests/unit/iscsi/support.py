"""A directory of targets, and an initiator that speaks login PDUs to the sans-IO state machine."""

from __future__ import annotations

from dataclasses import dataclass, field

from scsi_targets.devices.unit.logical_unit import LogicalUnit
from scsi_targets.devices.unit.principal import Principal
from scsi_targets.devices.unit.view import View
from scsi_targets.iscsi.directory import ChapCredentials, DirectoryError, Forbidden, NotFound, Portal, Who
from scsi_targets.iscsi.limits import Limits
from scsi_targets.iscsi.login import Login, LoginRefused, LoginResult
from scsi_targets.iscsi.pdu import LoginRequest, LoginResponse, LoginStatus, Stage
from scsi_targets.iscsi.text import Pair, encode, parse

INITIATOR = "iqn.2026-11.org.example:initiator"
TARGET = "iqn.2026-11.org.example:library"
PORTAL = Portal("127.0.0.1", 0, 7)
ISID = 0x00_02_3D_00_00_01
NAMES: list[Pair] = [("InitiatorName", INITIATOR), ("TargetName", TARGET)]
DISCOVERY: list[Pair] = [("InitiatorName", INITIATOR), ("SessionType", "Discovery")]

SECURITY = Stage.SECURITY_NEGOTIATION
OPERATIONAL = Stage.LOGIN_OPERATIONAL_NEGOTIATION
FULL_FEATURE = Stage.FULL_FEATURE_PHASE


@dataclass
class Directory:
    """Logical units by target name and LUN; `errors` is what open() raises for a name."""

    targets: dict[str, dict[int, LogicalUnit]] = field(default_factory=lambda: {TARGET: {}})
    portal_list: list[Portal] = field(default_factory=lambda: [PORTAL])
    chap: ChapCredentials | None = None
    discovery_chap: ChapCredentials | None = None
    forbidden: set[str] = field(default_factory=set)
    errors: dict[str, DirectoryError] = field(default_factory=dict)
    more_accounts: list[ChapCredentials] = field(default_factory=list)
    masked: dict[Principal, dict[int, LogicalUnit]] = field(default_factory=dict)  # who sees other logical units
    ends_at: float | None = None
    nexus_waits: bool = False
    others: list[str] = field(default_factory=list)  # initiators that have become somebody else

    def target_names(self, who: Who) -> list[str]:
        return [] if who.initiator_name in self.forbidden else sorted(self.targets)

    def portals(self, target_name: str, who: Who | None = None) -> list[Portal]:
        if target_name not in self.targets and target_name not in self.errors:
            raise NotFound(f"no target {target_name}")
        return self.portal_list

    def _chap_of(self, who: Who) -> list[ChapCredentials]:
        asked = self.discovery_chap if who.target_name is None else self.chap
        return [] if asked is None else [asked, *self.more_accounts]

    def authentication(self, who: Who) -> bool:
        return bool(self._chap_of(who))

    def credentials(self, who: Who, username: str) -> ChapCredentials | None:
        return next((account for account in self._chap_of(who) if account.username == username), None)

    def open(self, who: Who) -> View:
        assert who.target_name is not None
        if who.target_name in self.errors:
            raise self.errors[who.target_name]
        if who.initiator_name in self.forbidden:
            raise Forbidden(f"{who.initiator_name} may not use {who.target_name}")
        principal = Principal.account(who.account) if who.account else Principal.initiator(who.initiator_name)
        if who.initiator_name in self.others:
            principal = Principal.account("somebody else")
        units = self.masked.get(principal, self.targets[who.target_name])
        return View(principal, who.target_name, dict(units), ends_at=self.ends_at, nexus_waits=self.nexus_waits)


@dataclass
class Admission:
    """Admits everyone as session 1, unless `full`."""

    full: bool = False
    admitted: list[LoginResult] = field(default_factory=list)

    def exists(self, who: Who, tsih: int) -> bool:
        return tsih == 1

    def admit(self, result: LoginResult) -> int:
        if self.full:
            raise LoginRefused(LoginStatus.OUT_OF_RESOURCES, "too many sessions")
        self.admitted.append(result)
        return 1


class Initiator:
    """Sends login requests to one Login and keeps its answers as pairs."""

    def __init__(
        self, directory: Directory | None = None, limits: Limits | None = None, admission: Admission | None = None
    ) -> None:
        self.directory = directory or Directory()
        self.admission = admission or Admission()
        self.login = Login(self.directory, PORTAL, limits or Limits(), self.admission, now=0.0)
        self.now = 0.0

    def send(
        self, pairs: list[Pair] | bytes = b"", *, csg: int = OPERATIONAL, nsg: int | None = None, **fields: int
    ) -> LoginResponse:
        """One request; `nsg` sets the T bit."""
        data = pairs if isinstance(pairs, bytes) else encode(pairs)
        values = {
            "isid": ISID, "initiator_task_tag": 5, "connection_id": 3, "cmd_sn": 100, "exp_stat_sn": 40, "immediate": 1,
        } | fields  # fmt: skip
        if nsg is not None:
            values |= {"transit": 1, "next_stage": nsg}
        (response,) = self.login.receive(LoginRequest.make(data, current_stage=csg, **values), self.now)
        assert isinstance(response, LoginResponse)
        return response


def keys(response: LoginResponse) -> dict[str, str]:
    """The pairs of a response."""
    return dict(parse(response.data))
