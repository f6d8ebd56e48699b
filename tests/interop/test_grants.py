"""Drives by key: `tapebay mount` on servers with stock open-iscsi, over the API on TCP."""

import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from appliance.failures import OperatorError
from tests.interop import guest
from tests.interop.guest import HOST_ADDRESS, GuestRun, Step
from tests.support import certificates, packages
from tests.support.appliance import Appliance
from tests.support.host_calls import HostCalls
from tests.support.killed_threads import VARIABLE, Threads
from tests.support.ports import free_port
from tests.support.relay import Relay
from tests.support.waiting import becomes, eventually

pytestmark = pytest.mark.guest

ROOT = Path(__file__).resolve().parents[2]
GATE = "iqn.2026-11.io.tapebay:gate"
ALPHA, BETA, GAMMA = (f"iqn.2026-01.org.example:{name}" for name in ("alpha", "beta", "gamma"))
KEY_SECONDS = 20
# The kernel says so of a connection that was cut, and of a session that was ended.
LOST_CONNECTION = r"connection\d+:0:|session recovery|rejecting I/O|st\d|Sense Key|Add. Sense|Current"
IN_A_MOVE = 4  # of the transactions from a request to its grant: warranted, placed, mount begun, moved, granted
BROKER_KILLED = {
    "the broker's thread is ended", "the broker is down; it is started anew", "the broker cannot be started",
}  # fmt: skip

TAPEBAY = r"""
tapebay() { "$PYTHON" -m appliance "$@"; }
mount_tape() { # a device, and its request in $REQUEST
	tapebay mount --json "$@" >/tmp/mount.json || return
	REQUEST=$(sed -n 's/.*"request": "\(.*\)".*/\1/p' /tmp/mount.json)
	sed -n 's/.*"drive[0-9]*": "\(.*\)".*/\1/p' /tmp/mount.json
}
no_session() { iscsiadm -m session >/dev/null 2>&1; [ $? = 21 ]; }
logged_in() { # so many sessions, all in order
	local states='iSCSI Connection State: LOGGED IN\|iSCSI Session State: LOGGED_IN'
	[ "$(iscsiadm -m session -P 1 | grep -c "$states")" = $((2 * $1)) ]
}
write_archives() { # as long as the host says so, how many to $ARCHIVES
	ARCHIVES=0
	while [ "$(host goes_on)" = yes ]; do tar -cf $DEVICE -C /tmp data && ((++ARCHIVES)) || return; done
	echo "$ARCHIVES archives" && ((ARCHIVES > 0))
}
archives_are_whole() {
	local number
	mt -f $DEVICE rewind || return
	for ((number = 1; number <= ARCHIVES; number++)); do tar -df $DEVICE -C /tmp && mt -f $DEVICE fsf 1 || return; done
}
nothing_is_left() { no_session && ! iscsiadm -m iface | grep tapebay- && ! iscsiadm -m node 2>/dev/null; }
write_numbers() { # blocks of 64 KiB until one is refused; how many were not, to /tmp/told
	"$PYTHON" -c '
import os, sys
tape, told = os.open(sys.argv[1], os.O_WRONLY), 0
with open("/tmp/numbers", "rb") as numbers:
    try:
        while block := numbers.read(65536):
            os.write(tape, block)
            told += 1
    except OSError as error:
        print(error, file=sys.stderr)
print(told)' "$1" >/tmp/told
}
back_is_what_was_written() { # in /tmp/back: what the writer was told of, and one block more at most
	local told=$(cat /tmp/told) back=$(stat -c %s /tmp/back)
	echo "the writer was told of $told blocks, $back bytes came back"
	[ $((back % 65536)) = 0 ] && [ $((back / 65536 - told)) -ge 0 ] && [ $((back / 65536 - told)) -le 1 ] &&
		cmp -n $back /tmp/numbers /tmp/back
}
write_held() { # an archive on each drive, whose tar waits for a second name after it has written its first file
	mkfifo /tmp/names.one /tmp/names.two
	tar -cf $ONE -C /tmp -T /tmp/names.one & HELD_ONE=$!
	tar -cf $TWO -C /tmp -T /tmp/names.two & HELD_TWO=$!
	exec {NAMES_ONE}>/tmp/names.one {NAMES_TWO}>/tmp/names.two
	echo data >&$NAMES_ONE && echo data >&$NAMES_TWO
}
waits_for_names() { grep -q 'State:.S' /proc/$1/status; } # one that waits for the tape is in state D
go_on() { # with the second name
	echo more >&$NAMES_ONE && echo more >&$NAMES_TWO
	exec {NAMES_ONE}>&- {NAMES_TWO}>&-
	wait $HELD_ONE && wait $HELD_TWO
}
log_in_with() { # the CHAP name and secret of another
	iscsiadm -m iface -I foreign -o new && iscsiadm -m node -o new -T $GATE -p $PORTAL,1 -I foreign || return
	local setting
	for setting in authmethod=CHAP username=$1 password=$2; do
		iscsiadm -m node -T $GATE -p $PORTAL,1 -I foreign -o update -n node.session.auth.${setting%%=*} -v ${setting#*=}
	done
	iscsiadm -m node -T $GATE -p $PORTAL,1 -I foreign --login
	local status=$?
	iscsiadm -m node -T $GATE -p $PORTAL,1 -I foreign -o delete && iscsiadm -m iface -I foreign -o delete
	return $status
}
"""


