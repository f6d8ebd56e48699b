"""How offers are answered (RFC 7143 6.2): the rules, over the rows of keys.py.

This end offers nothing of its own: it answers offers, and declares its MaxRecvDataSegmentLength. So a key that the
initiator does not mention stands at its default, which limits.py keeps acceptable.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from scsi_targets.iscsi.keys import KEYS, REJECT, KeyKind, Phase, Sender, TextKey, Value
from scsi_targets.iscsi.limits import ISCSI_NAME_BYTES, LOGIN_DATA_SEGMENT_BYTES, Limits
from scsi_targets.iscsi.text import Pair

NOT_UNDERSTOOD = "NotUnderstood"
IRRELEVANT = "Irrelevant"
MAX_KEYS = 1024  # of one negotiation: sixty would be a long login
ANSWER_CONSTANTS = frozenset({NOT_UNDERSTOOD, REJECT, IRRELEVANT})

NUMBER = re.compile(r"0|[1-9][0-9]*|0[xX][0-9A-Fa-f]+", re.ASCII)  # RFC 7143 6.1 numerical-value


class NegotiationError(Exception):
    """The initiator broke the rules of negotiation, so the login ends (RFC 7143 7.12); str is for the log."""


class _Inadmissible(Exception):
    """A value that the key does not allow: answered with Reject, the key keeps the value it had (RFC 7143 6.2)."""


@dataclass(frozen=True, slots=True)
class OperationalParameters:
    """What both ends hold to in the full-feature phase, by RFC 7143's names; lengths in bytes, times in seconds."""

    header_digest: bool
    data_digest: bool
    max_recv_data_segment_length: int
    max_send_data_segment_length: int
    first_burst_length: int
    max_burst_length: int
    initial_r2t: bool
    immediate_data: bool
    max_outstanding_r2t: int
    default_time2wait: int
    default_time2retain: int


