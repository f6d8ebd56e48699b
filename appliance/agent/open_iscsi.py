"""This server's iSCSI initiator, open-iscsi: one iface and one node record for each grant.

open-iscsi keeps one CHAP name for a target, portal and iface, so a grant gets an iface of its own: one server can hold
several grants of the same target. Secrets go into the record's file and never onto a command line, which others may
read.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Self

from appliance.failures import Failure, OperatorError

PREFIX: Final = "tapebay-"  # of the names of ifaces
COMMAND_SECONDS: Final = 180.0  # iscsid tries a login again and again before it gives up
RECORDS: Final = (Path("/etc/iscsi/nodes"), Path("/var/lib/iscsi/nodes"))  # where iscsiadm was built to keep them
INITIATOR_NAME: Final = Path("/etc/iscsi/initiatorname.iscsi")
SESSIONS: Final = Path("/sys/class/iscsi_session")
_REQUEST: Final = re.compile(r"[0-9A-Za-z][0-9A-Za-z-]{0,63}")
_TARGET: Final = re.compile(r"(iqn|eui|naa)\.[0-9A-Za-z.:_-]{1,219}")
_PORTAL: Final = re.compile(r"[0-9A-Za-z.:_\[\]-]{1,255}(,[0-9]{1,5})?")
_CREDENTIALS: Final = ("user", "secret", "mutual_user", "mutual_secret")
_CREDENTIAL: Final = re.compile(r"[!-~]{1,255}")
# Exit statuses of iscsiadm (iscsiadm(8), EXIT STATUS).
_SESSION_EXISTS, _NO_RECORDS, _AUTHENTICATION_FAILED, _AUTHORIZATION_FAILED = 15, 21, 24, 27
_MEANING: Final = {
    4: "the portal cannot be reached",
    8: "the portal did not answer in time",
    20: "iscsid does not run; start it: systemctl start iscsid",
    _AUTHENTICATION_FAILED: "the library refused the key: it is not valid (any more); its log says why",
    _AUTHORIZATION_FAILED: "the library refused the key: the grant is over, or is used by another session",
}


@dataclass(frozen=True)
class Way:
    """One grant's way to its target. portal: HOST:PORT; group: its portal group tag. settings: of the node record."""

    target: str
    portal: str
    group: int
    iface: str
    settings: Mapping[str, str] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, request: str, grant: Mapping[str, Any], host: str) -> Self:
        """For a grant as the API tells it. host: of the API, which stands for a portal that listens everywhere. Raises
        OperatorError for what can be no grant: it goes into files and command lines of root's."""
        _refuse_odd(grant)
        portal, _, group = str(grant["portals"][0]).partition(",")
        address, _, port = portal.rpartition(":")
        if address in ("0.0.0.0", "[::]", "::"):
            portal = f"{host or '127.0.0.1'}:{port}"
        settings = {
            # How long commands wait for a lost connection. The next one to a tape fails after that anyhow (29/00).
            "node.session.timeo.replacement_timeout": "30",
            "node.startup": "manual",  # after a restart of this server the grant may be over
            "node.session.auth.authmethod": "CHAP",
            "node.session.auth.username": grant["user"],
            "node.session.auth.password": grant["secret"],
            "node.session.auth.username_in": grant["mutual_user"],
            "node.session.auth.password_in": grant["mutual_secret"],
        }
        return cls(grant["target"], portal, int(group or 1), cls.iface_of(request), settings)

    @classmethod
    def iface_of(cls, request: str) -> str:
        """The name of a grant's iface. Raises OperatorError for what can be no request."""
        if not _REQUEST.fullmatch(request):
            raise OperatorError(Failure.REFUSED, f"the library calls a request {request[:100]!r}, which is none")
        return f"{PREFIX}{request}"

    @property
    def _node(self) -> list[str]:
        return ["-m", "node", "-T", self.target, "-p", f"{self.portal},{self.group}", "-I", self.iface]

    # ---- what is done ------------------------------------------------------------------------------------------------

    def add(self) -> None:
        """Makes iface and node record. Raises OperatorError."""
        iscsiadm("-m", "iface", "-I", self.iface, "-o", "new", allowed=(_SESSION_EXISTS,))
        iscsiadm(*self._node, "-o", "new")
        self._write_settings()

    def log_in(self) -> None:
        """Raises OperatorError."""
        iscsiadm(*self._node, "--login", allowed=(_SESSION_EXISTS,))

    def log_out(self) -> None:
        """Also where there is no session. Raises OperatorError."""
        if self.session() is not None:
            iscsiadm(*self._node, "--logout", allowed=(_NO_RECORDS,))

    def remove(self) -> None:
        """Node record and iface, those that there are. Raises OperatorError."""
        if self.iface in _ifaces():  # the record goes before it, and iscsiadm deletes nothing of an iface that is gone
            iscsiadm(*self._node, "-o", "delete", allowed=(_NO_RECORDS,))
            iscsiadm("-m", "iface", "-I", self.iface, "-o", "delete", allowed=(_NO_RECORDS,))

    def session(self) -> Path | None:
        """The session's folder in sysfs."""
        return next((s for s in _sessions(self.iface) if _read(s / "targetname") == self.target), None)

    def _write_settings(self) -> None:
        """Into the record's own file, which only root reads. Raises OperatorError, OSError."""
        record = self._record()
        lines = [line for line in record.read_text().splitlines() if line.partition(" = ")[0] not in self.settings]
        at = next((number for number, line in enumerate(lines) if line.startswith("# END")), len(lines))
        lines[at:at] = [f"{name} = {value}" for name, value in self.settings.items()]
        descriptor = os.open(record, os.O_WRONLY | os.O_TRUNC | os.O_NOFOLLOW)
        with os.fdopen(descriptor, "w") as file:
            os.fchmod(file.fileno(), 0o600)
            file.write("\n".join(lines) + "\n")

    def _record(self) -> Path:
        host, _, port = self.portal.rpartition(":")
        name = f"{host.strip('[]')},{port},{self.group}"
        for folder in RECORDS:
            path = folder / self.target / name
            for record in (path / self.iface, path):
                if record.is_file():
                    return record
        places = " and ".join(str(folder) for folder in RECORDS)
        message = f"iscsiadm made a node record for {self.target}, and it is in neither {places}"
        raise OperatorError(Failure.REFUSED, message)