class Gated(Appliance):
    """With a gate, the API over TLS, and a relay on the way to its portal."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.stack = stack
        self.pair = certificates.make(folder, address=HOST_ADDRESS)
        self.api_port = free_port()
        more = f"""
[gate]
target = "{GATE}"
key_seconds = {KEY_SECONDS}
[api]
listen = "127.0.0.1:{self.api_port}"
certificate = "{self.pair.certificate}"
key = "{self.pair.key}"
"""
        self.threads = Threads(folder / "threads")
        self.expected = set[str]()  # of what is logged as an error
        environment = {VARIABLE: str(folder / "threads")}
        super().__init__(folder, drives=3, advertise="RELAY", more=more, environment=environment)
        self.token = self.call("token.create", name="servers", scope="operate")["token"]

    def _settings(self, *arguments: Any) -> str:
        self.relay = self.stack.enter_context(Relay(("127.0.0.1", self.port)))
        return super()._settings(*arguments).replace(f"RELAY:{self.port}", f"{HOST_ADDRESS}:{self.relay.port}")

    def request(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = self.call("request.show", request=name)
        return found

    def of(self, initiator: str) -> dict[str, Any]:
        """The grant of an initiator."""
        names = [row["request"] for row in self.call("request.list") if row["initiator"] == initiator]
        return self.request(names[-1])

    def run(
        self, steps: Sequence[Step], handlers: dict[str, Callable[..., object]], initiator: str = ALPHA
    ) -> GuestRun:
        portal = f"{HOST_ADDRESS}:{self.relay.port}"
        environment = {
            "PYTHON": sys.executable, "PYTHONPATH": str(ROOT), "GATE": GATE, "TAPEBAY_TOKEN": self.token,
            "TAPEBAY_API": f"https://{HOST_ADDRESS}:{self.api_port}",
            "TAPEBAY_CERTIFICATE_AUTHORITY": f"/mnt/share/{self.pair.authority.name}",
        }  # fmt: skip
        exports = "".join(f"export {name}='{value}'\n" for name, value in environment.items())
        with HostCalls({"cut": self.cut, "mend": self.relay.mend, **handlers}) as calls:
            return guest.run(
                [calls.step(), Step("tapebay", exports + TAPEBAY), Step("iscsid", "start_iscsid"), *steps],
                portal=portal,
                target=GATE,
                files=[self.pair.authority],
                initiator_name=initiator,
                timeout_seconds=200,
            )

    def cut(self) -> None:
        self.relay.cut()

    def count(self) -> None:
        """From here on written() counts."""
        self._counted = {row["id"]: row["bytes_in"] for row in self.call("session.list")}

    def written(self, length_bytes: str) -> None:
        """Waits until each session has sent so much since count()."""

        def sent() -> list[int]:
            now = {row["id"]: row["bytes_in"] for row in self.call("session.list")}
            return [now.get(name, 0) - before for name, before in self._counted.items()]

        eventually(lambda: min(sent()) > int(length_bytes))

    def cut_while_writing(self) -> None:
        """A write was done, and its answer does not arrive."""
        self.relay.lose_an_answer(after_bytes=4 << 20)
        self.relay.cut()

    def each_writes(self) -> None:
        """From now on, by some MiB."""
        before = {initiator: self._sent_by(initiator) for initiator in (ALPHA, BETA)}
        for initiator, sent in before.items():
            eventually(lambda initiator=initiator, sent=sent: self._sent_by(initiator) > sent + (4 << 20))  # type: ignore[misc]

    def _sent_by(self, initiator: str) -> int:
        return sum(row["bytes_in"] for row in self.call("session.list") if row["initiator"] == initiator)

    def wait_until_expired(self, request: str) -> None:
        """The key's first login is over, and so is the tolerance for clocks."""
        expires_at = self.request(request)["grant"]["expires_at_ms"] / 1000 + KEY_SECONDS / 10
        time.sleep(max(0.0, expires_at - time.time()) + 0.1)

    def ends(self, request: str) -> str:
        """How a request ended, once it has."""
        ended = ("done", "failed", "cancelled")
        return str(eventually(lambda: (state := self.request(request)["state"]) in ended and state))


