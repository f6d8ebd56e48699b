"""Each key's row: what is answered to what, and what it comes to (RFC 7143 13)."""

import pytest

from scsi_targets.iscsi.keys import KEYS, KeyKind, Phase, Sender
from scsi_targets.iscsi.limits import Limits
from scsi_targets.iscsi.negotiation import Negotiation, NegotiationError, OperationalParameters


def answer(key: str, value: str, phase: Phase = Phase.OPERATIONAL, limits: Limits | None = None) -> str | None:
    answers = Negotiation(limits or Limits()).answer([(key, value)], phase)
    return dict(answers).get(key)


ANSWERS = [
    # key, offer, answer (None: none is due)
    ("HeaderDigest", "CRC32C,None", "CRC32C"),
    ("HeaderDigest", "None,CRC32C", "None"),
    ("HeaderDigest", "X-new,None", "None"),
    ("HeaderDigest", "X-new", "Reject"),
    ("HeaderDigest", "", "Reject"),
    ("DataDigest", "CRC32C", "CRC32C"),
    ("DataDigest", "crc32c", "Reject"),
    ("MaxConnections", "8", "1"),
    ("MaxConnections", "0", "Reject"),
    ("MaxConnections", "65536", "Reject"),
    ("InitialR2T", "Yes", "Yes"),
    ("InitialR2T", "No", "No"),
    ("InitialR2T", "yes", "Reject"),
    ("ImmediateData", "Yes", "Yes"),
    ("ImmediateData", "No", "No"),
    ("ImmediateData", "1", "Reject"),
    ("MaxRecvDataSegmentLength", "65536", None),
    ("MaxRecvDataSegmentLength", "511", "Reject"),
    ("MaxRecvDataSegmentLength", "16777215", None),
    ("MaxRecvDataSegmentLength", "16777216", "Reject"),
    ("MaxBurstLength", "0x40000", "262144"),
    ("MaxBurstLength", "16777215", str(16 * 1024 * 1024 - 1024)),
    ("MaxBurstLength", "511", "Reject"),
    ("MaxBurstLength", "512", "512"),
    ("MaxBurstLength", "16777216", "Reject"),
    ("MaxBurstLength", "0512", "Reject"),
    ("MaxBurstLength", "-512", "Reject"),
    ("MaxBurstLength", "1e5", "Reject"),
    ("MaxBurstLength", "512 ", "Reject"),
    ("MaxBurstLength", "9" * 255, "Reject"),
    ("FirstBurstLength", "16777215", "262144"),
    ("FirstBurstLength", "512", "512"),
    ("DefaultTime2Wait", "0", "0"),
    ("DefaultTime2Wait", "3600", "3600"),
    ("DefaultTime2Wait", "3601", "Reject"),
    ("DefaultTime2Retain", "20", "0"),
    ("MaxOutstandingR2T", "1", "1"),
    ("MaxOutstandingR2T", "65535", "8"),
    ("MaxOutstandingR2T", "0", "Reject"),
    ("DataPDUInOrder", "No", "Yes"),
    ("DataPDUInOrder", "Yes", "Yes"),
    ("DataSequenceInOrder", "No", "Yes"),
    ("ErrorRecoveryLevel", "2", "0"),
    ("ErrorRecoveryLevel", "3", "Reject"),
    ("iSCSIProtocolLevel", "2", "1"),
    ("iSCSIProtocolLevel", "0", "0"),
    ("iSCSIProtocolLevel", "32", "Reject"),
    ("TaskReporting", "FastAbort,ResponseFence,RFC3720", "ResponseFence"),
    ("TaskReporting", "FastAbort", "Reject"),
    ("IFMarker", "Yes", "No"),
    ("OFMarker", "No", "No"),
    ("IFMarkInt", "2048~8192", "Reject"),
    ("OFMarkInt", "2048", "Reject"),
    ("InitiatorAlias", "host", None),
    ("InitiatorAlias", "x" * 256, "Reject"),
    ("TargetAlias", "mine", "Reject"),
    ("TargetAlias", "NotUnderstood", None),
    ("TargetAddress", "host:1", "Reject"),
    ("TargetPortalGroupTag", "1", "Reject"),
    ("TargetPortalGroupTag", "Irrelevant", None),
    ("MaxRecvDataSegmentLength", "Reject", None),
    ("X#NodeArchitecture", "x86", None),
    ("X-com.example.key", "value", "NotUnderstood"),
    ("X#private", "value", "NotUnderstood"),
    ("NoSuchKey", "1", "NotUnderstood"),
    ("NoSuchKey", "NotUnderstood", None),
]


@pytest.mark.parametrize(("key", "offer", "expected"), ANSWERS)
def test_answer(key: str, offer: str, expected: str | None) -> None:
    assert answer(key, offer) == expected


def test_every_row_is_tried() -> None:
    in_login = {name for name, row in KEYS.items() if row.phases & Phase.OPERATIONAL}
    assert in_login - {key for key, _, _ in ANSWERS} == {"InitiatorName", "TargetName", "SessionType"}


DEFAULTS = OperationalParameters(
    header_digest=False,
    data_digest=False,
    max_recv_data_segment_length=8192,
    max_send_data_segment_length=8192,
    first_burst_length=65536,
    max_burst_length=262144,
    initial_r2t=True,
    immediate_data=True,
    max_outstanding_r2t=1,
    default_time2wait=2,
    default_time2retain=20,
)


def test_nothing_said_leaves_the_defaults() -> None:
    assert Negotiation(Limits()).parameters() == DEFAULTS


