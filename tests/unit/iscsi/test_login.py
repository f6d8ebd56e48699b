"""The login as an initiator meets it: stages, T and C bits, statuses, text in parts (RFC 7143 6.3, 11.12, 11.13)."""

import hashlib

import pytest

from scsi_targets.devices.unit.principal import Principal
from scsi_targets.iscsi.directory import ChapCredentials, NotFound, Removed, TargetMoved, Unavailable
from scsi_targets.iscsi.limits import Limits
from scsi_targets.iscsi.login import LoginProgress
from scsi_targets.iscsi.pdu import LoginResponse, LoginStatus, NopOut
from scsi_targets.iscsi.text import Pair, encode, parse
from tests.unit.iscsi.support import (
    DISCOVERY,
    FULL_FEATURE,
    INITIATOR,
    ISID,
    NAMES,
    OPERATIONAL,
    SECURITY,
    TARGET,
    Admission,
    Directory,
    Initiator,
    keys,
)

CHAP = ChapCredentials("server", "in-secret-1234", "library", "out-secret-5678")
NONE: list[Pair] = [("AuthMethod", "None")]


def status_of(initiator: Initiator, response: LoginResponse) -> LoginStatus:
    assert initiator.login.progress is LoginProgress.REFUSED
    assert initiator.login.result is None
    assert not initiator.admission.admitted
    return LoginStatus(response.status)


# ---- the ways in -------------------------------------------------------------------------------------------------


def test_straight_to_full_feature_phase() -> None:
    initiator = Initiator()
    response = initiator.send([*NAMES, ("HeaderDigest", "CRC32C,None"), ("X-a", "1")], nsg=FULL_FEATURE)
    assert response.status == LoginStatus.SUCCESS
    assert (response.transit, response.continue_, response.current_stage, response.next_stage) == (1, 0, 1, 3)
    assert parse(response.data) == [
        ("HeaderDigest", "CRC32C"),
        ("X-a", "NotUnderstood"),
        ("TargetPortalGroupTag", "7"),
        ("MaxRecvDataSegmentLength", "262144"),
    ]
    assert (response.isid, response.tsih, response.initiator_task_tag) == (ISID, 1, 5)
    assert (response.stat_sn, response.exp_cmd_sn, response.max_cmd_sn) == (40, 100, 100)
    result = initiator.login.result
    assert result is not None
    assert initiator.login.progress is LoginProgress.ACCEPTED
    assert (result.who.initiator_name, result.who.target_name, result.who.isid) == (
        INITIATOR, TARGET, ISID.to_bytes(6, "big"),
    )  # fmt: skip
    assert (result.connection_id, result.cmd_sn, result.stat_sn, result.tsih) == (3, 100, 41, 1)
    assert result.authentication == "None"
    assert result.parameters.header_digest
    assert not result.parameters.data_digest


def test_through_both_stages() -> None:
    initiator = Initiator()
    response = initiator.send([*NAMES, *NONE], csg=SECURITY, nsg=OPERATIONAL)
    assert parse(response.data) == [("TargetPortalGroupTag", "7"), ("AuthMethod", "None")]
    assert (response.transit, response.current_stage, response.next_stage, response.tsih) == (1, 0, 1, 0)
    response = initiator.send([("MaxBurstLength", "65536")])
    assert parse(response.data) == [("MaxBurstLength", "65536"), ("MaxRecvDataSegmentLength", "262144")]
    assert (response.transit, response.next_stage, response.tsih, response.stat_sn) == (0, 0, 0, 41)
    response = initiator.send([("ErrorRecoveryLevel", "1")], nsg=FULL_FEATURE)
    assert parse(response.data) == [("ErrorRecoveryLevel", "0")]
    assert (response.transit, response.next_stage, response.tsih, response.stat_sn) == (1, 3, 1, 42)


def test_from_security_straight_to_full_feature_phase_keeps_our_segment_limit_at_its_default() -> None:
    initiator = Initiator()
    response = initiator.send([*NAMES, *NONE], csg=SECURITY, nsg=FULL_FEATURE)
    assert (response.transit, response.next_stage, response.tsih) == (1, 3, 1)
    assert initiator.login.result is not None
    assert initiator.login.result.parameters.max_recv_data_segment_length == 8192


def test_security_stage_without_an_auth_method() -> None:
    initiator = Initiator()
    response = initiator.send(NAMES, csg=SECURITY, nsg=OPERATIONAL)
    assert (response.transit, response.status) == (1, 0)
    assert initiator.send(nsg=FULL_FEATURE).tsih == 1


