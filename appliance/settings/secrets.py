"""Secrets from where only those read them who may: a file of mode 0600, the environment, a command's output."""

import os
import stat
import subprocess
from collections.abc import Sequence
from pathlib import Path

COMMAND_SECONDS = 30.0
MAX_BYTES = 64 << 10


class SecretError(Exception):
    """There is no secret to be had; str() says why, and never holds one."""


def from_file(path: Path) -> str:
    """The first line of a file that nobody but its owner can read. Raises SecretError."""
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            if stat.S_IMODE(mode) & 0o077:
                raise SecretError(f"{path} can be read by others (mode {stat.S_IMODE(mode):04o}): chmod 600 {path}")
            return _first_line(file.read(MAX_BYTES), str(path))
    except OSError as error:
        raise SecretError(f"{path} cannot be read: {error.strerror}") from None


def from_environment(name: str) -> str:
    """Of an environment variable. Raises SecretError."""
    value = os.environ.get(name)
    if not value:
        raise SecretError(f"the environment variable {name} is not set")
    return value


def from_command(words: Sequence[str]) -> str:
    """The first line that a command prints; no shell is asked. Raises SecretError."""
    if not words:
        raise SecretError("the command has no words")
    try:
        done = subprocess.run(
            list(words), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, timeout=COMMAND_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        raise SecretError(f"{words[0]} did not end within {COMMAND_SECONDS:.0f} seconds") from None
    except (OSError, ValueError) as error:
        raise SecretError(f"{words[0]} cannot be run: {error}") from None
    if done.returncode:
        raise SecretError(f"{words[0]} ended with status {done.returncode}")
    return _first_line(done.stdout, words[0])


def _first_line(data: bytes, where: str) -> str:
    try:
        line = data.decode().partition("\n")[0].rstrip("\r")
    except UnicodeDecodeError:
        raise SecretError(f"{where} gives no UTF-8 text") from None
    if not line:
        raise SecretError(f"{where} gives no secret in its first line")
    return line
