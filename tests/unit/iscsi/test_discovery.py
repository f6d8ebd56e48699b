"""Text in the full-feature phase: SendTargets, addresses, answers over many PDUs (RFC 7143 11.10, C)."""

import pytest

from scsi_targets.iscsi.directory import Portal, Who
from scsi_targets.iscsi.discovery import SendTargets, TextExchange, TextRejected, format_address
from scsi_targets.iscsi.keys import Phase
from scsi_targets.iscsi.limits import Limits
from scsi_targets.iscsi.negotiation import Negotiation
from scsi_targets.iscsi.pdu import RESERVED_TAG, TextRequest, TextResponse
from scsi_targets.iscsi.text import Pair, encode, parse
from tests.unit.iscsi.support import INITIATOR, PORTAL, TARGET, Directory

HERE = ("127.0.0.1", 40000)


def send_targets(
    directory: Directory, arrived: Portal = PORTAL, local: tuple[str, int] = HERE, target: str | None = None
) -> SendTargets:
    bound = {PORTAL: [HERE]}
    for number, portal in enumerate(directory.portal_list):
        bound.setdefault(portal, [(portal.host, portal.port or 50000 + number)])
    return SendTargets(directory, Who(INITIATOR, bytes(6), target, arrived), local, bound)


def test_all() -> None:
    directory = Directory()
    directory.targets["iqn.2026-11.org.example:a"] = {}
    assert send_targets(directory).answer("All") == [
        ("TargetName", "iqn.2026-11.org.example:a"),
        ("TargetAddress", "127.0.0.1:40000,7"),
        ("TargetName", TARGET),
        ("TargetAddress", "127.0.0.1:40000,7"),
    ]


def test_by_name() -> None:
    expected = [("TargetName", TARGET), ("TargetAddress", "127.0.0.1:40000,7")]
    assert send_targets(Directory()).answer(TARGET) == expected
    assert send_targets(Directory()).answer(TARGET.upper()) == expected
    assert send_targets(Directory()).answer("iqn.2026-11.org.example:none") == []


def test_an_initiator_sees_only_what_it_may_use() -> None:
    directory = Directory(forbidden={INITIATOR})
    assert send_targets(directory).answer("All") == []
    assert send_targets(directory).answer(TARGET) == []


def test_in_a_normal_session_only_its_own_target() -> None:
    expected = [("TargetName", TARGET), ("TargetAddress", "127.0.0.1:40000,7")]
    assert send_targets(Directory(), target=TARGET).answer("") == expected
    assert send_targets(Directory(), target=TARGET).answer(TARGET) == expected
    assert send_targets(Directory(), target=TARGET).answer("All") == [("SendTargets", "Reject")]
    assert send_targets(Directory()).answer("") == [("SendTargets", "Reject")]


def addresses(portals: list[Portal], arrived: Portal, local: tuple[str, int] = HERE) -> list[str]:
    pairs = send_targets(Directory(portal_list=portals), arrived, local).answer("All")
    return [value for key, value in pairs if key == "TargetAddress"]


def test_the_portal_it_came_in_on_is_first_and_advertised() -> None:
    other, nat = Portal("10.0.0.1", 3260, 1), Portal("0.0.0.0", 3260, 1, "192.0.2.7:13260")
    assert addresses([other, nat], nat) == ["192.0.2.7:13260,1", "10.0.0.1:3260,1"]
    assert addresses([other, nat], other, ("10.0.0.1", 3260)) == ["10.0.0.1:3260,1", "192.0.2.7:13260,1"]


def test_wildcards_answer_with_the_address_the_connection_has_here() -> None:
    v4, v6, second = Portal("0.0.0.0", 0, 1), Portal("::", 0, 1), Portal("0.0.0.0", 3261, 2)
    portals = [v4, v6, second]
    assert addresses(portals, v4, ("192.0.2.1", 50000)) == ["192.0.2.1:50000,1", "192.0.2.1:3261,2"]
    assert addresses(portals, v6, ("2001:db8::1", 50001)) == ["[2001:db8::1]:50001,1"]


def test_format_address() -> None:
    assert format_address("::1", 3260) == "[::1]:3260"
    assert format_address("fe80::1%eth0", 3260) == "[fe80::1]:3260"
    assert format_address("192.0.2.1", 3260) == "192.0.2.1:3260"


# ---- the exchange ------------------------------------------------------------------------------------------------


