"""The API on TCP in a process of its own: HTTP, TLS and JSON of any number of clients take none of the daemon's time
between an initiator and its data. The daemon listens, hands the socket over and answers through a channel; a process
that ends is started anew, and so is the thread that answers it.
"""

import json
import socket
import subprocess
import threading
from typing import Final

import structlog

from appliance.control.tcp import listening, url_of
from appliance.lasting_thread import LastingThread, Stopping
from appliance.own_program import own_command, own_environment
from appliance.settings.certificate import tls_context
from appliance.settings.sections import ApiSettings, LoggingSettings
from appliance.web.bridge import Bridge
from appliance.web.channel import Channel
from appliance.web.service import Service

log = structlog.get_logger(__name__)

STOP_SECONDS: Final = 12.0
PAUSE_SECONDS: Final = 1.0  # before it is started anew


class ApiProcess:
    """start() once, stop() once."""

    def __init__(self, settings: ApiSettings, logging: LoggingSettings, service: Service) -> None:
        """Raises CertificateError."""
        if settings.certificate is not None and settings.key is not None:
            tls_context(settings.certificate, settings.key)  # what is wrong is said here, not by a process that ends
        self._settings = settings
        self._logging = logging
        self._service = service
        self._listener: socket.socket | None = None
        self._stopping = threading.Event()
        self._lock = threading.Lock()  # over these two
        self._bridge: Bridge | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._channel: Channel | None = None
        self._thread = LastingThread("api", self._let_go, self._serve)
        service.watch(lambda: self._push("events"))
        service.watch_tokens(lambda: self._push("tokens"))

    def start(self) -> str:
        """Where it listens. Raises OSError, RuntimeError (no thread can be had)."""
        self._listener = listening(self._settings.listen)
        self._thread.start()
        return url_of(self._settings, self._listener)

    def stop(self) -> None:
        """What is being answered gets a while to end, then it is cut off."""
        self._stopping.set()
        with self._lock:
            process, channel = self._process, self._channel
        if process is not None:
            process.terminate()
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
        if channel is not None:
            channel.close()
        self._thread.stop()
        if self._listener is not None:
            self._listener.close()

    def _push(self, what: str) -> None:
        if (bridge := self._bridge) is not None:
            bridge.push(what)

    def _let_go(self) -> None:
        """Of a process that was started by a thread which is no more."""
        with self._lock:
            process, channel = self._process, self._channel
        if channel is not None:
            channel.close()
        if process is not None:
            process.kill()
            process.wait()

    def _serve(self, _stopping: Stopping) -> float:
        if not self._stopping.is_set():
            try:
                self._serve_once()
            except OSError as error:
                log.error("the API's process cannot be started", reason=str(error))
        if not self._stopping.wait(PAUSE_SECONDS):
            log.error("the API's process has ended; it is started anew")
        return 0.0

    def _serve_once(self) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            process = self._spawn(theirs)
        channel = Channel(ours)
        bridge = Bridge(self._service, channel)
        with self._lock:
            self._process, self._channel, self._bridge = process, channel, bridge
        if self._stopping.is_set():
            process.terminate()
        bridge.run()
        channel.close()
        process.wait()

    def _spawn(self, theirs: socket.socket) -> "subprocess.Popen[bytes]":
        assert self._listener is not None
        descriptors = self._listener.fileno(), theirs.fileno()
        told = {
            "api": self._settings.model_dump(mode="json"),
            "logging": self._logging.model_dump(mode="json"),
            "listener": descriptors[0],
            "channel": descriptors[1],
        }
        command = own_command("appliance.api_front", json.dumps(told))
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, pass_fds=descriptors, env=own_environment())
