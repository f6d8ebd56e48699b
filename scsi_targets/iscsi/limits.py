"""Every bound of the iSCSI server and every value it declares, in one place."""

from __future__ import annotations

from dataclasses import dataclass, fields

KIB = 1024
MIB = 1024 * KIB

# RFC 7143 13.12: until declared otherwise, and so all through the login, a data segment has at most this many bytes.
LOGIN_DATA_SEGMENT_BYTES = 8192
ISCSI_NAME_BYTES = 223  # RFC 7143 4.2.7.1
SIMPLE_VALUE_BYTES = 255  # RFC 7143 6.1
CHAP_BINARY_BYTES = 1024  # RFC 7143 12.1.3


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The defaults suit a library on a LAN; an operator may change any of them. ValueError: one is out of range."""

    # What is negotiated (RFC 7143 13). An offer above is answered with ours.
    max_recv_data_segment_length: int = 256 * KIB
    first_burst_length: int = 256 * KIB
    max_burst_length: int = 16 * MIB - KIB
    max_outstanding_r2t: int = 8
    immediate_data: bool = True
    initial_r2t: bool = False
    default_time2wait: int = 0
    # A connection that is lost takes its session and its tasks at once (ErrorRecoveryLevel 0): nothing is retained.
    default_time2retain: int = 0

    # One connection.
    command_window: int = 128
    buffer_budget_bytes: int = 64 * MIB
    send_timeout_seconds: float = 60.0
    data_timeout_seconds: float = 30.0
    keep_alive_seconds: float = 30.0

    # The login.
    login_timeout_seconds: float = 15.0
    login_pdus: int = 128
    text_bytes: int = 64 * KIB
    failed_logins: int = 10  # wrong proofs of an address, or of an account, at once
    failed_login_seconds: float = 10.0  # after which one of them is forgiven

    # The whole server.
    pool_bytes: int = 512 * MIB
    sessions: int = 1024
    sessions_per_initiator: int = 128
    discovery_sessions: int = 64
    discovery_seconds: float = 30.0
    pending_logins: int = 256
    reinstatement_seconds: float = 10.0
    logout_grace_seconds: float = 3.0

    def __post_init__(self) -> None:
        for field in fields(self):
            low, high = RANGES.get(field.name, (0, float("inf")))
            value = getattr(self, field.name)
            if not low <= value <= high:
                raise ValueError(f"{field.name} = {value} is not in {low}..{high}")


# The lower ends are the RFC's defaults where the target makes no offer of its own: what an initiator does not ask about
# stands at its default, and this end must be able to live with that.
RANGES: dict[str, tuple[float, float]] = {
    "max_recv_data_segment_length": (LOGIN_DATA_SEGMENT_BYTES, 2**24 - 1),
    "first_burst_length": (65536, 2**24 - 1),
    "max_burst_length": (262144, 2**24 - 1),
    "max_outstanding_r2t": (1, 64),
    "default_time2wait": (0, 2),
    "default_time2retain": (0, 20),
    "command_window": (1, 4096),
    "buffer_budget_bytes": (MIB, float("inf")),
    "send_timeout_seconds": (0.001, 3600),
    "data_timeout_seconds": (0.001, 3600),
    "keep_alive_seconds": (0.001, 3600),
    "login_timeout_seconds": (0.001, 3600),
    "login_pdus": (6, 65536),  # RFC 7143 6.2: allow at least six exchanges
    "failed_logins": (1, 1000),
    "failed_login_seconds": (0.001, 86400),
    "text_bytes": (LOGIN_DATA_SEGMENT_BYTES, MIB),  # RFC 7143 6.1
    "pool_bytes": (16 * MIB, float("inf")),
    "sessions": (1, 65535),  # a TSIH has 16 bits and is not 0
    "sessions_per_initiator": (1, 65535),
    "discovery_sessions": (1, 65535),
    "discovery_seconds": (0.001, 3600),
    "pending_logins": (1, 65536),
}
