"""The process of the API: python -m appliance.api_front SETTINGS, which only the daemon starts.

It has the listening socket, and a channel to the daemon; it opens no file of the library. When the daemon is gone it
ends.
"""

import json
import os
import signal
import socket
import sys
import threading

import structlog

from appliance import logs
from appliance.control.tcp import ApiServer
from appliance.settings.sections import ApiSettings, LoggingSettings
from appliance.web.app import app_of
from appliance.web.channel import Channel
from appliance.web.remote import RemoteBackend

log = structlog.get_logger(__name__)

NICENESS = 5  # where processors are scarce, the data goes first


def main() -> None:
    """Serve until the daemon is gone, or SIGTERM."""
    told = json.loads(sys.argv[1])
    # The daemon blocks its signals, and it alone ends this process: Ctrl-C on a terminal reaches both.
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    stopping = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopping.set())
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGTERM, signal.SIGINT, signal.SIGHUP))
    os.nice(NICENESS)
    logs.configure(LoggingSettings.model_validate(told["logging"]))
    remote = RemoteBackend(Channel(socket.socket(fileno=told["channel"])))
    ending = threading.Event()
    app = app_of(remote, ending)
    server = ApiServer(ApiSettings.model_validate(told["api"]), app, ending, app.state.malformed)
    server.start_on(socket.socket(fileno=told["listener"]))

    def until_the_daemon_is_gone() -> None:
        remote.run()
        stopping.set()

    threading.Thread(target=until_the_daemon_is_gone, name="channel", daemon=True).start()
    while not stopping.wait(1.0):
        pass  # a wait without an end would not let the signal's handler run
    server.stop()


if __name__ == "__main__":
    main()