def test_discovery_needs_no_target_and_gets_no_tag() -> None:
    initiator = Initiator()
    response = initiator.send(DISCOVERY, nsg=FULL_FEATURE)
    assert parse(response.data) == [("MaxRecvDataSegmentLength", "262144")]
    assert initiator.login.result is not None
    assert initiator.login.result.who.target_name is None
    assert initiator.login.result.view is None


def test_names_come_in_any_case() -> None:
    initiator = Initiator()
    initiator.send([("InitiatorName", INITIATOR.upper()), ("TargetName", TARGET.upper())], nsg=FULL_FEATURE)
    assert initiator.login.result is not None
    assert (initiator.login.result.who.initiator_name, initiator.login.result.who.target_name) == (INITIATOR, TARGET)


# ---- CHAP --------------------------------------------------------------------------------------------------------


def proof(secret: str, identifier: int, challenge: bytes) -> str:
    return "0x" + hashlib.sha256(bytes([identifier]) + secret.encode() + challenge).hexdigest()


def challenge_of(initiator: Initiator, names: list[Pair] = NAMES) -> tuple[int, bytes]:
    response = initiator.send([*names, ("AuthMethod", "CHAP,None")], csg=SECURITY, nsg=OPERATIONAL)
    assert keys(response)["AuthMethod"] == "CHAP"
    assert (response.transit, response.next_stage) == (0, 0)
    response = initiator.send([("CHAP_A", "7,5")], csg=SECURITY)
    answer = keys(response)
    assert answer["CHAP_A"] == "7"
    return int(answer["CHAP_I"]), bytes.fromhex(answer["CHAP_C"][2:])


def test_chap_one_way() -> None:
    initiator = Initiator(Directory(chap=CHAP))
    identifier, challenge = challenge_of(initiator)
    response = initiator.send(
        [("CHAP_N", "server"), ("CHAP_R", proof("in-secret-1234", identifier, challenge))],
        csg=SECURITY,
        nsg=OPERATIONAL,
    )
    assert (response.status, response.transit, response.data) == (0, 1, b"")
    initiator.send(nsg=FULL_FEATURE)
    assert initiator.login.result is not None
    assert initiator.login.result.authentication == "CHAP SHA-256"


def test_names_said_again() -> None:
    """libiscsi with a user name repeats them when the target answers AuthMethod=None; others may not replace them."""
    initiator = Initiator(Directory())
    response = initiator.send([*NAMES, ("AuthMethod", "CHAP,None")], csg=SECURITY, nsg=OPERATIONAL)
    assert keys(response)["AuthMethod"] == "None"
    response = initiator.send([*NAMES, ("HeaderDigest", "None")], csg=response.next_stage, nsg=FULL_FEATURE)
    assert (response.status, response.next_stage) == (0, FULL_FEATURE)
    for name in ("InitiatorName", "TargetName"):
        initiator = Initiator(Directory())
        initiator.send([*NAMES, ("AuthMethod", "None")], csg=SECURITY, nsg=OPERATIONAL)
        response = initiator.send([(name, "iqn.2026-01.org.example:other")], nsg=FULL_FEATURE)
        assert status_of(initiator, response) is LoginStatus.INITIATOR_ERROR


def test_chap_mutual_in_discovery() -> None:
    initiator = Initiator(Directory(discovery_chap=CHAP))
    identifier, challenge = challenge_of(initiator, DISCOVERY)
    response = initiator.send(
        [
            ("CHAP_N", "server"), ("CHAP_R", proof("in-secret-1234", identifier, challenge)),
            ("CHAP_I", "9"), ("CHAP_C", "0x" + b"prove it".hex()),
        ],
        csg=SECURITY,
        nsg=FULL_FEATURE,
    )  # fmt: skip
    assert parse(response.data) == [("CHAP_N", "library"), ("CHAP_R", proof("out-secret-5678", 9, b"prove it"))]
    assert (response.transit, response.next_stage, response.tsih) == (1, 3, 1)
    assert initiator.login.result is not None
    assert initiator.login.result.authentication == "mutual CHAP SHA-256"