class Asker:
    """Sends text requests to a TextExchange whose SendTargets answer is `records`."""

    def __init__(self, records: list[Pair], segment: int = 8192) -> None:
        self.negotiation = Negotiation(Limits())
        self.negotiation.answer([("MaxRecvDataSegmentLength", str(segment))], Phase.OPERATIONAL)
        self.exchange = TextExchange(self.negotiation, lambda value: records, 65536)

    def ask(self, data: bytes = b"", *, ttt: int = RESERVED_TAG, itt: int = 1, **fields: int) -> TextResponse:
        fields = {"final": 1} | fields
        return self.exchange.receive(
            TextRequest.make(data, initiator_task_tag=itt, target_transfer_tag=ttt, lun=0, **fields)
        )


RECORDS = [("TargetName", f"iqn.2026-11.org.example:{i:04}") for i in range(300)]


def test_a_short_answer_ends_at_once() -> None:
    response = Asker(RECORDS[:1]).ask(b"SendTargets=All\0")
    assert (response.final, response.continue_, response.target_transfer_tag) == (1, 0, RESERVED_TAG)
    assert parse(response.data) == RECORDS[:1]


@pytest.mark.parametrize("segment", [512, 4096])
def test_a_long_answer_goes_over_many_pdus(segment: int) -> None:
    asker, text, tags = Asker(RECORDS, segment), bytearray(), set()
    response = asker.ask(b"SendTargets=All\0")
    while not response.final:
        assert (response.continue_, len(response.data)) == (1, segment)
        assert response.target_transfer_tag not in tags | {RESERVED_TAG}
        tags.add(response.target_transfer_tag)
        text += response.data
        response = asker.ask(ttt=response.target_transfer_tag)
    assert parse(bytes(text + response.data)) == RECORDS
    assert response.target_transfer_tag == RESERVED_TAG


def test_a_request_in_parts() -> None:
    asker = Asker(RECORDS[:1])
    first = asker.ask(b"SendTa", final=0, continue_=1)
    assert (first.data, first.final, first.continue_) == (b"", 0, 0)
    assert parse(asker.ask(b"rgets=All\0", ttt=first.target_transfer_tag).data) == RECORDS[:1]


def test_an_initiator_that_has_more_to_say() -> None:
    asker = Asker(RECORDS[:1])
    first = asker.ask(b"X-a=1\0", final=0)
    assert (first.final, parse(first.data)) == (0, [("X-a", "NotUnderstood")])
    assert parse(asker.ask(b"SendTargets=All\0", ttt=first.target_transfer_tag).data) == RECORDS[:1]


def test_a_new_request_drops_the_old_one() -> None:
    asker = Asker(RECORDS, 512)
    old = asker.ask(b"SendTargets=All\0")
    assert asker.ask(b"X-a=1\0", itt=2).final
    with pytest.raises(TextRejected, match="not going on"):
        asker.ask(ttt=old.target_transfer_tag)


def test_keys_are_answered_beside_send_targets() -> None:
    response = Asker(RECORDS[:1]).ask(encode([("SendTargets", "All"), ("MaxBurstLength", "512"), ("X-a", "1")]))
    assert parse(response.data) == [("MaxBurstLength", "Reject"), ("X-a", "NotUnderstood"), *RECORDS[:1]]


@pytest.mark.parametrize(
    ("data", "fields", "reason"),
    [
        (b"SendTargets=All\0", {"continue_": 1}, "F and C"),
        (b"SendTargets", {}, "no NUL"),
        (b"\xff=1\0", {}, "UTF-8"),
        (b"X-a=1\0X-a=1\0", {}, "came twice"),
        (b"", {"ttt": 77}, "not going on"),
        (b"x" * 65537, {}, "65536 bytes"),
    ],
)
def test_rejected(data: bytes, fields: dict[str, int], reason: str) -> None:
    asker = Asker(RECORDS[:1])
    with pytest.raises(TextRejected, match=reason):
        asker.ask(data, **fields)
    assert parse(asker.ask(b"SendTargets=All\0").data) == RECORDS[:1]


def test_an_answer_must_be_fetched_before_more_is_asked() -> None:
    asker = Asker(RECORDS, 512)
    first = asker.ask(b"SendTargets=All\0")
    with pytest.raises(TextRejected, match="before our answer"):
        asker.ask(b"X-a=1\0", ttt=first.target_transfer_tag)


def test_the_wrong_task_tag_does_not_continue() -> None:
    asker = Asker(RECORDS, 512)
    first = asker.ask(b"SendTargets=All\0", itt=1)
    with pytest.raises(TextRejected, match="not going on"):
        asker.ask(ttt=first.target_transfer_tag, itt=2)
