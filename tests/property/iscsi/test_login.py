"""Whatever an initiator sends, a login goes on, is accepted within the limits, or is refused with a status."""

from hypothesis import given, settings
from hypothesis import strategies as st

from scsi_targets.iscsi.chap import ChapError, ChapTarget
from scsi_targets.iscsi.directory import ChapCredentials
from scsi_targets.iscsi.keys import KEYS, KeyKind, Phase
from scsi_targets.iscsi.limits import Limits
from scsi_targets.iscsi.login import LoginProgress
from scsi_targets.iscsi.login_transport import LoginReader
from scsi_targets.iscsi.negotiation import Negotiation, NegotiationError, OperationalParameters
from scsi_targets.iscsi.pdu import LoginRequest, LoginResponse, LoginStatus, Pdu, PduFormatError
from scsi_targets.iscsi.text import Pair, TextAssembler, TextError, encode, parse
from tests.unit.iscsi.support import DISCOVERY, NAMES, Directory, Initiator

LIMITS = Limits()
CHAP = ChapCredentials("server", "in-secret-1234", "library", "out-secret-5678")

numbers = st.one_of(
    st.integers(-1, 2**25).map(str),
    st.sampled_from([0, 1, 511, 512, 8192, 65535, 65536, 2**24 - 1, 2**24]).map(str),
    st.integers(0, 2**25).map(hex),
)
words = st.one_of(
    numbers,
    st.sampled_from(["Yes", "No", "None", "CRC32C", "CRC32C,None", "None,CRC32C", "Reject", "Irrelevant", "", "5,7"]),
    st.sampled_from(["NotUnderstood", "Normal", "Discovery", "RFC3720", "CHAP", "CHAP,None", "0xabcd", "0bQUJD"]),
    st.text(max_size=300),
).filter(lambda word: "\0" not in word)
SECURITY_KEYS = ["AuthMethod", "CHAP_A", "CHAP_N", "CHAP_R", "CHAP_I", "CHAP_C"]
names = st.one_of(st.sampled_from([*KEYS, *SECURITY_KEYS]), st.sampled_from(["X-a", "X#b", "Other"]))
offers = st.lists(st.tuples(names, words), max_size=12)
operational = st.lists(
    st.tuples(st.sampled_from(sorted(KEYS)), words), max_size=24, unique_by=lambda pair: pair[0]
)  # fmt: skip


def assert_within_limits(parameters: OperationalParameters) -> None:
    """What the engine and the initiator may rely on, whatever was said."""
    assert 512 <= parameters.max_send_data_segment_length < 2**24
    assert 512 <= parameters.max_burst_length <= LIMITS.max_burst_length
    assert 512 <= parameters.first_burst_length <= min(LIMITS.first_burst_length, parameters.max_burst_length)
    assert 1 <= parameters.max_outstanding_r2t <= LIMITS.max_outstanding_r2t
    assert 0 <= parameters.default_time2wait <= 3600
    assert parameters.max_recv_data_segment_length in (8192, LIMITS.max_recv_data_segment_length)


@settings(deadline=None)
@given(st.lists(operational, max_size=3))
def test_negotiation_never_leaves_the_allowed_range(exchanges: list[list[Pair]]) -> None:
    negotiation = Negotiation(LIMITS)
    for pairs in exchanges:
        try:
            answers = negotiation.answer(pairs, Phase.OPERATIONAL)
        except NegotiationError:
            return
        assert {key for key, _ in answers} <= {key for key, _ in pairs}
        assert_within_limits(negotiation.parameters())


@settings(deadline=None)
@given(st.sampled_from(sorted(KEYS)), words)
def test_an_answer_is_the_constant_reject_or_a_value_of_the_key(name: str, offer: str) -> None:
    key = KEYS[name]
    try:
        answers = dict(Negotiation(LIMITS).answer([(name, offer)], Phase.OPERATIONAL))
    except NegotiationError:
        return
    answer = answers.get(name, "Reject")
    if key.kind in (KeyKind.AND, KeyKind.OR):
        assert answer in ("Yes", "No", "Reject")
    elif key.kind is KeyKind.LIST:
        assert answer in (*key.values, "Reject")
    elif key.kind in (KeyKind.MINIMUM, KeyKind.MAXIMUM) and answer != "Reject":
        assert key.values[0] <= int(answer) <= key.values[1]