def test_a_wrong_secret() -> None:
    initiator = Initiator(Directory(chap=CHAP))
    identifier, challenge = challenge_of(initiator)
    wrong = proof("in-secret-1235", identifier, challenge)
    response = initiator.send([("CHAP_N", "server"), ("CHAP_R", wrong)], csg=SECURITY, nsg=OPERATIONAL)
    assert status_of(initiator, response) is LoginStatus.AUTHENTICATION_FAILURE
    assert "secret" not in str(initiator.login.refusal)


@pytest.mark.parametrize("pairs", [[("AuthMethod", "None")], [("AuthMethod", "KRB5,SRP")], []])
def test_chap_cannot_be_declined(pairs: list[Pair]) -> None:
    initiator = Initiator(Directory(chap=CHAP))
    response = initiator.send([*NAMES, *pairs], csg=SECURITY, nsg=OPERATIONAL)
    assert status_of(initiator, response) is LoginStatus.AUTHENTICATION_FAILURE


@pytest.mark.parametrize("nsg", [None, FULL_FEATURE])
def test_chap_cannot_be_skipped(nsg: int | None) -> None:
    initiator = Initiator(Directory(chap=CHAP))
    response = initiator.send(NAMES, csg=OPERATIONAL, nsg=nsg)
    assert status_of(initiator, response) is LoginStatus.AUTHENTICATION_FAILURE


def test_chap_cannot_be_left_in_the_middle() -> None:
    initiator = Initiator(Directory(chap=CHAP))
    challenge_of(initiator)
    response = initiator.send(csg=OPERATIONAL, nsg=FULL_FEATURE)
    assert status_of(initiator, response) is LoginStatus.INITIATOR_ERROR


def test_the_identity_cannot_change_after_the_first_request() -> None:
    for later in ([("TargetName", TARGET)], [("SessionType", "Discovery")], [("InitiatorName", "iqn.x:y")]):
        initiator = Initiator(Directory(discovery_chap=None))
        first = DISCOVERY if later[0][0] == "TargetName" else NAMES
        initiator.send(first, csg=SECURITY, nsg=OPERATIONAL)
        response = initiator.send(later)
        assert status_of(initiator, response) is LoginStatus.INITIATOR_ERROR


def test_chap_only_initiator_and_a_target_without_credentials() -> None:
    initiator = Initiator()
    response = initiator.send([*NAMES, ("AuthMethod", "CHAP")], csg=SECURITY, nsg=OPERATIONAL)
    assert status_of(initiator, response) is LoginStatus.AUTHENTICATION_FAILURE


def test_authorisation_comes_after_authentication() -> None:
    initiator = Initiator(Directory(chap=CHAP, forbidden={INITIATOR}))
    identifier, challenge = challenge_of(initiator)
    pairs = [("CHAP_N", "server"), ("CHAP_R", proof("in-secret-1234", identifier, challenge))]
    response = initiator.send(pairs, csg=SECURITY, nsg=OPERATIONAL)
    assert status_of(initiator, response) is LoginStatus.AUTHORIZATION_FAILURE


def test_each_of_several_accounts_is_known_by_its_name() -> None:
    second = ChapCredentials("second", "secret-of-second")
    for user, secret in (("server", "in-secret-1234"), ("second", "secret-of-second")):
        initiator = Initiator(Directory(chap=CHAP, more_accounts=[second]))
        identifier, challenge = challenge_of(initiator)
        pairs = [("CHAP_N", user), ("CHAP_R", proof(secret, identifier, challenge))]
        assert initiator.send(pairs, csg=SECURITY, nsg=OPERATIONAL).status == 0
        initiator.send(nsg=FULL_FEATURE)
        assert initiator.login.result is not None
        assert initiator.login.result.who.account == user
        assert initiator.login.result.principal == Principal.account(user)


@pytest.mark.parametrize(("user", "secret"), [("server", "secret-of-second"), ("nobody", "in-secret-1234")])
def test_one_account_is_not_proved_with_the_secret_of_another(user: str, secret: str) -> None:
    initiator = Initiator(Directory(chap=CHAP, more_accounts=[ChapCredentials("second", "secret-of-second")]))
    identifier, challenge = challenge_of(initiator)
    pairs = [("CHAP_N", user), ("CHAP_R", proof(secret, identifier, challenge))]
    response = initiator.send(pairs, csg=SECURITY, nsg=OPERATIONAL)
    assert status_of(initiator, response) is LoginStatus.AUTHENTICATION_FAILURE


