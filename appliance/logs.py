"""Logging: structlog, one JSON object a line in a container or a file, aligned and coloured on a terminal."""

import json
import logging
import os
import sys
import threading
from collections.abc import MutableMapping
from contextlib import suppress
from typing import Any, TextIO, cast

import structlog

from appliance.settings.sections import LoggingSettings
from scsi_targets.iscsi.log_lines import LogLines

# What one kind of line may take: so many at once, then so many a second. Initiators can cause most of them, by any
# number of commands, and must not fill the disk with them.
BURST_LINES = 500
LINES_PER_SECOND = 2.0


def configure_for_commands() -> None:
    """Only what an operator has to know, on standard error: standard output is the command's result."""
    configure(LoggingSettings(level="warning", format="console"))


def configure(settings: LoggingSettings) -> None:
    """Set structlog up for this process, on standard error: a daemon's standard output belongs to nobody."""
    level = getattr(logging, settings.level.upper())
    as_json = settings.format == "json" or (settings.format == "auto" and not sys.stderr.isatty())
    standard_error = _StandardError(as_json=as_json)
    structlog.configure(
        processors=[
            _Chain(
                _Bounded(),
                structlog.contextvars.merge_contextvars,
                structlog.processors.add_log_level,
                structlog.processors.TimeStamper(fmt="iso" if as_json else "%H:%M:%S", utc=as_json),
                *(_json() if as_json else [_console()]),
            )
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=lambda *_names: structlog.WriteLogger(cast(TextIO, standard_error)),
        # Not kept by whoever logged first: a process may be set up anew (a command within another program).
        cache_logger_on_first_use=False,
    )
    # What libraries say goes the same way: the event loop's troubles, the HTTP server's warnings.
    root = logging.getLogger()
    if not any(isinstance(handler, _OfLibraries) for handler in root.handlers):
        root.addHandler(_OfLibraries())


class _Chain:
    """The processors, one after another. What cannot be rendered becomes a line that says so: logging never raises."""

    def __init__(self, *processors: Any) -> None:
        self._processors = processors

    def __call__(self, logger: Any, method: str, event: MutableMapping[str, Any]) -> Any:
        name, value = event.get("event"), cast(Any, event)
        try:
            for process in self._processors:
                value = process(logger, method, value)
        except structlog.DropEvent:
            raise
        except Exception as error:  # noqa: BLE001 - whoever logs has something better to do than to fail
            return f"{method}: {name!r} (its fields could not be written: {type(error).__name__})"
        return value


class _Bounded:
    """Leaves out lines of a kind (an event) that come too often, and says at the next one how many."""

    def __init__(self) -> None:
        self._lines = LogLines(BURST_LINES, 1 / LINES_PER_SECOND)

    def __call__(self, _logger: Any, _method: str, event: MutableMapping[str, Any]) -> Any:
        more = self._lines.admit(str(event.get("event")))
        if more is None:
            raise structlog.DropEvent
        return {**event, **({"lines_left_out": more["left_out"]} if more else {})}


class _OfLibraries(logging.Handler):
    """The standard library's logging, as lines of ours."""

    def emit(self, record: logging.LogRecord) -> None:
        structlog.get_logger().log(
            record.levelno, record.getMessage(), logger=record.name, exc_info=record.exc_info or None
        )


class _StandardError:
    """Whatever is standard error when a line is written: a logger that is cached outlives a redirection.

    A line that cannot be written (the disk is full, the pipe is gone) is dropped and counted; the next one that can be
    written says how many were lost. structlog writes a line and its end in one piece and flushes after it."""

    def __init__(self, *, as_json: bool) -> None:
        self._as_json = as_json
        self._lock = threading.Lock()
        self._lost = 0
        self._torn = False  # the last line was written in part

    def write(self, text: str) -> int:
        with self._lock:
            try:
                self._write_all(text)
            except (OSError, ValueError):  # ValueError: standard error is closed
                self._lost += 1
        return len(text)

    def _write_all(self, text: str) -> None:
        if self._torn:
            self._put("\n")
            self._torn = False
        if self._lost:
            event = "lines of the log could not be written"
            lost = {"level": "warning", "event": event, "lost": self._lost}
            self._put(f"{json.dumps(lost) if self._as_json else f'{self._lost} {event}'}\n")
            self._lost = 0
        self._put(text)

    def _put(self, text: str) -> None:
        """Past every buffer, which would keep what could not be written and raise again at the next line."""
        descriptor = _descriptor_of(sys.stderr)
        if descriptor is None:
            sys.stderr.write(text)
            return
        rest = text.encode(errors="backslashreplace")
        while rest:
            written = os.write(descriptor, rest)
            rest = rest[written:]
            self._torn = bool(rest)

    def flush(self) -> None:
        with suppress(OSError, ValueError):  # only a redirected stream has a buffer, and it is its owner's to care for
            sys.stderr.flush()


def _descriptor_of(stream: TextIO) -> int | None:
    """The file behind a stream; None when it has none, as in a test that captures it."""
    try:
        return stream.fileno()
    except (OSError, ValueError, AttributeError):
        return None


def _console() -> structlog.dev.ConsoleRenderer:
    """Tracebacks without local variables, which structlog would show: they may be keys and blocks of tapes."""
    return structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback)


def _json() -> list[Any]:
    return [
        structlog.processors.format_exc_info,
        _beginning_first,
        structlog.processors.JSONRenderer(default=str),
    ]


def _beginning_first(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    return {**{key: event[key] for key in ("timestamp", "level", "event")}, **event}
