"""The daemon: from tapebay.toml to a served library, until a signal or `tapebay stop`."""

import gc
import os
import resource
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

import structlog

from appliance import logs
from appliance.api_process import ApiProcess
from appliance.control import client as control
from appliance.control.server import ControlServer
from appliance.failures import Failure, OperatorError
from appliance.library.library import Library
from appliance.library.lock import LibraryLock
from appliance.notify import notify
from appliance.operations.verb import OnLibrary
from appliance.progress import Progress
from appliance.settings import config_file
from appliance.settings.advice import advice_on
from appliance.settings.certificate import CertificateError
from appliance.settings.settings import Settings
from appliance.web.app import app_of
from appliance.web.in_process import InProcess
from appliance.web.service import Service

log = structlog.get_logger(__name__)

STOP_SECONDS = 60.0
MANY_DESCRIPTORS = 65536
SWITCH_SECONDS = 0.001  # how long a thread between an initiator and its data waits for one that computes
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)  # SIGHUP: the terminal it was started from is gone


def serve(path: Path, *, apply: bool = False) -> None:
    """Serve the library of `path` until SIGTERM, SIGINT or SIGHUP.

    apply: first carry out what changed in tapebay.toml since it was last applied; else it is only said. Raises
    ConfigError, OperatorError, OSError at start-up.
    """
    settings = config_file.with_advertised_address(config_file.load(path))
    logs.configure(settings.logging)
    # A core dump would put the keys of encrypted cartridges on a disk.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _allow_many_descriptors()
    sys.setswitchinterval(SWITCH_SECONDS)
    # Blocked before any thread starts, so that the signal waits for sigwait() below and no thread is interrupted.
    under_nohup = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    stopping = tuple(number for number in _SIGNALS if number != signal.SIGHUP or not under_nohup)
    signal.pthread_sigmask(signal.SIG_BLOCK, stopping)
    library = Library.open(settings, apply=apply)
    try:
        _serve(path, library, stopping)
    finally:
        library.close()


def _serve(path: Path, library: Library, stopping: tuple[signal.Signals, ...]) -> None:
    def make_context(progress: Progress) -> OnLibrary:
        return OnLibrary(library.settings, path, library.files, library, progress=progress)

    socket_path = library.settings.library.control_socket
    ending = threading.Event()
    service = Service(make_context, ending, library.files)
    control_server = ControlServer(socket_path, lambda: settled_app(service, ending), ending)
    api = _api(library.settings, service)
    bound = library.start()
    control_server.start()
    try:
        at = _start(api)
        notify("READY=1")
        iqns = [target.iqn for target in library.settings.targets]
        _say_what_an_operator_should_know(library)
        log.info("ready", portals=bound, targets=iqns, control=str(socket_path), pid=os.getpid(), **at)
        received = signal.sigwait(stopping)
        _let_a_second_signal_kill(stopping)
        log.info("stopping", signal=signal.Signals(received).name)
        notify("STOPPING=1")
    finally:
        if api is not None:
            api.stop()
        control_server.stop()
    library.stop()
    log.info("stopped")


def settled_app(service: Service, ending: threading.Event) -> Any:
    """The API of this process: the last large thing that is made at the start. What there is now stays to the end, so
    full garbage collections, for which every session waits, need not walk through it: they take 40 ms otherwise."""
    app = app_of(InProcess(service), ending)
    gc.freeze()
    return app


def _api(settings: Settings, service: Service) -> ApiProcess | None:
    """The API on TCP, where it is asked for. Raises OperatorError."""
    if settings.api is None:
        return None
    try:
        return ApiProcess(settings.api, settings.logging, service)
    except CertificateError as error:
        raise OperatorError(Failure.CONFIGURATION, f"api: {error}") from None


def _start(api: ApiProcess | None) -> dict[str, str]:
    """Where it listens, for the log. Raises OperatorError."""
    if api is None:
        return {}
    try:
        return {"api": api.start()}
    except OSError as error:
        raise OperatorError(Failure.REFUSED, f"the API cannot listen: {error.strerror or error}") from error


def _say_what_an_operator_should_know(library: Library) -> None:
    for line in advice_on(library.settings):
        log.warning(line)
    try:
        found = library.files.contents.differences()
    except OperatorError as error:  # a secret that cannot be had now; the library has what was applied before
        log.warning("tapebay.toml cannot be compared with what the library contains", reason=str(error))
        return
    if found.changes or found.removals:
        log.warning(
            "tapebay.toml has changed and is not applied; see: tapebay plan, tapebay apply, tapebay serve --apply",
            changes=found.changes,
            removals=found.removals,
        )


def _allow_many_descriptors() -> None:
    """Each session takes two; the usual soft limit of 1024 is for programs that use select()."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MANY_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, MANY_DESCRIPTORS)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _let_a_second_signal_kill(stopping: tuple[signal.Signals, ...]) -> None:
    for number in stopping:
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, stopping)


def stop(settings: Settings) -> None:
    """Ask the daemon to stop and wait until it has. Raises OperatorError."""
    control.call(settings.library.control_socket, "shutdown")
    deadline = time.monotonic() + STOP_SECONDS
    while True:
        try:
            LibraryLock(lock_path(settings)).release()
            return
        except OperatorError as error:
            if time.monotonic() > deadline:
                message = f"the daemon did not stop within {STOP_SECONDS:.0f} seconds: {error}"
                raise OperatorError(Failure.REFUSED, message) from None
        time.sleep(0.05)


def lock_path(settings: Settings) -> Path:
    return settings.library.state / "lock"