@pytest.fixture
def library(tmp_path: Path) -> Iterator[Gated]:
    packages.require(*guest.PACKAGES, "mt-st")
    with ExitStack() as stack, Gated(tmp_path, stack) as gated:
        yield gated
        assert not [told for told in gated.problems() if told["event"] not in gated.expected], gated.log_text()


def test_two_servers_write_at_once_and_each_sees_its_own_drive_only(library: Gated) -> None:
    """The broker is killed while they write, in the middle of another one's mount and when it does nothing. They go on
    to the end; nobody else is granted anything meanwhile, and once it is there again all is as if nothing had been."""
    both, meeting, killed = threading.Barrier(2), threading.Barrier(3), threading.Event()

    def kill_the_broker() -> None:
        meet()
        library.expected |= BROKER_KILLED
        library.each_writes()
        library.threads.refuse("broker")
        library.threads.kill_in_a_transaction("broker", IN_A_MOVE)
        waits = library.call("request.create", initiator=GAMMA)["request"]
        eventually(lambda: not library.call("health")["broker"]["up"])
        library.each_writes()
        assert library.call("broker.show")["why"].startswith("the broker has failed (")
        for request in library.call("request.list"):
            with pytest.raises(OperatorError, match="nothing is granted or renewed; start it: tapebay broker start"):
                library.call("grant.renew", request=request["request"])
        with pytest.raises(OperatorError, match="nothing is granted or renewed"):
            library.call("request.create", initiator=GAMMA)
        assert library.request(waits)["state"] == "mounting"
        assert len(library.call("session.list")) == 2
        library.threads.allow("broker")
        assert library.call("broker.start")["up"]
        eventually(lambda: library.request(waits)["state"] == "granted")
        held = [unit for row in library.call("request.list") for unit in row["units"]]
        assert len({unit["device"] for unit in held}) == len({unit["cartridge"] for unit in held}) == len(held) == 3
        for request in library.call("request.list"):
            assert library.call("grant.renew", request=request["request"])
        library.call("grant.release", request=waits)
        assert library.ends(waits) == "done"
        library.threads.kill("broker")  # and nobody does anything about it
        library.each_writes()
        eventually(lambda: library.call("broker.show")["up"])
        library.each_writes()

    def direct() -> None:
        try:
            kill_the_broker()
        finally:
            killed.set()

    def foreign_key(initiator: str) -> str:
        grant = library.of(BETA if initiator == ALPHA else ALPHA)["grant"]
        return f"{grant['user']} {grant['secret']}"

    def meet() -> None:
        meeting.wait(150)

    def server(initiator: str) -> GuestRun:
        steps = [
            Step("data", "head -c 8M /dev/urandom >/tmp/data"),
            Step("mount", "DEVICE=$(mount_tape) && echo $DEVICE && [ -c $DEVICE ]"),
            Step("devices", "device_count 1 && lsscsi"),
            Step("both have a drive", "host both_meet"),
            Step(
                "foreign key", f"read -r user secret < <(host foreign_key {initiator}); log_in_with $user $secret", 24
            ),
            Step("no key", "iscsiadm -m discovery -t sendtargets -p $PORTAL | grep $GATE", 1),
            Step("the broker is killed while they write", "host meet && write_archives"),
            Step("compare", "archives_are_whole"),
            Step("still one", "device_count 1"),
            Step("release", "tapebay release $DEVICE && nothing_is_left"),
        ]
        handlers: dict[str, Callable[..., object]] = {
            "both_meet": lambda: both.wait(150),
            "meet": meet,
            "foreign_key": foreign_key,
            "goes_on": lambda: "no" if killed.is_set() else "yes",
        }
        return library.run(steps, handlers, initiator)

    with ThreadPoolExecutor(3) as pool:
        director = pool.submit(direct)
        for run in pool.map(server, (ALPHA, BETA)):
            assert run["devices"].count("tape") == 1
            run.require_quiet_kernel(allowed=r"connection2:0: detected conn error")  # the login that was refused
    director.result()
    requests = [row for row in library.call("request.list") if row["initiator"] != GAMMA]
    assert [library.ends(row["request"]) for row in requests] == ["done", "done"]
    assert len({unit["cartridge"] for row in requests for unit in row["units"]}) == 2
    assert len({unit["device"] for row in requests for unit in row["units"]}) == 2