def _refuse_odd(grant: Mapping[str, Any]) -> None:
    """Raises OperatorError."""
    texts = {"target": _TARGET, "portals": _PORTAL, **dict.fromkeys(_CREDENTIALS, _CREDENTIAL)}
    for name, form in texts.items():
        value = grant[name][0] if name == "portals" and grant[name] else grant[name]
        if not isinstance(value, str) or not form.fullmatch(value):
            raise OperatorError(
                Failure.REFUSED, f"the library's grant has a {name} that can be none: {str(value)[:40]!r}"
            )


def sweep(known: Collection[str]) -> None:
    """Removes the ifaces and node records of grants that nobody here knows any more, as after a restart of the server.
    known: the requests that are mounted. Raises OperatorError."""
    for iface in _ifaces() - {Way.iface_of(request) for request in known}:
        if not any(_sessions(iface)):
            iscsiadm("-m", "node", "-I", iface, "-o", "delete", allowed=(_NO_RECORDS,))
            iscsiadm("-m", "iface", "-I", iface, "-o", "delete", allowed=(_NO_RECORDS,))


def _ifaces() -> set[str]:
    """Those that were made for grants. Raises OperatorError."""
    listed = iscsiadm("-m", "iface", allowed=(_NO_RECORDS,)).splitlines()
    return {line.partition(" ")[0] for line in listed if line.startswith(PREFIX)}


def _sessions(iface: str) -> Iterator[Path]:
    """The folders in sysfs of an iface's sessions."""
    return (session for session in SESSIONS.glob("session*") if _read(session / "ifacename") == iface)


def initiator_name() -> str:
    """This server's. Raises OperatorError."""
    try:
        found = re.search(r"^InitiatorName=(\S+)", INITIATOR_NAME.read_text(), re.MULTILINE)
    except OSError as error:
        message = f"{INITIATOR_NAME} cannot be read ({error.strerror}); install open-iscsi, and run this as root"
        raise OperatorError(Failure.REFUSED, message) from None
    if found is None:
        raise OperatorError(Failure.REFUSED, f"{INITIATOR_NAME} names no initiator: InitiatorName=iqn...")
    return found[1]


def iscsiadm(*arguments: str, allowed: Sequence[int] = ()) -> str:
    """What it prints. allowed: exit statuses that are no failure. Raises OperatorError."""
    try:
        done = subprocess.run(
            ["iscsiadm", *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=COMMAND_SECONDS,
        )
    except FileNotFoundError:
        message = (
            "iscsiadm is not installed; install open-iscsi (Debian, Ubuntu) or iscsi-initiator-utils (Fedora, RHEL)"
        )
        raise OperatorError(Failure.REFUSED, message) from None
    except PermissionError as error:
        raise OperatorError(Failure.REFUSED, f"iscsiadm cannot be run: {error.strerror}; run this as root") from None
    except subprocess.TimeoutExpired:
        message = f"iscsiadm {' '.join(arguments)} did not end in {COMMAND_SECONDS:.0f} seconds"
        raise OperatorError(Failure.REFUSED, message) from None
    if done.returncode and done.returncode not in allowed:
        raise OperatorError(Failure.REFUSED, _explained(arguments, done.returncode, done.stderr))
    return done.stdout


def _explained(arguments: Sequence[str], status: int, said: str) -> str:
    told = said.strip() or f"exit status {status}"
    meaning = _MEANING.get(status)
    if os.geteuid():
        meaning = "run this as root"
    return f"iscsiadm {' '.join(arguments)}: {told}" + (f" ({meaning})" if meaning else "")


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:  # the session has just ended
        return ""
