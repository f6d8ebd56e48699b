"""A machine on which everything comes late, now and then: TAPEBAY_JITTER=SEED pytest ...

Threads and processes start late and wake up late, locks, disks and connections are slow: mostly not at all, else by up
to LONGEST_SECONDS, as the seed decides. So a test that asserts what it should wait for, or that counts on being first,
fails within a few seeds. Each Python process that the tests start does the same, by jitter_site/sitecustomize.py.
Nothing of it is in the product.
"""

import asyncio
import functools
import http.client
import os
import queue
import random
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

VARIABLE = "TAPEBAY_JITTER"
SITE = Path(__file__).parent / "jitter_site"
LONGEST_SECONDS = 0.3
SWITCH_SECONDS = 1e-5
OFTEN, SOMETIMES, SELDOM = 0.3, 0.05, 0.005  # a thread's start; a wake-up or connection; a lock

_sleep, _random = time.sleep, random.Random()


def install() -> None:
    """From here on, where the variable asks for it; else nothing."""
    if not (seed := os.environ.get(VARIABLE)):
        return
    _random.seed(seed)
    sys.setswitchinterval(SWITCH_SECONDS)
    search = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    if str(SITE) not in search:
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(SITE), *search]))
    os.register_at_fork(after_in_child=functools.partial(_late, OFTEN))
    threading.Lock, threading.RLock = _Lock, _RLock  # type: ignore[misc, assignment]
    queue.SimpleQueue = queue._PySimpleQueue  # type: ignore[misc, attr-defined] # made of those
    _make_late(threading.Thread, "start", SOMETIMES, after=True)
    _make_late(threading.Thread, "join", SOMETIMES, after=True)
    _make_late(threading.Thread, "_bootstrap_inner", OFTEN)
    _make_late(threading.Condition, "_acquire_restore", SOMETIMES)  # woken up; of a _RLock, below
    _make_late(threading.Event, "set", SOMETIMES)
    _make_late(asyncio.BaseEventLoop, "call_soon_threadsafe", SOMETIMES)
    _make_late(subprocess.Popen, "__init__", OFTEN, after=True)
    _make_late(subprocess.Popen, "send_signal", OFTEN)
    _make_late(socket.socket, "accept", SOMETIMES, after=True)
    _make_late(socket.socket, "connect", SOMETIMES, after=True)
    _make_late(http.client.HTTPConnection, "request", SOMETIMES)
    _make_late(http.client.HTTPConnection, "getresponse", SOMETIMES, after=True)
    for name in ("fsync", "fdatasync", "replace", "rename", "kill"):
        _make_late(os, name, SOMETIMES)


def _late(chance: float) -> None:
    if _random.random() < chance:
        _sleep(LONGEST_SECONDS * _random.random() ** 2)


def _make_late(owner: Any, name: str, chance: float, *, after: bool = False) -> None:
    original: Callable[..., Any] = getattr(owner, name)

    @functools.wraps(original)
    def late(*arguments: Any, **options: Any) -> Any:
        if not after:
            _late(chance)
        try:
            return original(*arguments, **options)
        finally:
            if after:
                _late(chance)

    setattr(owner, name, late)


class _Lock:
    """threading.Lock; it has to be waited for now and then."""

    def __init__(self, allocate: Callable[[], Any] = threading.Lock) -> None:
        self._lock = allocate()
        self.release = self._lock.release

    def __getattr__(self, name: str) -> Any:
        return getattr(self._lock, name)

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        if blocking:
            _late(SELDOM)
        taken: bool = self._lock.acquire(blocking, timeout)
        return taken

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(self, *_: object) -> None:
        self.release()


class _RLock(threading._PyRLock):  # type: ignore[name-defined, misc] # the one that Condition knows
    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        if blocking:
            _late(SELDOM)
        taken: bool = super().acquire(blocking, timeout)
        return taken

    __enter__ = acquire

    def _acquire_restore(self, state: Any) -> None:  # woken up
        _late(SOMETIMES)
        super()._acquire_restore(state)