@pytest.mark.parametrize("tsih", [1, 2])  # Admission knows session 1
def test_whether_a_session_exists_is_told_after_the_proof(tsih: int) -> None:
    """Two TSIHs, one of them in use, are answered alike until the initiator has proved who it is."""
    initiator = Initiator(Directory(chap=CHAP))
    response = initiator.send([*NAMES, ("AuthMethod", "CHAP")], csg=SECURITY, tsih=tsih)
    assert (response.status, keys(response)["AuthMethod"]) == (0, "CHAP")
    response = initiator.send([("CHAP_A", "7")], csg=SECURITY, tsih=tsih)
    answer = keys(response)
    pairs = [("CHAP_N", "server"), ("CHAP_R", "0x00")]
    response = initiator.send(pairs, csg=SECURITY, nsg=OPERATIONAL, tsih=tsih)
    assert answer["CHAP_A"] == "7"
    assert status_of(initiator, response) is LoginStatus.AUTHENTICATION_FAILURE


# ---- statuses ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (NotFound("no"), 0x0203),
        (Removed("gone"), 0x0204),
        (Unavailable("later"), 0x0301),
        (TargetMoved("10.0.0.9:3260"), 0x0101),
        (TargetMoved("10.0.0.9:3260", permanently=True), 0x0102),
    ],
)
def test_what_the_directory_says(error: Exception, status: int) -> None:
    initiator = Initiator(Directory(errors={TARGET: error}))
    response = initiator.send(NAMES, nsg=FULL_FEATURE)
    assert status_of(initiator, response) == status
    moved = [("TargetAddress", "10.0.0.9:3260")] if isinstance(error, TargetMoved) else []
    assert parse(response.data) == moved


def refused(status: int, pairs: list[Pair] | bytes = NAMES, initiator: Initiator | None = None, **fields: int) -> str:
    initiator = initiator or Initiator()
    response = initiator.send(pairs, **fields)
    assert status_of(initiator, response) == status
    assert (response.isid, response.initiator_task_tag) == (ISID, 5)
    return str(initiator.login.refusal)


def test_refusals() -> None:
    assert "no InitiatorName" in refused(0x0207, [("TargetName", TARGET)], nsg=FULL_FEATURE)
    assert "no InitiatorName" in refused(0x0207, [("InitiatorName", "a b"), ("TargetName", TARGET)])
    assert "no TargetName" in refused(0x0207, [("InitiatorName", INITIATOR)])
    assert "no such" not in refused(0x0203, [("InitiatorName", INITIATOR), ("TargetName", TARGET + "x")])
    assert "portal" in refused(0x0203, initiator=Initiator(Directory(portal_list=[])))
    assert "forbidden" not in refused(0x0202, initiator=Initiator(Directory(forbidden={INITIATOR})))
    assert "version 1" in refused(0x0205, version_min=1, version_max=1)
    assert "one connection" in refused(0x0206, tsih=1)
    assert "TSIH 2" in refused(0x020A, tsih=2)
    assert "session type" in refused(0x0209, [*NAMES, ("SessionType", "Other")])
    assert "too many" in refused(0x0302, initiator=Initiator(admission=Admission(full=True)), nsg=FULL_FEATURE)
    assert "T and C" in refused(0x0200, nsg=FULL_FEATURE, continue_=1)
    assert "does not follow" in refused(0x0200, csg=SECURITY, nsg=SECURITY)
    assert "does not follow" in refused(0x0200, csg=OPERATIONAL, nsg=OPERATIONAL)
    assert "does not follow" in refused(0x0200, csg=OPERATIONAL, nsg=SECURITY)
    assert "does not follow" in refused(0x0200, csg=SECURITY, nsg=2)
    assert "stage" in refused(0x0200, csg=2)
    assert "stage" in refused(0x0200, csg=FULL_FEATURE)
    assert "came twice" in refused(0x0200, [*NAMES, ("InitiatorName", INITIATOR)])
    assert "came twice" in refused(0x0200, [*NAMES, *NONE, *NONE], csg=SECURITY)
    assert "not allowed in this stage" in refused(0x0200, [*NAMES, ("HeaderDigest", "None")], csg=SECURITY)
    assert "security key" in refused(0x0200, [*NAMES, ("AuthMethod", "None")], csg=OPERATIONAL)
    assert "security key" in refused(0x0200, [*NAMES, ("CHAP_A", "5")], csg=OPERATIONAL)
    assert "out of order" in refused(0x0200, [*NAMES, ("CHAP_A", "5")], csg=SECURITY)
    assert "223 bytes" in refused(0x0200, [("InitiatorName", "i" * 224), ("TargetName", TARGET)])
    assert "UTF-8" in refused(0x0200, b"InitiatorName=\xff\0")
    assert "NUL" in refused(0x0200, b"InitiatorName=x")
    assert "1024 keys" in refused(0x0200, [(f"X-{i}", "1") for i in range(2000)])


