"""The login phase of one connection, sans-IO (RFC 7143 6.3, 11.12, 11.13): PDUs in, PDUs out, no socket, no clock."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import Enum
from functools import partial
from typing import Protocol

from scsi_targets.devices.unit.principal import Principal
from scsi_targets.devices.unit.task import Nexus
from scsi_targets.devices.unit.view import View
from scsi_targets.iscsi import directory as errors
from scsi_targets.iscsi.chap import KEYS as CHAP_KEYS
from scsi_targets.iscsi.chap import ChapError, ChapTarget
from scsi_targets.iscsi.directory import DirectoryError, Portal, TargetDirectory, Who
from scsi_targets.iscsi.failed_logins import FailedLogins
from scsi_targets.iscsi.keys import SESSION_TYPES, Phase
from scsi_targets.iscsi.limits import LOGIN_DATA_SEGMENT_BYTES, Limits
from scsi_targets.iscsi.negotiation import Negotiation, NegotiationError, OperationalParameters
from scsi_targets.iscsi.pdu import LoginRequest, LoginResponse, LoginStatus, Pdu, Stage
from scsi_targets.iscsi.states import LOGIN_STAGES
from scsi_targets.iscsi.text import Pair, TextAssembler, TextError, TextSender, encode
from scsi_targets.iscsi.waiting_nexus import WaitingNexus

ISCSI_VERSION = 0x00  # RFC 7143 11.12.4: the only one there is

IDENTITY_KEYS = frozenset({"InitiatorName", "TargetName", "SessionType"})


class LoginRefused(Exception):
    """Ends a login with a status. `answers` go into the response (TargetAddress of a target that moved)."""

    def __init__(self, status: LoginStatus, reason: str, answers: list[Pair] | None = None) -> None:
        super().__init__(reason)
        self.status = status
        self.answers = answers or []


class LoginProgress(Enum):
    """Where a login stands. After ACCEPTED and REFUSED the socket is no longer the login's."""

    GOING_ON = "going on"
    ACCEPTED = "accepted"
    REFUSED = "refused"


@dataclass(slots=True)
class LoginResult:
    """What came of an accepted login. cmd_sn: the next CmdSN to expect; stat_sn: the next to send. first_cmd_sn,
    first_exp_stat_sn: of the first Login Request. waiting: the nexus that waits for this initiator port, while no
    session has it: until this session begins, and after it when its connection broke."""

    who: Who
    initiator_alias: str
    connection_id: int
    view: View | None  # None: a discovery session, which sees no logical unit
    authentication: str  # "None", or what ChapTarget.description says
    negotiation: Negotiation = field(repr=False)
    cmd_sn: int = 0
    stat_sn: int = 0
    tsih: int = 0
    first_cmd_sn: int = 0
    first_exp_stat_sn: int = 0
    waiting: WaitingNexus | None = None

    @property
    def nexus(self) -> Nexus | None:
        """What it is a session of; None: a discovery session."""
        if self.view is None:
            return None
        who, tag = self.who, self.who.portal.portal_group_tag
        return Nexus(who.initiator_name, who.isid, self.view.target_name, tag, principal=self.view.principal)

    @property
    def continues(self) -> bool:
        """Whether the nexus that waits goes on with this session: everything that it asked for has arrived, and so has
        every answer."""
        before = self.waiting
        if before is None or before.given_up:
            return False
        return (before.stat_sn, before.cmd_sn) == (self.first_exp_stat_sn, self.first_cmd_sn)

    @property
    def principal(self) -> Principal | None:
        """Whose session it is; None: a discovery session."""
        return self.view.principal if self.view is not None else None

    @property
    def parameters(self) -> OperationalParameters:
        """What both ends agreed on."""
        return self.negotiation.parameters()


class Admission(Protocol):
    """Where sessions are counted and numbered: the server's session table."""

    def exists(self, who: Who, tsih: int) -> bool:
        """Whether that initiator port, as the account it proved, has a session of that TSIH with that target."""

    def admit(self, result: LoginResult) -> int:
        """The new session's TSIH; a session of the same nexus is ended first. Raises LoginRefused."""


_STATUS_OF: dict[type[DirectoryError], LoginStatus] = {
    errors.NotFound: LoginStatus.NOT_FOUND,
    errors.Forbidden: LoginStatus.AUTHORIZATION_FAILURE,
    errors.Removed: LoginStatus.TARGET_REMOVED,
    errors.Unavailable: LoginStatus.SERVICE_UNAVAILABLE,
}


