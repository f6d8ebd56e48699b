"""Text requests of the full-feature phase, sans-IO: SendTargets and renegotiation (RFC 7143 11.10, 11.11, C)."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Mapping, Sequence
from itertools import count

from scsi_targets.iscsi.directory import DirectoryError, Portal, TargetDirectory, Who
from scsi_targets.iscsi.keys import REJECT, Phase
from scsi_targets.iscsi.negotiation import Negotiation, NegotiationError
from scsi_targets.iscsi.pdu import RESERVED_TAG, TextRequest, TextResponse
from scsi_targets.iscsi.text import Pair, TextAssembler, TextError, TextSender, encode

SocketAddress = tuple[str, int]


class TextRejected(Exception):
    """A text request against the rules: a Reject with reason Protocol Error; the negotiation starts over."""


def format_address(host: str, port: int) -> str:
    """host:port as TargetAddress has it: brackets around IPv6, no scope (RFC 7143 13.8)."""
    host = host.partition("%")[0]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


class SendTargets:
    """What one session is told about targets and their addresses.

    local: the connection's own address at this end. bound: where each portal of the server really listens.
    """

    def __init__(
        self,
        directory: TargetDirectory,
        who: Who,
        local: SocketAddress,
        bound: Mapping[Portal, Sequence[SocketAddress]],
    ) -> None:
        self._directory = directory
        self._who = who
        self._local = local
        self._bound = bound

    def answer(self, value: str) -> list[Pair]:
        """The answer to SendTargets=`value`. A normal session may ask about its own target only (RFC 7143 C)."""
        wanted, session_target = value.lower(), self._who.target_name
        if session_target is not None:
            if wanted not in ("", session_target):
                return [("SendTargets", REJECT)]
            return self._records([session_target])
        names = self._directory.target_names(self._who)
        if value == "All":
            return self._records(names)
        if not value:
            return [("SendTargets", REJECT)]
        return self._records([name for name in names if name == wanted])

    def _records(self, names: list[str]) -> list[Pair]:
        pairs: list[Pair] = []
        for name in names:
            try:
                portals = dict.fromkeys(self._directory.portals(name, self._who))
            except DirectoryError:
                continue  # it went away since it was listed
            pairs.append(("TargetName", name))
            for portal in sorted(portals, key=lambda portal: portal != self._who.portal):
                tag = portal.portal_group_tag
                pairs += [("TargetAddress", f"{address},{tag}") for address in self._addresses(portal)]
        return pairs

    def _addresses(self, portal: Portal) -> list[str]:
        if portal.advertised is not None:
            return [portal.advertised]
        if portal == self._who.portal:
            return [format_address(*self._local)]
        reachable = (self._reachable(host, port) for host, port in self._bound.get(portal, ()))
        return [format_address(*address) for address in reachable if address is not None]

    def _reachable(self, host: str, port: int) -> SocketAddress | None:
        """Another portal's address; for a wildcard, this connection's own host, if that is of the same family."""
        if not ipaddress.ip_address(host.partition("%")[0]).is_unspecified:
            return host, port
        same_family = (":" in host) == (":" in self._local[0])
        return (self._local[0], port) if same_family else None


class TextExchange:
    """The text negotiations of one connection, one after another."""

    def __init__(self, negotiation: Negotiation, answer_send_targets: Callable[[str], list[Pair]], limit: int) -> None:
        self._negotiation = negotiation
        self._answer_send_targets = answer_send_targets
        self._incoming = TextAssembler(limit)
        self._limit = limit
        self._outgoing = TextSender()
        self._tags = count(1)
        self._initiator_task_tag = RESERVED_TAG
        self._target_transfer_tag = RESERVED_TAG

    def receive(self, request: TextRequest) -> TextResponse:
        """The response to one request. Raises TextRejected."""
        try:
            self._check(request)
            pairs = self._incoming.add(request.data, bool(request.continue_))
            if pairs is None:
                return self._respond(request, b"", more=False, final=False)
            if not self._outgoing.pending:
                self._outgoing.start(encode(self._answers(pairs)))
            elif pairs:
                raise TextRejected("new keys before our answer was fetched")
        except (TextError, NegotiationError, TextRejected) as error:
            self._start_over()
            raise TextRejected(str(error)) from None
        data, more = self._outgoing.take(self._negotiation.parameters().max_send_data_segment_length)
        return self._respond(request, data, more=more, final=bool(request.final) and not more)

    def _check(self, request: TextRequest) -> None:
        if request.final and request.continue_:
            raise TextRejected("F and C are both set")
        if request.target_transfer_tag == RESERVED_TAG:
            # RFC 7143 11.10.4: this begins a negotiation, and drops one that was not finished.
            self._start_over()
            self._initiator_task_tag = request.initiator_task_tag
        elif (request.initiator_task_tag, request.target_transfer_tag) != (
            self._initiator_task_tag,
            self._target_transfer_tag,
        ):
            raise TextRejected("a continuation of a negotiation that is not going on")

    def _start_over(self) -> None:
        self._negotiation.begin()
        self._incoming = TextAssembler(self._limit)
        self._outgoing = TextSender()
        self._target_transfer_tag = RESERVED_TAG

    def _answers(self, pairs: list[Pair]) -> list[Pair]:
        asked = [value for name, value in pairs if name == "SendTargets"]
        answers = self._negotiation.answer(pairs, Phase.FULL_FEATURE)
        return answers + (self._answer_send_targets(asked[0]) if asked else [])

    def _respond(self, request: TextRequest, data: bytes, *, more: bool, final: bool) -> TextResponse:
        # RFC 7143 11.11.4: a tag to go on with, new each time, and none in the last response.
        self._target_transfer_tag = RESERVED_TAG if final else next(self._tags) % RESERVED_TAG
        return TextResponse.make(
            data,
            final=final,
            continue_=more,
            lun=request.lun,
            initiator_task_tag=request.initiator_task_tag,
            target_transfer_tag=self._target_transfer_tag,
        )
