"""CHAP, the target's side, sans-IO: one way and mutual (RFC 1994, RFC 7143 12.1.3; algorithms of IANA's registry)."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import secrets
from collections.abc import Callable, Mapping

from scsi_targets.iscsi.directory import ChapCredentials
from scsi_targets.iscsi.limits import CHAP_BINARY_BYTES
from scsi_targets.iscsi.states import ChapEvent, ChapState, chap_states
from scsi_targets.iscsi.text import Pair

# CHAP_A: 5 is MD5 of RFC 1994, 6 to 8 are RFC 7143's and IANA's "PPP Authentication Algorithms".
ALGORITHMS: Mapping[int, str] = {5: "md5", 6: "sha1", 7: "sha256", 8: "sha3_256"}
NAMES: Mapping[int, str] = {5: "MD5", 6: "SHA-1", 7: "SHA-256", 8: "SHA3-256"}

KEYS = frozenset({"CHAP_A", "CHAP_I", "CHAP_C", "CHAP_N", "CHAP_R"})


class ChapError(Exception):
    """The initiator did not prove who it is; str() is the reason for the log, and holds no secret."""


def response(algorithm: int, identifier: int, secret: str, challenge: bytes) -> bytes:
    """The proof of RFC 1994 4.1: the hash of identifier, secret and challenge."""
    message = bytes([identifier]) + secret.encode() + challenge
    return hashlib.new(ALGORITHMS[algorithm], message, usedforsecurity=False).digest()


def encode_binary(value: bytes) -> str:
    """A binary value as hexadecimal text (RFC 7143 6.1)."""
    return "0x" + value.hex()


def decode_binary(text: str) -> bytes:
    """A hexadecimal (0x) or base64 (0b) text value, 1 to 1024 bytes of it. Raises ChapError."""
    try:
        if text[:2] in ("0x", "0X"):
            value = binascii.unhexlify(text[2:])
        elif text[:2] in ("0b", "0B"):
            value = base64.b64decode(text[2:], validate=True)
        else:
            raise ChapError("a binary value starts with neither 0x nor 0b")
    except ValueError:
        raise ChapError("a binary value is not well formed") from None
    if not 1 <= len(value) <= CHAP_BINARY_BYTES:
        raise ChapError(f"a binary value has {len(value)} bytes, not 1 to {CHAP_BINARY_BYTES}")
    return value


class ChapTarget:
    """One authentication: CHAP_A comes in, the challenge goes out, CHAP_N and CHAP_R come in, and it is done."""

    def __init__(
        self,
        credentials_of: Callable[[str], ChapCredentials | None],
        random_bytes: Callable[[int], bytes] = secrets.token_bytes,
    ) -> None:
        self._credentials_of = credentials_of
        self._random_bytes = random_bytes
        self._states = chap_states()
        self._algorithm = 0
        self._identifier = 0
        self._challenge = b""
        self._mutual = False
        self._username = ""

    @property
    def username(self) -> str | None:
        """Whose secret was proved; None until it is."""
        return self._username if self.done else None

    @property
    def description(self) -> str:
        """How it was done, for the log and `status`: "CHAP MD5", "mutual CHAP SHA-256"."""
        return f"{'mutual ' if self._mutual else ''}CHAP {NAMES[self._algorithm]}"

    @property
    def done(self) -> bool:
        """Whether the initiator has proved who it is."""
        return self._states.state is ChapState.AUTHENTICATED

    def receive(self, keys: Mapping[str, str]) -> list[Pair]:
        """The answer to the initiator's CHAP keys of one exchange. Raises ChapError."""
        if not keys and self._states.state is ChapState.ALGORITHM_EXPECTED:
            return []  # the empty request that fetches our AuthMethod answer
        try:
            if self._states.state is ChapState.ALGORITHM_EXPECTED:
                return self._challenge_with(keys)
            if self._states.state is ChapState.RESPONSE_EXPECTED:
                return self._verify(keys)
        except KeyError as missing:
            raise ChapError(f"the key {missing.args[0]} is missing") from None
        raise ChapError("CHAP keys after the authentication was over")

    def _challenge_with(self, keys: Mapping[str, str]) -> list[Pair]:
        self._algorithm = _first_known(keys["CHAP_A"])
        self._identifier = self._random_bytes(1)[0]
        self._challenge = self._random_bytes(
            hashlib.new(ALGORITHMS[self._algorithm], usedforsecurity=False).digest_size
        )
        self._states.fire(ChapEvent.CHALLENGE_SENT)
        return [
            ("CHAP_A", str(self._algorithm)),
            ("CHAP_I", str(self._identifier)),
            ("CHAP_C", encode_binary(self._challenge)),
        ]

    def _verify(self, keys: Mapping[str, str]) -> list[Pair]:
        self._username = keys["CHAP_N"]
        credentials = self._credentials_of(self._username)
        # A name that nobody has costs the same proof, compared in constant time: neither a name nor a part of a proof
        # can be felt for.
        secret = credentials.secret if credentials is not None else secrets.token_hex(8)
        expected = response(self._algorithm, self._identifier, secret, self._challenge)
        right_proof = hmac.compare_digest(decode_binary(keys["CHAP_R"]), expected)
        if credentials is None or credentials.unknown or not right_proof:
            remark = f" ({credentials.remark})" if credentials is not None and credentials.remark else ""
            raise ChapError(f"the user name or the response is wrong{remark}")
        answers = self._prove(credentials, keys) if "CHAP_I" in keys or "CHAP_C" in keys else []
        self._states.fire(ChapEvent.RESPONSE_VERIFIED)
        return answers

    def _prove(self, credentials: ChapCredentials, keys: Mapping[str, str]) -> list[Pair]:
        """Mutual CHAP: answer the initiator's own challenge."""
        identifier, challenge = _identifier(keys["CHAP_I"]), decode_binary(keys["CHAP_C"])
        if credentials.mutual_username is None or credentials.mutual_secret is None:
            raise ChapError("the initiator asks for mutual CHAP, which is not set up for it")
        if hmac.compare_digest(challenge, self._challenge):
            raise ChapError("the initiator sent our own challenge back (RFC 7143 9.2.1)")
        self._mutual = True
        proof = response(self._algorithm, identifier, credentials.mutual_secret, challenge)
        return [("CHAP_N", credentials.mutual_username), ("CHAP_R", encode_binary(proof))]


def _first_known(offer: str) -> int:
    for word in offer.split(","):
        if word.isascii() and word.isdigit() and len(word) <= 3 and int(word) in ALGORITHMS:
            return int(word)
    raise ChapError("no CHAP algorithm in common")


def _identifier(text: str) -> int:
    try:
        identifier = int(text, 0)
    except ValueError:
        identifier = -1
    if not 0 <= identifier <= 255:
        raise ChapError("CHAP_I is no number of 0 to 255")
    return identifier
