"""Logging: structlog, one JSON object a line in a container or a file, aligned and coloured on a terminal."""

import logging
import sys
from collections.abc import MutableMapping
from typing import Any, TextIO, cast

import structlog

from appliance.settings.settings import LoggingSettings


def configure_for_commands() -> None:
    """Only what an operator has to know, on standard error: standard output is the command's result."""
    configure(LoggingSettings(level="warning", format="console"))


def configure(settings: LoggingSettings) -> None:
    """Set structlog up for this process, on standard error: a daemon's standard output belongs to nobody."""
    level = getattr(logging, settings.level.upper())
    as_json = settings.format == "json" or (settings.format == "auto" and not sys.stderr.isatty())
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso" if as_json else "%H:%M:%S", utc=as_json),
            *(_json() if as_json else [_console()]),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=lambda *_names: structlog.WriteLogger(cast(TextIO, _StandardError())),
        cache_logger_on_first_use=True,
    )


class _StandardError:
    """Whatever is standard error when a line is written: a logger that is cached outlives a redirection."""

    def write(self, text: str) -> int:
        return sys.stderr.write(text)

    def flush(self) -> None:
        sys.stderr.flush()


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
