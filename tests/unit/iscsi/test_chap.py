"""CHAP against proofs made here with hashlib alone, one way and mutual, and every way to fail."""

import base64
import hashlib

import pytest

from scsi_targets.iscsi.chap import ChapError, ChapTarget, decode_binary, encode_binary
from scsi_targets.iscsi.directory import ChapCredentials

HASHES = {"5": hashlib.md5, "6": hashlib.sha1, "7": hashlib.sha256, "8": hashlib.sha3_256}
NAMES = {"5": "MD5", "6": "SHA-1", "7": "SHA-256", "8": "SHA3-256"}
CREDENTIALS = ChapCredentials("server", "in-secret-1234", "library", "out-secret-5678")


def proof(algorithm: str, identifier: int, secret: str, challenge: bytes) -> str:
    return "0x" + HASHES[algorithm](bytes([identifier]) + secret.encode() + challenge).hexdigest()


def challenged(offer: str = "5", credentials: ChapCredentials = CREDENTIALS) -> tuple[ChapTarget, int, bytes]:
    chap = ChapTarget(lambda name: credentials if name == credentials.username else None)
    answer = dict(chap.receive({"CHAP_A": offer}))
    assert set(answer) == {"CHAP_A", "CHAP_I", "CHAP_C"}
    return chap, int(answer["CHAP_I"]), bytes.fromhex(answer["CHAP_C"][2:])


@pytest.mark.parametrize("algorithm", HASHES)
def test_one_way(algorithm: str) -> None:
    chap, identifier, challenge = challenged(algorithm)
    assert len(challenge) == HASHES[algorithm]().digest_size
    assert not chap.done
    assert chap.receive({"CHAP_N": "server", "CHAP_R": proof(algorithm, identifier, "in-secret-1234", challenge)}) == []
    assert chap.done
    assert chap.description == f"CHAP {NAMES[algorithm]}"


@pytest.mark.parametrize("algorithm", HASHES)
def test_mutual(algorithm: str) -> None:
    chap, identifier, challenge = challenged(algorithm)
    answer = chap.receive(
        {
            "CHAP_N": "server",
            "CHAP_R": proof(algorithm, identifier, "in-secret-1234", challenge),
            "CHAP_I": "0xFE",
            "CHAP_C": "0b" + base64.b64encode(b"their challenge!").decode(),
        }
    )
    assert answer == [
        ("CHAP_N", "library"),
        ("CHAP_R", proof(algorithm, 0xFE, "out-secret-5678", b"their challenge!")),
    ]
    assert chap.done
    assert chap.description == f"mutual CHAP {NAMES[algorithm]}"


def test_rfc_1994_by_hand() -> None:
    # MD5 over 01h, "secret", "abcd": worked out with md5sum.
    account = ChapCredentials("u", "secret")
    chap = ChapTarget(lambda name: account, random_bytes=lambda n: b"\x01" if n == 1 else b"abcd")
    chap.receive({"CHAP_A": "5"})
    chap.receive({"CHAP_N": "u", "CHAP_R": "0x40c77652309e96497f83574bc8c92952"})
    assert chap.done


@pytest.mark.parametrize(
    ("offer", "chosen"), [("5", "5"), ("7,5", "7"), ("8,7,6,5", "8"), ("9,300,x,,-5,5", "5"), ("6,6", "6")]
)
def test_the_first_algorithm_in_common_is_taken(offer: str, chosen: str) -> None:
    answer = dict(ChapTarget(lambda name: CREDENTIALS).receive({"CHAP_A": offer}))
    assert answer["CHAP_A"] == chosen


@pytest.mark.parametrize("offer", ["", "4", "9", "²", "5;6", "05 ", "1" * 400])
def test_no_algorithm_in_common(offer: str) -> None:
    with pytest.raises(ChapError, match="no CHAP algorithm"):
        ChapTarget(lambda name: CREDENTIALS).receive({"CHAP_A": offer})


