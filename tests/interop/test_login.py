"""open-iscsi logs in with CHAP of every algorithm, one way and mutual, and with digests; a wrong secret is refused."""

from pathlib import Path

import pytest

from tests.interop import guest
from tests.interop.guest import Step
from tests.support import packages
from tests.support.appliance import GUEST_SEES_HOST_AS, Appliance, Disk

pytestmark = pytest.mark.guest
ACCOUNT = """
[[chap.accounts]]
user = "backup"
secret = "initiator-secret"
mutual_user = "tapebay"
mutual_secret = "targets-own-secret"
"""
ALGORITHMS = ("MD5", "SHA1", "SHA256", "SHA3-256")
LOGIN_AUTHENTICATION_FAILED = 24
TARGET_NOT_BELIEVED = 19  # iscsid: "non-retryable login failure"
WRITE_AND_READ = (
    "dd if=/tmp/data of=$DISK bs=1M oflag=direct 2>/dev/null && blockdev --flushbufs $DISK"
    " && dd if=$DISK bs=1M count=4 iflag=direct 2>/dev/null | cmp - /tmp/data"
)


def node(header_digest: str = "None", data_digest: str = "None", algorithms: str = "MD5") -> str:
    return (
        f"setting 'node.conn[0].iscsi.HeaderDigest' {header_digest}"
        f" && setting 'node.conn[0].iscsi.DataDigest' {data_digest}"
        f" && setting node.session.auth.chap_algs {algorithms}"
    )


def test_chap_and_digests(tmp_path: Path) -> None:
    packages.require(*guest.PACKAGES)
    one_way = "setting node.session.auth.username_in '' && setting node.session.auth.password_in ''"
    mutual = "setting node.session.auth.username_in tapebay && setting node.session.auth.password_in targets-own-secret"
    details = "iscsiadm -m session -P 2 | grep -E 'Digest|username|CHAP' | sort; "
    steps = [
        Step("start iscsid", "start_iscsid && head -c 4M /dev/urandom >/tmp/data"),
        Step("discovery", "discover"),
        Step("without CHAP", "log_in 2", status=LOGIN_AUTHENTICATION_FAILED),
        Step("names", "setting node.session.auth.authmethod CHAP && setting node.session.auth.username backup"),
        Step("wrong secret", "setting node.session.auth.password wrong-secret-0"),
        Step("with the wrong secret", "log_in 2", status=LOGIN_AUTHENTICATION_FAILED),
        Step("right secret", "setting node.session.auth.password initiator-secret"),
    ]
    for number, algorithm in enumerate(ALGORITHMS):
        header = "CRC32C" if number & 1 else "None"
        data = "CRC32C" if number & 2 else "None"
        steps += [
            Step(f"set {algorithm}", f"{node(header, data, algorithm)} && {mutual if number % 2 else one_way}"),
            Step(f"login {algorithm}", "log_in 2"),
            Step(f"details {algorithm}", details),
            Step(f"data {algorithm}", WRITE_AND_READ),
            Step(f"logout {algorithm}", "log_out"),
        ]
    steps += [
        Step("wrong target", "setting node.session.auth.password_in not-its-secret-"),
        Step("target not believed", "log_in 2", status=TARGET_NOT_BELIEVED),
    ]
    disks = [Disk("disk", "16 MiB")]
    options = {"drives": 0, "cartridges": 0, "advertise": GUEST_SEES_HOST_AS, "more": ACCOUNT}
    with Appliance(tmp_path, disks=disks, **options) as appliance:  # type: ignore[arg-type]
        done = guest.run(steps, portal=f"{GUEST_SEES_HOST_AS}:{appliance.port}", target=appliance.target_name)
    # That is what it says of a login that was refused (ISCSI_ERR_TCP_CONN_CLOSE).
    done.require_quiet_kernel(allowed=r"detected conn error \(1020\)")
    for number, algorithm in enumerate(ALGORITHMS):
        said = done[f"details {algorithm}"]
        assert f"HeaderDigest: {'CRC32C' if number & 1 else 'None'}" in said
        assert f"DataDigest: {'CRC32C' if number & 2 else 'None'}" in said
    assert not appliance.problems(), appliance.log_text()
