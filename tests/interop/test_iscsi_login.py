"""The Linux initiator logs in: CHAP of every algorithm, discovery with CHAP, digests, keep-alive, and resets."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

import pytest
from structlog.testing import capture_logs

from scsi_targets.iscsi.directory import ChapCredentials, Portal
from scsi_targets.iscsi.limits import Limits
from tests.interop import guest
from tests.interop.guest import Step
from tests.support import packages
from tests.support.ports import free_port
from tests.support.waiting import eventually
from tests.unit.iscsi.dummy import Served, serving
from tests.unit.iscsi.support import TARGET

pytestmark = pytest.mark.guest

CREDENTIALS = ChapCredentials("server", "in-secret-1234", "library", "out-secret-5678")
PASSWORDS = {
    "authmethod": "CHAP",
    "username": "server",
    "password": "in-secret-1234",
    "username_in": "library",
    "password_in": "out-secret-5678",
}
ALGORITHMS = {"MD5": "MD5", "SHA1": "SHA-1", "SHA256": "SHA-256", "SHA3-256": "SHA3-256"}  # iscsid's names and ours


KEEP_ALIVE_SECONDS = 3  # for a guest that answers late


@pytest.fixture
def served() -> Iterator[Served]:
    packages.require(*guest.PACKAGES)
    port = free_port()
    portal = Portal("127.0.0.1", port, 1, f"{guest.HOST_ADDRESS}:{port}")
    with serving(Limits(keep_alive_seconds=KEEP_ALIVE_SECONDS), [portal]) as running:
        yield running


def boot(served: Served, *steps: Step, allowed: str | None = None) -> tuple[guest.GuestRun, list[dict[str, object]]]:
    """What the guest said, and what the server logged."""
    with capture_logs() as lines:
        run = guest.run(steps, portal=f"{guest.HOST_ADDRESS}:{served.address[1]}", target=TARGET)
        all_are_over(lines)
    run.require_quiet_kernel(allowed=allowed)
    return run, [dict(line) for line in lines]


def all_are_over(lines: Sequence[Mapping[str, object]]) -> None:
    """Each session's thread has said how it ended."""
    events = lambda: Counter(line["event"] for line in lines)  # noqa: E731
    eventually(lambda: events()["login"] == events()["logout"] + events()["discovery ended"])


def settings(prefix: str, values: dict[str, str]) -> str:
    return "\n".join(f"echo '{prefix}.{key} = {value}' >>/etc/iscsi/iscsid.conf" for key, value in values.items())


def test_chap_of_every_algorithm_and_every_digest(served: Served) -> None:
    served.directory.chap = served.directory.discovery_chap = CREDENTIALS
    steps = [
        Step("discovery password", settings("discovery.sendtargets.auth", PASSWORDS)),
        Step("session password", settings("node.session.auth", PASSWORDS)),
        Step("iscsid", "start_iscsid"),
        Step("discover", "discover"),
    ]
    digests = ["None", "CRC32C", "None,CRC32C", "CRC32C,None"]
    for algorithm, digest in zip(ALGORITHMS, digests, strict=True):
        steps += [
            Step(f"set {algorithm}", f"setting node.session.auth.chap_algs {algorithm}"),
            Step(f"header {digest}", f"setting 'node.conn[0].iscsi.HeaderDigest' {digest}"),
            Step(f"log in {algorithm}", "log_in 2 && log_out"),
        ]
    steps += [
        Step("a wrong password", "setting node.session.auth.password in-secret-9999"),
        Step("refused", "iscsiadm -m node -T $TARGET -p $PORTAL --login", status=24),
    ]
    run, lines = boot(served, *steps, allowed=r"connection5:0: detected conn error")  # the refused one
    assert run["discover"].split() == [f"{guest.HOST_ADDRESS}:{served.address[1]},1", TARGET]
    logins = [line for line in lines if line["event"] == "login"]
    assert [line["authentication"] for line in logins[1:]] == [f"mutual CHAP {name}" for name in ALGORITHMS.values()]
    assert str(logins[0]["authentication"]).startswith("mutual CHAP ")
    assert [line["header_digest"] for line in logins[1:]] == [False, True, False, True]
    assert [line["event"] for line in lines].count("logout") == 4
    assert [line["status"] for line in lines if line["event"] == "login refused"] == ["0201h"]


def test_an_idle_session_is_asked_and_stays(served: Served) -> None:
    steps = [
        Step("iscsid", "start_iscsid"),
        Step("discover", "discover"),
        Step("log in", "log_in 2"),
        Step("idle", f"sleep {3 * KEEP_ALIVE_SECONDS}"),  # what passes is the subject here
        Step("alive", "sg_turs /dev/sg0; sg_turs /dev/sg0"),
        Step("log out", "log_out"),
    ]
    _, lines = boot(served, *steps)
    assert sorted(str(line["event"]) for line in lines) == ["discovery ended", "login", "login", "logout"]


def test_resets_asked_for_by_the_kernel(served: Served) -> None:
    packages.require("sg3-utils")
    steps = [
        Step("iscsid", "start_iscsid"),
        Step("discover", "discover"),
        Step("log in", "log_in 2"),
        Step("unit reset", "sg_reset --device /dev/sg0"),
        Step("told of it", "sg_turs /dev/sg0", status=6),
        Step("target reset", "sg_reset --target /dev/sg1"),
        Step("log out", "log_out"),
    ]
    with capture_logs() as lines:
        guest.run(steps, portal=f"{guest.HOST_ADDRESS}:{served.address[1]}", target=TARGET)
        all_are_over(lines)
    assert sorted(line["event"] for line in lines) == ["discovery ended", "login", "login", "logout"], lines