@pytest.mark.parametrize(
    "keys",
    [
        {"CHAP_N": "server", "CHAP_R": "0x" + "00" * 16},
        {"CHAP_N": "server", "CHAP_R": "0x00"},
        {"CHAP_N": "server", "CHAP_R": "0x"},
        {"CHAP_N": "server", "CHAP_R": "00" * 16},
        {"CHAP_N": "server", "CHAP_R": "0xabc"},
        {"CHAP_N": "server", "CHAP_R": "0xzz"},
        {"CHAP_N": "server", "CHAP_R": "0b!!!!"},
        {"CHAP_N": "server", "CHAP_R": "0bÄÖ=="},
        {"CHAP_N": "server", "CHAP_R": "0x" + "00" * 1025},
        {"CHAP_N": "server"},
        {"CHAP_R": "0x" + "00" * 16},
        {},
    ],
)
def test_wrong_proofs(keys: dict[str, str]) -> None:
    chap, _, _ = challenged()
    with pytest.raises(ChapError):
        chap.receive(keys)
    assert not chap.done


def test_a_right_proof_under_a_wrong_name() -> None:
    chap, identifier, challenge = challenged()
    with pytest.raises(ChapError, match="the user name or the response is wrong"):
        chap.receive({"CHAP_N": "Server", "CHAP_R": proof("5", identifier, "in-secret-1234", challenge)})


def test_our_own_challenge_sent_back_is_refused() -> None:
    chap, identifier, challenge = challenged()
    keys = {"CHAP_N": "server", "CHAP_R": proof("5", identifier, "in-secret-1234", challenge)}
    with pytest.raises(ChapError, match="our own challenge"):
        chap.receive(keys | {"CHAP_I": "1", "CHAP_C": encode_binary(challenge)})
    assert not chap.done


def test_mutual_is_refused_where_it_is_not_set_up() -> None:
    chap, identifier, challenge = challenged(credentials=ChapCredentials("server", "in-secret-1234"))
    keys = {"CHAP_N": "server", "CHAP_R": proof("5", identifier, "in-secret-1234", challenge)}
    with pytest.raises(ChapError, match="not set up"):
        chap.receive(keys | {"CHAP_I": "1", "CHAP_C": "0x01"})


@pytest.mark.parametrize("extra", [{"CHAP_I": "1"}, {"CHAP_C": "0x01"}, {"CHAP_I": "256", "CHAP_C": "0x01"},
                                   {"CHAP_I": "x", "CHAP_C": "0x01"}])  # fmt: skip
def test_half_a_mutual_request(extra: dict[str, str]) -> None:
    chap, identifier, challenge = challenged()
    keys = {"CHAP_N": "server", "CHAP_R": proof("5", identifier, "in-secret-1234", challenge)}
    with pytest.raises(ChapError):
        chap.receive(keys | extra)


def test_nothing_may_follow_the_end() -> None:
    chap, identifier, challenge = challenged()
    keys = {"CHAP_N": "server", "CHAP_R": proof("5", identifier, "in-secret-1234", challenge)}
    chap.receive(keys)
    with pytest.raises(ChapError, match="after the authentication was over"):
        chap.receive(keys)


def test_binary_values() -> None:
    assert decode_binary("0x00ff") == decode_binary("0X00FF") == decode_binary("0bAP8=") == b"\x00\xff"
    assert encode_binary(b"\x00\xff") == "0x00ff"


def test_secrets_do_not_show() -> None:
    shown = repr(CREDENTIALS) + str(CREDENTIALS)
    assert "in-secret-1234" not in shown
    assert "out-secret-5678" not in shown


def test_the_two_secrets_must_differ() -> None:
    with pytest.raises(ValueError, match="must differ"):
        ChapCredentials("a", "same", "b", "same")
    with pytest.raises(ValueError, match="both"):
        ChapCredentials("a", "same", "b", None)
    with pytest.raises(ValueError, match="empty"):
        ChapCredentials("a", "")
