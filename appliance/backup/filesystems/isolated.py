"""A file system read by a process of its own.

What is on a disk was written by whoever uses it, and may be made to harm what reads it; The Sleuth Kit is C. So another
process reads it, with bounded memory and no file open, and what it says is checked as an agent's list is. When it ends,
hangs or talks nonsense, the file system cannot be read, and nothing else happens.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from appliance.backup.entries import Entry, Skipped
from appliance.backup.filesystems import frames
from appliance.backup.filesystems.reader import NotReadable, ReadsBytes
from appliance.backup.listing import ListRefused, from_line, name_in
from appliance.own_program import own_command, own_environment
from vlib_images.disk.snapshot import NotKept

SILENCE_SECONDS: Final = 120.0
_LOOK_SECONDS: Final = 0.2  # how often whoever waits for the process is asked whether it still wants to
_STEP_BYTES: Final = 1 << 20
_NONSENSE: Final = "what reads it talks nonsense, as if it were damaged"


class IsolatedFileSystem:
    """`size_bytes` of an image from `offset` on. kind: in words; files: whether there are any to be seen. close() it.
    alive: called again and again while the process is waited for; what it raises ends the process, and is raised.

    Raises NotReadable, OSError."""

    def __init__(
        self, image: ReadsBytes, offset: int, size_bytes: int, alive: Callable[[], None] = lambda: None
    ) -> None:
        self._image = image
        self._alive = alive
        self._place = (offset, size_bytes)
        self._process: subprocess.Popen[bytes] | None = None
        self._walking = False
        self.kind, self.files = self._begin()

    def walk(self) -> Iterator[Entry | Skipped]:
        """As FileSystem.walk()."""
        if self._process is None or self._walking:  # the walk before was left half-way
            self.close()
            self._begin()
        self._walking = True
        with self._talking():
            self._tell(frames.frame(frames.WALK))
        while (found := self._next()) is not None:
            for line in found.decode().split("\n"):
                yield self._checked(line)
        self._walking = False

    def close(self) -> None:
        """The process is gone."""
        process, self._process, self._walking = self._process, None, False
        if process is not None:
            _end(process)

    # ---- the process -----------------------------------------------------------------------------------------------

    def _begin(self) -> tuple[str, bool]:
        arguments = [str(number) for number in (*self._place, self._image.size_bytes)]
        process = subprocess.Popen(
            own_command("appliance.backup.filesystems.worker", *arguments),
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0, env=own_environment(),
        )  # fmt: skip
        self._process = process
        assert process.stdin is not None  # a pipe, as asked
        os.set_blocking(process.stdin.fileno(), False)
        weakref.finalize(self, _end, process)
        letter, body = self._frame()
        if letter != frames.KIND:
            self.close()
            raise NotReadable(_NONSENSE)
        kind, files = json.loads(body)
        return str(kind), bool(files)

    def _next(self) -> bytes | None:
        """More lines; None at their end."""
        letter, body = self._frame()
        if letter not in (frames.LINES, frames.END):
            self.close()
            raise NotReadable(_NONSENSE)
        return body if letter == frames.LINES else None

    @contextmanager
    def _talking(self) -> Iterator[None]:
        """Whatever ends the talk ends the process. Raises NotReadable when it was the process that did."""
        try:
            yield
        except (EOFError, ValueError, BrokenPipeError) as error:
            self.close()
            raise NotReadable(f"what reads it has ended, as if it were damaged ({error or 'no answer'})") from None
        except BaseException:  # the disk fails, or nobody waits any more
            self.close()
            raise

    def _frame(self) -> tuple[bytes, bytes]:
        """The next frame that is no question of bytes, after those have been answered."""
        with self._talking():
            while True:
                letter, body = frames.read_frame(self._read)
                if letter == frames.REFUSED:
                    raise NotReadable(body.decode(errors="replace"))
                if letter != frames.READ:
                    return letter, body
                self._answer(*frames.RANGE.unpack(body))

    def _answer(self, offset: int, length: int) -> None:
        if length > frames.LIMIT_BODY_BYTES or offset + length > self._image.size_bytes:
            self._tell(frames.frame(frames.FAILED, b"beyond the end of the disk"))
            return
        buffer = bytearray(length)
        try:
            self._image.read_into(buffer, offset)
        except NotKept as error:  # content of files that is on tape already: the process may only have read ahead
            self._tell(frames.frame(frames.NOT_KEPT, str(error).encode()))
            return
        self._tell(frames.frame(frames.DATA, bytes(buffer)))

    def _tell(self, data: bytes) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        descriptor, view = self._process.stdin.fileno(), memoryview(data)
        deadline = time.monotonic() + SILENCE_SECONDS
        while view:
            self._wait(descriptor, select.POLLOUT, deadline)
            view = view[os.write(descriptor, view) :]

    def _read(self, count: int) -> bytes:
        assert self._process is not None
        assert self._process.stdout is not None
        descriptor, found = self._process.stdout.fileno(), bytearray()
        deadline = time.monotonic() + SILENCE_SECONDS
        while len(found) < count:
            self._wait(descriptor, select.POLLIN, deadline)
            data = os.read(descriptor, min(count - len(found), _STEP_BYTES))
            if not data:
                raise EOFError("it is gone")
            found += data
        return bytes(found)

    def _wait(self, descriptor: int, event: int, deadline: float) -> None:
        """Until the process has said something, or takes something. Raises EOFError, and what `alive` raises."""
        looking = select.poll()  # select(2) knows no descriptor over 1023, and each session of a daemon has some
        looking.register(descriptor, event)
        while not looking.poll(1000 * min(_LOOK_SECONDS, SILENCE_SECONDS)):
            self._alive()
            if time.monotonic() >= deadline:
                raise EOFError("it is silent")

    def _checked(self, line: str) -> Entry | Skipped:
        try:
            return from_line(line, self._image.size_bytes)
        except ListRefused as error:
            return Skipped(name_in(line) or b"(a file)", f"its description makes no sense: {error}")


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.kill()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            pipe.close()
    process.wait()
