"""The API on TCP in this process: a library's files and verbs of a test's own, or the library's."""

import contextlib
import select
import socket
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import httpx

from appliance.access.caller import Scope
from appliance.control.tcp import ApiServer
from appliance.library.files import LibraryFiles
from appliance.operations.verb import OnFiles, OnLibrary, Verb
from appliance.settings import config_file
from appliance.settings.sections import ApiSettings
from appliance.web.app import make_app
from vlib_images.library.database import events
from vlib_images.library.database.events import RecordedEvent

CONFIG = '[[portals]]\nlisten = "127.0.0.1:0"\n[[targets]]\niqn = "iqn.2026-11.io.tapebay:lib"\n'


@dataclass
class Api:
    """A server on TCP."""

    url: str
    files: LibraryFiles
    server: ApiServer

    def token(self, scope: Scope = Scope.READ, **options: Any) -> str:
        return self.files.tokens.create(f"t{len(self.files.tokens.all())}", scope, **options)[1]

    def http(self, token: str = "", **options: Any) -> httpx.Client:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        return httpx.Client(base_url=self.url, headers=headers, **{"timeout": 60, "trust_env": False, **options})

    def connect(self) -> socket.socket:
        url = httpx.URL(self.url)
        connection = socket.create_connection((url.host, cast(int, url.port)), timeout=60)
        connection.settimeout(60)
        return connection

    def told(self) -> list[RecordedEvent]:
        """The audit record, newest first."""
        with self.files.database.read() as connection:
            return events.latest(connection, 500)


@contextlib.contextmanager
def serving(folder: Path, verbs: Mapping[str, Verb], port: int = 0, **options: Any) -> Iterator[Api]:
    """A new library in `folder`, or the one that is there. options: of [api]."""
    (folder / "tapebay.toml").write_text(CONFIG)
    settings = config_file.load(folder / "tapebay.toml")
    files = LibraryFiles.open(settings) if (folder / "state").exists() else LibraryFiles.create(settings)
    stopping = threading.Event()

    def make_context(progress: Any) -> OnLibrary:
        return cast(OnLibrary, OnFiles(files.settings, folder, files, progress=progress))

    api = ApiSettings(listen=f"127.0.0.1:{port}", **options)
    app = make_app(make_context, stopping, verbs, files)
    server = ApiServer(api, app, stopping, app.state.malformed)
    try:
        yield Api(server.start(), files, server)
    finally:
        server.stop()
        files.close()


def gone(connection: socket.socket) -> bool:
    """Whether the server has hung up, within a minute."""
    poll = select.poll()
    poll.register(connection, select.POLLRDHUP)
    return bool(poll.poll(60_000))
