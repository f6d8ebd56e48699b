"""The text keys of a login, one row each (RFC 7143 13, RFC 7144 4). AuthMethod and the CHAP keys are chap.py's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, Flag, auto
from operator import attrgetter

from scsi_targets.iscsi.limits import ISCSI_NAME_BYTES, LOGIN_DATA_SEGMENT_BYTES, SIMPLE_VALUE_BYTES, Limits

Value = bool | int | str

REJECT = "Reject"


class KeyKind(Enum):
    """How a key's result follows from the two ends' values (RFC 7143 6.2.1, 6.2.2)."""

    AND = auto()
    OR = auto()
    MINIMUM = auto()
    MAXIMUM = auto()
    LIST = auto()
    DECLARED_NUMBER = auto()
    DECLARED_TEXT = auto()
    OBSOLETE = auto()


class Phase(Flag):
    """When a key may be used. Security and operational are the two stages of a login."""

    SECURITY = auto()
    OPERATIONAL = auto()
    FULL_FEATURE = auto()
    LOGIN = SECURITY | OPERATIONAL
    OPERATIONAL_OR_LATER = OPERATIONAL | FULL_FEATURE
    ANY = LOGIN | FULL_FEATURE


class Sender(Enum):
    """Who may send a key first."""

    INITIATOR = auto()
    TARGET = auto()
    EITHER = auto()


def _always(value: Value) -> Callable[[Limits], Value]:
    return lambda limits: value


def _limit(name: str) -> Callable[[Limits], Value]:
    return attrgetter(name)


@dataclass(frozen=True, slots=True)
class TextKey:
    """One row: everything there is to know about a key.

    values: the admissible range of a number (low, high), or the admissible words of a list or a declaration.
    ours: this end's value. in_discovery: False where RFC 7143 13 says "Irrelevant when: SessionType=Discovery".
    """

    name: str
    kind: KeyKind
    default: Value
    values: tuple[int, int] | tuple[str, ...] = ()
    ours: Callable[[Limits], Value] | None = None
    phases: Phase = Phase.OPERATIONAL
    sender: Sender = Sender.EITHER
    in_discovery: bool = True
    max_length: int = SIMPLE_VALUE_BYTES

    @property
    def declared(self) -> bool:
        """Whether the key is told, not negotiated, so that it gets no answer."""
        return self.kind in (KeyKind.DECLARED_NUMBER, KeyKind.DECLARED_TEXT)


SESSION_TYPES = ("Normal", "Discovery")
DIGESTS = ("CRC32C", "None")
SEGMENT = (512, 2**24 - 1)
SIXTEEN_BITS = (1, 65535)
SECONDS = (0, 3600)

_TEXT = KeyKind.DECLARED_TEXT

_NAMES = (
    TextKey("InitiatorName", _TEXT, "", phases=Phase.LOGIN, sender=Sender.INITIATOR, max_length=ISCSI_NAME_BYTES),
    TextKey("InitiatorAlias", _TEXT, "", phases=Phase.ANY, sender=Sender.INITIATOR),
    TextKey("TargetName", _TEXT, "", phases=Phase.LOGIN, max_length=ISCSI_NAME_BYTES),
    TextKey("TargetAlias", _TEXT, "", phases=Phase.ANY, sender=Sender.TARGET),
    TextKey("TargetAddress", _TEXT, "", phases=Phase.ANY, sender=Sender.TARGET),
    TextKey("TargetPortalGroupTag", KeyKind.DECLARED_NUMBER, 0, (0, 65535), phases=Phase.LOGIN, sender=Sender.TARGET),
    TextKey("SessionType", _TEXT, "Normal", SESSION_TYPES, phases=Phase.LOGIN, sender=Sender.INITIATOR),
    # discovery.py answers it, in the full-feature phase only (RFC 7143 13.3).
    TextKey("SendTargets", _TEXT, "", phases=Phase.FULL_FEATURE, sender=Sender.INITIATOR),
    TextKey("X#NodeArchitecture", _TEXT, "", phases=Phase.LOGIN),
)

_OPERATIONAL = (
    TextKey("HeaderDigest", KeyKind.LIST, "None", DIGESTS),
    TextKey("DataDigest", KeyKind.LIST, "None", DIGESTS),
    TextKey("MaxConnections", KeyKind.MINIMUM, 1, SIXTEEN_BITS, _always(1), in_discovery=False),
    TextKey("InitialR2T", KeyKind.OR, True, ours=_limit("initial_r2t"), in_discovery=False),
    TextKey("ImmediateData", KeyKind.AND, True, ours=_limit("immediate_data"), in_discovery=False),
    TextKey(
        "MaxRecvDataSegmentLength",
        KeyKind.DECLARED_NUMBER,
        LOGIN_DATA_SEGMENT_BYTES,
        SEGMENT,
        phases=Phase.OPERATIONAL_OR_LATER,
    ),
    TextKey("MaxBurstLength", KeyKind.MINIMUM, 262144, SEGMENT, _limit("max_burst_length"), in_discovery=False),
    TextKey("FirstBurstLength", KeyKind.MINIMUM, 65536, SEGMENT, _limit("first_burst_length"), in_discovery=False),
    TextKey("DefaultTime2Wait", KeyKind.MAXIMUM, 2, SECONDS, _limit("default_time2wait")),
    TextKey("DefaultTime2Retain", KeyKind.MINIMUM, 20, SECONDS, _limit("default_time2retain")),
    TextKey("MaxOutstandingR2T", KeyKind.MINIMUM, 1, SIXTEEN_BITS, _limit("max_outstanding_r2t"), in_discovery=False),
    TextKey("DataPDUInOrder", KeyKind.OR, True, ours=_always(True), in_discovery=False),
    TextKey("DataSequenceInOrder", KeyKind.OR, True, ours=_always(True), in_discovery=False),
    TextKey("ErrorRecoveryLevel", KeyKind.MINIMUM, 0, (0, 2), _always(0)),
    # RFC 7143 13.24: this end keeps to that document, which is level 1.
    TextKey("iSCSIProtocolLevel", KeyKind.MINIMUM, 1, (0, 31), _always(1), in_discovery=False),
    # RFC 7143 13.23. With one connection the responses are in order anyhow, which is all that ResponseFence asks.
    TextKey("TaskReporting", KeyKind.LIST, "RFC3720", ("RFC3720", "ResponseFence"), in_discovery=False),
)

# RFC 7143 13.25: a responder may say No to the markers of RFC 3720 and rejects their intervals; never NotUnderstood.
_OBSOLETE = (
    TextKey("IFMarker", KeyKind.OBSOLETE, "No"),
    TextKey("OFMarker", KeyKind.OBSOLETE, "No"),
    TextKey("IFMarkInt", KeyKind.OBSOLETE, REJECT),
    TextKey("OFMarkInt", KeyKind.OBSOLETE, REJECT),
)

KEYS: dict[str, TextKey] = {row.name: row for row in (*_NAMES, *_OPERATIONAL, *_OBSOLETE)}