def refusal_of(error: DirectoryError) -> LoginRefused:
    """The login status that a directory's error stands for."""
    if isinstance(error, errors.TargetMoved):
        status = LoginStatus.TARGET_MOVED_PERMANENTLY if error.permanently else LoginStatus.TARGET_MOVED_TEMPORARILY
        return LoginRefused(status, str(error), [("TargetAddress", error.address)])
    return LoginRefused(_STATUS_OF.get(type(error), LoginStatus.TARGET_ERROR), str(error))


class Login:
    """One connection's login. Feed `receive()` each PDU; send what it returns; then look at `progress`."""

    def __init__(
        self,
        directory: TargetDirectory,
        portal: Portal,
        limits: Limits,
        admission: Admission,
        now: float,
        peer: str = "",
        failures: FailedLogins | None = None,
    ) -> None:
        self._directory = directory
        self._portal = portal
        self._limits = limits
        self._admission = admission
        self.deadline = now + limits.login_timeout_seconds
        self.progress = LoginProgress.GOING_ON
        self.refusal: LoginRefused | None = None
        self.result: LoginResult | None = None
        self._first: LoginRequest | None = None
        self._stage: int = Stage.SECURITY_NEGOTIATION
        self._stat_sn = 0
        self._pdus = 0
        self._negotiation = Negotiation(limits)
        self._incoming = TextAssembler(limits.text_bytes)
        self._outgoing = TextSender()
        self._peer = peer
        self._failures = failures or FailedLogins(limits.failed_logins, limits.failed_login_seconds)
        self._who: Who | None = None  # once the first text is whole
        self._chap_wanted = False
        self._chap: ChapTarget | None = None
        self._view: View | None = None
        self._authorised = False

    @property
    def initiator_name(self) -> str:
        """As far as it is known: for the log."""
        return self._negotiation.text("InitiatorName").lower()

    @property
    def target_name(self) -> str:
        """As far as it is known: for the log."""
        return self._negotiation.text("TargetName").lower()

    def receive(self, pdu: Pdu, now: float) -> list[Pdu]:
        """The answers to one PDU; none for a peer that does not begin with a Login Request (RFC 7143 6.3: drop it)."""
        try:
            request = self._check(pdu, now)
            return [self._proceed(request)]
        except (TextError, NegotiationError) as error:
            return self._refuse(LoginRefused(LoginStatus.INITIATOR_ERROR, str(error)))
        except ChapError as error:
            return self._refuse(LoginRefused(LoginStatus.AUTHENTICATION_FAILURE, f"CHAP: {error}"))
        except DirectoryError as error:
            return self._refuse(refusal_of(error))
        except LoginRefused as refusal:
            return self._refuse(refusal)

    # ---- one request ---------------------------------------------------------------------------------------------

    def _check(self, pdu: Pdu, now: float) -> LoginRequest:
        """The header against RFC 7143 11.12 and against the requests before it."""
        if self.progress is not LoginProgress.GOING_ON:
            raise RuntimeError("this login is over")
        if not isinstance(pdu, LoginRequest):
            raise LoginRefused(LoginStatus.INVALID_DURING_LOGIN, f"{type(pdu).__name__} before the login was over")
        first = self._first
        if first is None:
            self._first = first = pdu
            self._stage = pdu.current_stage
            self._stat_sn = pdu.exp_stat_sn
        self._pdus += 1
        if now > self.deadline or self._pdus > self._limits.login_pdus:
            raise LoginRefused(LoginStatus.INITIATOR_ERROR, "the login takes too long")
        if pdu.version_min > ISCSI_VERSION:
            raise LoginRefused(LoginStatus.UNSUPPORTED_VERSION, f"version {pdu.version_min} is not supported")
        _check_stages(pdu, self._stage)
        for name in ("initiator_task_tag", "isid", "tsih", "connection_id"):
            if getattr(pdu, name) != getattr(first, name):
                raise LoginRefused(LoginStatus.INITIATOR_ERROR, f"{name} changed during the login")
        return pdu

    def _proceed(self, request: LoginRequest) -> LoginResponse:
        pairs = self._incoming.add(request.data, bool(request.continue_))
        if pairs is None:
            return self._respond(request)
        if self._outgoing.pending:
            if pairs:
                raise LoginRefused(LoginStatus.INITIATOR_ERROR, "new keys before our answer was fetched")
            return self._continue_answer(request)
        self._outgoing.start(encode(self._negotiate(request, pairs)))
        return self._continue_answer(request)

    def _continue_answer(self, request: LoginRequest) -> LoginResponse:
        data, more = self._outgoing.take(LOGIN_DATA_SEGMENT_BYTES)
        transit = bool(request.transit) and not more and self._stage_complete()
        if transit:
            self._enter(request, request.next_stage)
        return self._respond(request, data, transit=transit, more=more)

    def _respond(
        self, request: LoginRequest, data: bytes = b"", *, transit: bool = False, more: bool = False
    ) -> LoginResponse:
        response = LoginResponse.make(
            data,
            transit=transit,
            continue_=more,
            current_stage=request.current_stage,
            next_stage=request.next_stage if transit else 0,
            tsih=self.result.tsih if self.result else request.tsih,
            **self._numbers(request),
        )
        self._stat_sn = (self._stat_sn + 1) & 0xFFFFFFFF
        if self.result is not None:
            self.result.stat_sn = self._stat_sn
        return response

    def _numbers(self, request: LoginRequest) -> dict[str, int]:
        return {
            "version_max": ISCSI_VERSION,
            "version_active": ISCSI_VERSION,
            "isid": request.isid,
            "initiator_task_tag": request.initiator_task_tag,
            "stat_sn": self._stat_sn,
            # RFC 7143 4.2.2.1: login requests are immediate and do not advance CmdSN.
            "exp_cmd_sn": request.cmd_sn,
            # One command for now. The engine knows how many places its memory holds, and a window, once told, must
            # not shrink (RFC 7143 4.2.2.1): the engine's first PDU opens it.
            "max_cmd_sn": request.cmd_sn,
        }

    def _refuse(self, refusal: LoginRefused) -> list[Pdu]:
        self.progress = LoginProgress.REFUSED
        self.refusal = refusal
        first = self._first
        if first is None:
            return []
        return [
            LoginResponse.make(
                encode(refusal.answers),
                current_stage=self._stage,
                tsih=first.tsih,
                status=refusal.status,
                **self._numbers(first),
            )
        ]

    # ---- stages --------------------------------------------------------------------------------------------------

    def _negotiate(self, request: LoginRequest, pairs: list[Pair]) -> list[Pair]:
        pairs = self._checked_identity(pairs)
        if self._stage == Stage.SECURITY_NEGOTIATION:
            security = {name: value for name, value in pairs if name == "AuthMethod" or name in CHAP_KEYS}
            others = [pair for pair in pairs if pair[0] not in security]
            if len(security) + len(others) != len(pairs):
                raise NegotiationError("a security key came twice (RFC 7143 6.3)")
            answers = self._negotiation.answer(others, Phase.SECURITY) + self._identify()
            return answers + self._authenticate(request, security)
        if any(name == "AuthMethod" or name in CHAP_KEYS for name, _ in pairs):
            raise NegotiationError("a security key in the operational stage (RFC 7143 12)")
        answers = self._negotiation.answer(pairs, Phase.OPERATIONAL) + self._identify()
        self._require_authorised()
        return answers + self._negotiation.declare()

    def _checked_identity(self, pairs: list[Pair]) -> list[Pair]:
        """Who and what belongs into the first request (RFC 7143 6.3.1): later it could slip past the authentication.
        Said again unchanged, as libiscsi does after an answer AuthMethod=None, it is passed over."""
        for name, value in pairs:
            again = self._who is not None and name in IDENTITY_KEYS
            if again and value.lower() != self._negotiation.text(name).lower():
                raise NegotiationError(f"{name} changed after the first request of the login (RFC 7143 6.3.1)")
            if name == "SessionType" and value not in SESSION_TYPES:
                raise LoginRefused(LoginStatus.SESSION_TYPE_NOT_SUPPORTED, f"session type {value[:32]!r}")
        return [pair for pair in pairs if self._who is None or pair[0] not in IDENTITY_KEYS]

    def _identify(self) -> list[Pair]:
        """Once the first text is whole: who logs in to what, and what that takes."""
        if self._who is not None:
            return []
        assert self._first is not None
        if not _is_name(self.initiator_name):
            raise LoginRefused(LoginStatus.MISSING_PARAMETER, "no InitiatorName")
        discovery = self._negotiation.discovery
        if not discovery and not _is_name(self.target_name):
            raise LoginRefused(LoginStatus.MISSING_PARAMETER, "no TargetName in a normal session")
        isid, target_name = self._first.isid.to_bytes(6, "big"), None if discovery else self.target_name
        self._who = Who(self.initiator_name, isid, target_name, self._portal, self._peer)
        self._chap_wanted = self._directory.authentication(self._who)
        # RFC 7143 13.9: in the first response of a session to a target.
        return [] if discovery else [("TargetPortalGroupTag", str(self._portal.portal_group_tag))]

    def _check_tsih(self, who: Who, tsih: int) -> None:
        """A TSIH asks to add a connection to a session, and a session here has one (RFC 7143 6.3.1). Answered only to
        whoever has proved who it is: others learn nothing of its sessions."""
        if tsih == 0:
            return
        if self._admission.exists(who, tsih):
            raise LoginRefused(LoginStatus.TOO_MANY_CONNECTIONS, "a session has one connection (MaxConnections=1)")
        raise LoginRefused(LoginStatus.SESSION_DOES_NOT_EXIST, f"no session has the TSIH {tsih}")

    def _authenticate(self, request: LoginRequest, keys: dict[str, str]) -> list[Pair]:
        offer = keys.pop("AuthMethod", None)
        if self._chap is not None and offer is None:
            return self._prove(self._chap, keys)
        if keys or self._chap is not None:
            raise LoginRefused(LoginStatus.INITIATOR_ERROR, "authentication keys out of order")
        if offer is None:
            if self._chap_wanted and request.transit:
                raise LoginRefused(
                    LoginStatus.AUTHENTICATION_FAILURE, "CHAP is asked for and AuthMethod was not offered"
                )
            return []
        wanted = "CHAP" if self._chap_wanted else "None"
        if wanted not in offer.split(","):
            raise LoginRefused(LoginStatus.AUTHENTICATION_FAILURE, f"AuthMethod {wanted} is asked for and not offered")
        if self._chap_wanted:
            assert self._who is not None
            self._chap = ChapTarget(partial(self._directory.credentials, self._who))
        return [("AuthMethod", wanted)]

    def _prove(self, chap: ChapTarget, keys: dict[str, str]) -> list[Pair]:
        """One exchange of CHAP. Of who has failed too often nothing is looked at, and it learns no more than that the
        login failed."""
        user = keys.get("CHAP_N")
        if user is None:
            return chap.receive(keys)
        if not self._failures.admit(self._peer, user):
            raise ChapError("too many logins have failed from this address or as this user; try again later")
        try:
            return chap.receive(keys)
        except ChapError:
            self._failures.failed(self._peer, user)
            raise

    def _stage_complete(self) -> bool:
        return self._stage != Stage.SECURITY_NEGOTIATION or self._authenticated

    @property
    def _authenticated(self) -> bool:
        return not self._chap_wanted or (self._chap is not None and self._chap.done)

    def _require_authorised(self) -> None:
        """Between authentication and anything else: may this initiator use that target, and here?"""
        if self._authorised:
            return
        assert self._who is not None and self._first is not None
        if not self._authenticated:
            raise LoginRefused(LoginStatus.AUTHENTICATION_FAILURE, "CHAP is asked for and was skipped")
        self._who = who = replace(self._who, account=self._chap.username if self._chap is not None else None)
        self._check_tsih(who, self._first.tsih)
        if who.target_name is not None:
            if self._portal not in self._directory.portals(who.target_name):
                raise LoginRefused(LoginStatus.NOT_FOUND, "the target is not served at this portal")
            self._view = self._directory.open(who)
        self._authorised = True

    def _enter(self, request: LoginRequest, stage: int) -> None:
        self._require_authorised()
        if stage == Stage.FULL_FEATURE_PHASE:
            self._finish(request)
        self._stage = stage

    def _finish(self, request: LoginRequest) -> None:
        assert self._who is not None and self._first is not None
        result = LoginResult(
            who=self._who,
            initiator_alias=self._negotiation.text("InitiatorAlias"),
            connection_id=request.connection_id,
            view=self._view,
            authentication=self._chap.description if self._chap is not None else "None",
            negotiation=self._negotiation,
            cmd_sn=request.cmd_sn,
            first_cmd_sn=self._first.cmd_sn,
            first_exp_stat_sn=self._first.exp_stat_sn,
        )
        result.tsih = self._admission.admit(result)
        self.result = result
        self.progress = LoginProgress.ACCEPTED


def _check_stages(request: LoginRequest, stage: int) -> None:
    """CSG, NSG, T and C (RFC 7143 11.12.1 to 11.12.3)."""
    if request.current_stage != stage or stage not in LOGIN_STAGES:
        raise LoginRefused(LoginStatus.INITIATOR_ERROR, f"stage {request.current_stage} where {stage} stands")
    if request.transit and request.continue_:
        raise LoginRefused(LoginStatus.INITIATOR_ERROR, "T and C are both set")
    if request.transit and request.next_stage not in LOGIN_STAGES[stage]:
        raise LoginRefused(LoginStatus.INITIATOR_ERROR, f"stage {request.next_stage} does not follow stage {stage}")


def _is_name(name: str) -> bool:
    return bool(name) and name.isprintable() and " " not in name