def test_one_server_holds_two_drives_and_comes_back_after_its_keys_expired(library: Gated) -> None:
    """In the middle of an archive, whose tar learns nothing of it. A writer whose connection is cut in the middle of a
    write has an error, since nobody knows what became of that write, and what it was told of is there, once and in
    order."""
    handlers = {
        "expired": library.wait_until_expired,
        "broker": lambda what: library.call(f"broker.{what}")["up"],
        "cut_while_writing": library.cut_while_writing,
        "count": library.count,
        "written": library.written,
    }
    write = "tar -cf $ONE -C /tmp data & tar -cf $TWO -C /tmp data && wait $!"
    compare = "tar -df $ONE -C /tmp & tar -df $TWO -C /tmp && wait $!"
    steps = [
        Step("data", "head -c 8M /dev/urandom >/tmp/data; head -c 3M /dev/urandom >/tmp/more"),
        Step("one", "mount_tape >/tmp/one && read -r ONE </tmp/one && FIRST=$REQUEST && echo $ONE"),
        Step("two", "mount_tape --by-gate >/tmp/two && read -r TWO </tmp/two && SECOND=$REQUEST && echo $TWO"),
        Step("devices", "device_count 2 && logged_in 2 && [ $ONE != $TWO ] && lsscsi"),
        Step("write", write),
        Step("the broker is stopped while they write", f"{{ {write}; }} & host broker stop && wait $!"),
        Step("without the broker", f"{{ {write}; }} && host broker start"),
        Step("held", "host count && write_held && host written 8386560"),
        Step("both wait", "retry waits_for_names $HELD_ONE && retry waits_for_names $HELD_TWO"),
        Step("cut", "host expired $SECOND && host cut && host mend"),
        Step("comes back", "retry logged_in 2"),
        Step("write on", "go_on"),
        Step("rewind", "mt -f $ONE rewind && mt -f $TWO rewind"),
        *(Step(f"archive {number}", f"{compare} && mt -f $ONE fsf 1 && mt -f $TWO fsf 1") for number in range(1, 5)),
        Step("numbers", "seq 1 9000000 >/tmp/numbers"),
        Step(
            "cut in a write",
            "write_numbers $ONE 2>/tmp/error & WRITER=$!; host cut_while_writing && host mend; wait $WRITER; "
            "cat /tmp/told; grep 'Input/output error' /tmp/error",
        ),
        Step("comes back again", "retry logged_in 2"),
        Step("back", "mt -f $ONE rewind && mt -f $ONE fsf 4"),
        Step("up to where it ends, with a filemark or without", "dd if=$ONE of=/tmp/back bs=64k", None),
        Step("told", "back_is_what_was_written"),
        Step(
            "after it",
            "mt -f $ONE eod && mt -f $ONE weof && "
            "AT=$(mt -f $ONE tell | sed 's/[^0-9]//g') && tar -cf $ONE -C /tmp data",
        ),
        Step("archive 5", "mt -f $ONE seek $AT && tar -df $ONE -C /tmp"),
        Step("release", "tapebay release $FIRST && tapebay release $SECOND && nothing_is_left"),
    ]
    run = library.run(steps, handlers)
    run.require_quiet_kernel(allowed=LOST_CONNECTION)
    assert [library.ends(row["request"]) for row in library.call("request.list")] == ["done", "done"]


def test_a_writer_whose_grant_is_revoked_has_an_error_and_no_session(library: Gated) -> None:
    steps = [
        Step(
            "of an earlier life",
            "iscsiadm -m iface -I tapebay-0 -o new && iscsiadm -m node -o new -T $GATE -p $PORTAL,1 -I tapebay-0",
        ),
        Step("mount", "mount_tape >/tmp/one && read -r DEVICE </tmp/one && echo $REQUEST"),
        Step("swept", "iscsiadm -m iface | grep 'tapebay-0 '", 1),
        Step("write", "dd if=/dev/zero of=$DEVICE bs=64k 2>/dev/null & WRITER=$!"),
        Step("revoke", "host revoke $REQUEST; SECONDS=0; wait $WRITER; [ $? != 0 ] && [ $SECONDS -lt 60 ]"),
        Step("no session", "retry no_session && [ $SECONDS -lt 60 ]"),
        Step("kept out", "iscsiadm -m node -T $GATE -p $PORTAL,1 -I tapebay-$REQUEST --login", None),
        Step("release", "tapebay release $REQUEST; nothing_is_left"),
    ]
    library.run(steps, {"revoke": lambda request: library.call("grant.revoke", request=request)["state"]})
    (row,) = library.call("request.list")
    assert (library.ends(row["request"]), library.request(row["request"])["why"]) == ("failed", "revoked")
    becomes([], lambda: library.call("session.list"))