@pytest.mark.parametrize(("key", "offer"), [(key, offer) for key, offer, answer in ANSWERS if answer == "Reject"])
def test_a_rejected_key_keeps_its_default(key: str, offer: str) -> None:
    negotiation = Negotiation(Limits())
    negotiation.answer([(key, offer)], Phase.OPERATIONAL)
    assert negotiation.parameters() == DEFAULTS


def test_our_limits_win() -> None:
    limits = Limits(initial_r2t=True, immediate_data=False, max_outstanding_r2t=2)
    assert answer("InitialR2T", "No", limits=limits) == "Yes"
    assert answer("ImmediateData", "Yes", limits=limits) == "No"
    assert answer("MaxOutstandingR2T", "4", limits=limits) == "2"


@pytest.mark.parametrize("first", ["FirstBurstLength", "MaxBurstLength"])
def test_first_burst_never_passes_max_burst_in_either_order(first: str) -> None:
    offers = {"FirstBurstLength": "65536", "MaxBurstLength": "8192"}
    order = [first, *(set(offers) - {first})]
    negotiation = Negotiation(Limits())
    answers = negotiation.answer([(key, offers[key]) for key in order], Phase.OPERATIONAL)
    assert answers == [(key, "8192") for key in order]
    assert negotiation.parameters().first_burst_length == 8192


def test_max_burst_alone_below_the_default_first_burst() -> None:
    negotiation = Negotiation(Limits())
    negotiation.answer([("MaxBurstLength", "4096")], Phase.OPERATIONAL)
    assert negotiation.parameters().first_burst_length == 4096


@pytest.mark.parametrize("order", [1, -1])
def test_first_burst_is_irrelevant_without_unsolicited_data(order: int) -> None:
    offers = [("InitialR2T", "Yes"), ("ImmediateData", "No"), ("FirstBurstLength", "65536")][::order]
    answers = Negotiation(Limits()).answer(offers, Phase.OPERATIONAL)
    assert dict(answers)["FirstBurstLength"] == "Irrelevant"
    assert [key for key, _ in answers] == [key for key, _ in offers]


@pytest.mark.parametrize("order", [1, -1])
def test_irrelevant_in_discovery(order: int) -> None:
    offers = [("SessionType", "Discovery"), ("MaxConnections", "1"), ("HeaderDigest", "None")][::order]
    answers = dict(Negotiation(Limits()).answer(offers, Phase.OPERATIONAL))
    assert answers == {"MaxConnections": "Irrelevant", "HeaderDigest": "None"}


def test_every_key_is_irrelevant_where_the_rfc_says_so() -> None:
    irrelevant = {name for name, row in KEYS.items() if not row.in_discovery}
    assert irrelevant == {
        "MaxConnections", "InitialR2T", "ImmediateData", "MaxBurstLength", "FirstBurstLength", "MaxOutstandingR2T",
        "DataPDUInOrder", "DataSequenceInOrder", "iSCSIProtocolLevel", "TaskReporting",
    }  # fmt: skip


def test_a_key_that_comes_twice_ends_the_login() -> None:
    negotiation = Negotiation(Limits())
    negotiation.answer([("HeaderDigest", "None")], Phase.OPERATIONAL)
    with pytest.raises(NegotiationError, match="HeaderDigest came twice"):
        negotiation.answer([("HeaderDigest", "None")], Phase.OPERATIONAL)
    with pytest.raises(NegotiationError, match="X-a came twice"):
        negotiation.answer([("X-a", "1"), ("X-a", "2")], Phase.OPERATIONAL)


def test_too_many_keys_end_the_login() -> None:
    with pytest.raises(NegotiationError, match="more than 1024 keys"):
        Negotiation(Limits()).answer([(f"X-{i}", "1") for i in range(1025)], Phase.OPERATIONAL)


def test_names_longer_than_223_bytes_end_the_login() -> None:
    with pytest.raises(NegotiationError, match="more than 223 bytes"):
        answer("InitiatorName", "iqn." + "x" * 220)


OPERATIONAL_KEYS = [name for name, row in KEYS.items() if Phase.SECURITY not in row.phases]


@pytest.mark.parametrize("key", OPERATIONAL_KEYS)
def test_operational_keys_end_a_login_in_its_security_stage(key: str) -> None:
    with pytest.raises(NegotiationError, match="not allowed in this stage"):
        answer(key, "None", Phase.SECURITY)


@pytest.mark.parametrize("name", KEYS)
def test_in_full_feature_phase_only_what_the_rfc_allows(name: str) -> None:
    row = KEYS[name]
    expected = None if Phase.FULL_FEATURE in row.phases and row.sender is not Sender.TARGET else "Reject"
    offer = "8192" if row.kind is KeyKind.DECLARED_NUMBER else "Yes"
    assert answer(name, offer, Phase.FULL_FEATURE) == expected


def test_max_recv_data_segment_length_may_be_declared_again_later() -> None:
    negotiation = Negotiation(Limits())
    negotiation.answer([("MaxRecvDataSegmentLength", "65536")], Phase.OPERATIONAL)
    negotiation.begin()
    negotiation.answer([("MaxRecvDataSegmentLength", "4096")], Phase.FULL_FEATURE)
    assert negotiation.parameters().max_send_data_segment_length == 4096


def test_our_declaration_is_made_once_and_counts_from_then_on() -> None:
    negotiation = Negotiation(Limits())
    assert negotiation.declare() == [("MaxRecvDataSegmentLength", "262144")]
    assert negotiation.declare() == []
    assert negotiation.parameters().max_recv_data_segment_length == 262144


def test_limits_must_live_with_the_defaults_of_the_rfc() -> None:
    for name, value in {"first_burst_length": 65535, "max_burst_length": 262143, "sessions": 65536}.items():
        with pytest.raises(ValueError, match=name):
            Limits(**{name: value})