class Negotiation:
    """The keys of one connection: what was offered, what it came to."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._values: dict[str, Value] = {name: key.default for name, key in KEYS.items()}
        self._received: set[str] = set()
        self._declared = False

    @property
    def discovery(self) -> bool:
        """Whether the initiator asked for a discovery session."""
        return self._values["SessionType"] == "Discovery"

    def text(self, name: str) -> str:
        """The value of a declared text key, "" when it was not declared."""
        return str(self._values[name])

    def begin(self) -> None:
        """A new negotiation, in the full-feature phase: every key may come once more."""
        self._received.clear()

    def declare(self) -> list[Pair]:
        """This end's own declaration, once (RFC 7143 13.12)."""
        if self._declared:
            return []
        self._declared = True
        return [("MaxRecvDataSegmentLength", str(self._limits.max_recv_data_segment_length))]

    def answer(self, pairs: Iterable[Pair], phase: Phase) -> list[Pair]:
        """Take the initiator's keys and give the answers due, in the same order. Raises NegotiationError."""
        pairs = list(pairs)
        self._refuse_repeats(name for name, _ in pairs)
        # SessionType decides what is irrelevant; what bounds FirstBurstLength must be known before it is answered.
        ordered = sorted(pairs, key=lambda pair: (pair[0] != "SessionType", pair[0] == "FirstBurstLength"))
        answers = {name: self._answer_one(name, value, phase) for name, value in ordered}
        return [(name, answer) for name, _ in pairs if (answer := answers[name]) is not None]

    def parameters(self) -> OperationalParameters:
        """The outcome, as the engine wants it."""
        value = self._values
        declared = self._limits.max_recv_data_segment_length if self._declared else LOGIN_DATA_SEGMENT_BYTES
        return OperationalParameters(
            header_digest=value["HeaderDigest"] == "CRC32C",
            data_digest=value["DataDigest"] == "CRC32C",
            max_recv_data_segment_length=declared,
            max_send_data_segment_length=int(value["MaxRecvDataSegmentLength"]),
            # RFC 7143 13.14: FirstBurstLength must not exceed MaxBurstLength, also where only the latter was lowered.
            first_burst_length=min(int(value["FirstBurstLength"]), int(value["MaxBurstLength"])),
            max_burst_length=int(value["MaxBurstLength"]),
            initial_r2t=bool(value["InitialR2T"]),
            immediate_data=bool(value["ImmediateData"]),
            max_outstanding_r2t=int(value["MaxOutstandingR2T"]),
            default_time2wait=int(value["DefaultTime2Wait"]),
            default_time2retain=int(value["DefaultTime2Retain"]),
        )

    def _refuse_repeats(self, names: Iterable[str]) -> None:
        for name in names:
            if name in self._received:
                raise NegotiationError(f"the key {name} came twice (RFC 7143 6.3)")
            self._received.add(name)
        if len(self._received) > MAX_KEYS:
            raise NegotiationError(f"more than {MAX_KEYS} keys")

    def _answer_one(self, name: str, value: str, phase: Phase) -> str | None:
        key = KEYS.get(name)
        if key is None:
            # Never an answer to an answer: the peer may be telling us that it did not understand.
            return None if value in ANSWER_CONSTANTS else NOT_UNDERSTOOD
        if key.declared and key.sender is not Sender.INITIATOR and value in ANSWER_CONSTANTS:
            return None
        if phase not in key.phases:
            return self._out_of_phase(name, phase)
        if key.sender is Sender.TARGET:
            return REJECT
        if self._irrelevant(key):
            return IRRELEVANT
        try:
            return self._negotiate(key, value)
        except _Inadmissible:
            return REJECT

    @staticmethod
    def _out_of_phase(name: str, phase: Phase) -> str:
        if phase is Phase.FULL_FEATURE:
            return REJECT
        raise NegotiationError(f"the key {name} is not allowed in this stage of the login (RFC 7143 6.3)")

    def _irrelevant(self, key: TextKey) -> bool:
        if self.discovery and not key.in_discovery:
            return True
        no_unsolicited = self._values["InitialR2T"] is True and self._values["ImmediateData"] is False
        return key.name == "FirstBurstLength" and no_unsolicited  # RFC 7143 13.14

    def _negotiate(self, key: TextKey, text: str) -> str | None:
        if key.kind is KeyKind.OBSOLETE:
            return str(key.default)
        if len(text.encode()) > key.max_length:
            return self._over_long(key)
        result = _RESULTS[key.kind](key, text, key.ours(self._limits) if key.ours else 0)
        if key.name == "FirstBurstLength":
            result = min(int(result), int(self._values["MaxBurstLength"]))
        self._values[key.name] = result
        return None if key.declared else _as_text(result)

    @staticmethod
    def _over_long(key: TextKey) -> str:
        if key.max_length == ISCSI_NAME_BYTES:
            raise NegotiationError(f"{key.name} has more than {key.max_length} bytes (RFC 7143 4.2.7.1)")
        return REJECT


def _as_text(value: Value) -> str:
    if isinstance(value, bool):
        return "Yes" if value else "No"
    return str(value)


def _boolean(text: str) -> bool:
    if text not in ("Yes", "No"):
        raise _Inadmissible
    return text == "Yes"


def _number(key: TextKey, text: str) -> int:
    if not NUMBER.fullmatch(text):
        raise _Inadmissible
    number = int(text, 16) if text[:2] in ("0x", "0X") else int(text)
    low, high = key.values
    if not int(low) <= number <= int(high):
        raise _Inadmissible
    return number


def _first_common(key: TextKey, text: str) -> str:
    for choice in text.split(","):
        if choice in key.values:
            return choice
    raise _Inadmissible


def _word(key: TextKey, text: str) -> str:
    if key.values and text not in key.values:
        raise _Inadmissible
    return text


_RESULTS: dict[KeyKind, Callable[[TextKey, str, Value], Value]] = {
    KeyKind.AND: lambda key, text, ours: _boolean(text) and bool(ours),
    KeyKind.OR: lambda key, text, ours: _boolean(text) or bool(ours),
    KeyKind.MINIMUM: lambda key, text, ours: min(_number(key, text), int(ours)),
    KeyKind.MAXIMUM: lambda key, text, ours: max(_number(key, text), int(ours)),
    KeyKind.LIST: lambda key, text, ours: _first_common(key, text),
    KeyKind.DECLARED_NUMBER: lambda key, text, ours: _number(key, text),
    KeyKind.DECLARED_TEXT: lambda key, text, ours: _word(key, text),
}