@pytest.mark.parametrize("field", ["initiator_task_tag", "isid", "tsih", "connection_id"])
def test_what_must_stay_the_same(field: str) -> None:
    initiator = Initiator()
    initiator.send(NAMES)
    response = initiator.send(**{field: 77})
    assert status_of(initiator, response) is LoginStatus.INITIATOR_ERROR
    assert f"{field} changed" in str(initiator.login.refusal)


def test_another_pdu_in_the_middle() -> None:
    initiator = Initiator()
    initiator.send(NAMES)
    (response,) = initiator.login.receive(NopOut.make(), 0.0)
    assert isinstance(response, LoginResponse)
    assert status_of(initiator, response) is LoginStatus.INVALID_DURING_LOGIN


def test_another_pdu_at_the_beginning_gets_no_answer() -> None:
    initiator = Initiator()
    assert initiator.login.receive(NopOut.make(), 0.0) == []
    assert initiator.login.progress is LoginProgress.REFUSED


def test_the_deadline() -> None:
    initiator = Initiator(limits=Limits(login_timeout_seconds=5))
    assert initiator.login.deadline == 5
    initiator.send(NAMES)
    initiator.now = 5.5
    assert status_of(initiator, initiator.send()) is LoginStatus.INITIATOR_ERROR


def test_too_many_requests() -> None:
    initiator = Initiator(limits=Limits(login_pdus=6))
    initiator.send(NAMES)
    for _ in range(5):
        initiator.send()
    assert status_of(initiator, initiator.send()) is LoginStatus.INITIATOR_ERROR


def test_a_login_that_is_over_takes_nothing_more() -> None:
    initiator = Initiator()
    initiator.send(NAMES, nsg=FULL_FEATURE)
    with pytest.raises(RuntimeError, match="over"):
        initiator.send()


# ---- text in parts -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", [3, 50])
def test_a_request_in_parts(step: int) -> None:
    initiator = Initiator()
    text = encode([*NAMES, ("MaxBurstLength", "8192")])
    for at in range(0, len(text) - step, step):
        response = initiator.send(text[at : at + step], continue_=1)
        assert (response.data, response.transit, response.continue_, response.status) == (b"", 0, 0, 0)
    rest = text[(len(text) - 1) // step * step :]
    response = initiator.send(rest, nsg=FULL_FEATURE)
    assert keys(response)["MaxBurstLength"] == "8192"
    assert initiator.login.progress is LoginProgress.ACCEPTED


def test_64_kib_of_text_and_an_answer_in_parts() -> None:
    initiator = Initiator()
    unknown = [(f"X-{i:03}-" + "x" * 50, "y" * 30) for i in range(700)]
    text = encode([*NAMES, *unknown])
    assert 60_000 < len(text) <= 65536
    parts = [text[i : i + 8192] for i in range(0, len(text), 8192)]
    for part in parts[:-1]:
        assert initiator.send(part, continue_=1).data == b""
    response = initiator.send(parts[-1], nsg=FULL_FEATURE)
    answer = bytearray(response.data)
    while response.continue_:
        assert (response.transit, len(response.data)) == (0, 8192)
        response = initiator.send(nsg=FULL_FEATURE)
        answer += response.data
    assert response.transit
    assert parse(bytes(answer)) == [
        *[(key, "NotUnderstood") for key, _ in unknown],
        ("TargetPortalGroupTag", "7"),
        ("MaxRecvDataSegmentLength", "262144"),
    ]


def test_text_beyond_the_limit() -> None:
    initiator = Initiator()
    for _ in range(8):
        assert initiator.send(b"x" * 8192, continue_=1).status == 0
    assert status_of(initiator, initiator.send(b"x", continue_=1)) is LoginStatus.INITIATOR_ERROR


def test_new_keys_before_the_answer_was_fetched() -> None:
    initiator = Initiator()
    unknown = [(f"X-{i:03}-" + "x" * 50, "1") for i in range(130)]
    assert initiator.send(encode([*NAMES, *unknown])).continue_
    assert status_of(initiator, initiator.send([("X-late", "1")])) is LoginStatus.INITIATOR_ERROR