requests = st.tuples(
    st.one_of(offers.map(encode), st.binary(max_size=200)),
    st.sampled_from([0, 0, 1, 1, 1, 2, 3]),
    st.sampled_from([None, 0, 1, 1, 3, 3]),
    st.fixed_dictionaries(
        {}, optional={"continue_": st.booleans(), "tsih": st.integers(0, 2), "version_min": st.integers(0, 1)}
    ),
)


@settings(deadline=None, max_examples=300)
@given(
    st.sampled_from([NAMES, DISCOVERY, [*NAMES, ("AuthMethod", "CHAP")], [*NAMES, ("AuthMethod", "None")], []]),
    st.lists(requests, max_size=6),
    st.sampled_from([None, CHAP]),
)
def test_any_login_goes_on_succeeds_or_is_refused_with_a_status(
    first: list[Pair], rest: list[tuple[bytes, int, int | None, dict[str, int]]], chap: ChapCredentials | None
) -> None:
    initiator = Initiator(Directory(chap=chap, discovery_chap=chap))
    csg = rest[0][1] if rest else 1
    for data, stage, nsg, fields in [(encode(first), csg, None, {}), *rest]:
        response = initiator.send(data, csg=stage, nsg=nsg, **fields)
        assert isinstance(response, LoginResponse)
        assert len(response.data) <= 8192
        assert not (response.transit and response.continue_)
        if not response.continue_:
            parse(response.data)
        if initiator.login.progress is LoginProgress.GOING_ON:
            assert (response.status, response.next_stage == 3) == (LoginStatus.SUCCESS, False)
            continue
        accepted = initiator.login.progress is LoginProgress.ACCEPTED
        assert (LoginStatus(response.status) is LoginStatus.SUCCESS) == accepted
        assert (initiator.login.refusal is None) == accepted
        if accepted:
            assert initiator.login.result is not None
            assert_within_limits(initiator.login.result.parameters)
            assert chap is None  # nobody guesses a proof
        return


@settings(deadline=None)
@given(st.binary(max_size=400), st.lists(st.integers(1, 60), min_size=1, max_size=50))
def test_text_is_the_same_in_any_portions(text: bytes, steps: list[int]) -> None:
    try:
        expected: list[Pair] | None = parse(text)
    except TextError:
        expected = None
    assembler, at = TextAssembler(1000), 0
    for step in steps:
        assert assembler.add(text[at : at + step], more=True) is None
        at += step
    try:
        assert assembler.add(text[at:], more=False) == expected
    except TextError:
        assert expected is None


@settings(deadline=None)
@given(st.binary(max_size=300), st.integers(1, 60))
def test_the_reader_takes_junk_or_refuses_it(junk: bytes, step: int) -> None:
    valid = LoginRequest.make(b"A=1\0").to_bytes()
    reader, stream, pdus = LoginReader(), valid + junk, []
    try:
        while stream:
            portion = stream[: min(step, reader.needed)]
            stream = stream[len(portion) :]
            if (pdu := reader.feed(portion)) is not None:
                pdus.append(pdu)
    except PduFormatError:
        pass
    assert isinstance(pdus[0], LoginRequest)
    assert pdus[0].to_bytes() == valid
    assert all(isinstance(pdu, Pdu) and len(pdu.data) <= 8192 for pdu in pdus)


@settings(deadline=None)
@given(st.lists(st.dictionaries(st.sampled_from(SECURITY_KEYS[1:]), words, max_size=5), max_size=4))
def test_chap_is_never_passed_by_chance(exchanges: list[dict[str, str]]) -> None:
    chap = ChapTarget(lambda name: CHAP)
    try:
        for keys in exchanges:
            chap.receive(keys)
    except ChapError:
        pass
    assert not chap.done
