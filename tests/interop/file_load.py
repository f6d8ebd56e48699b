"""Runs in the guest: changes files at random, waits until each change is durable, and tells the host of it.

python file_load.py DIRECTORY HOST:PORT SEED

Before a file changes: `will NAME`. Once fsync has promised it: `is NAME LENGTH SHA256` or `gone NAME`. It goes on until
the host answers `enough`. Imports nothing of the project: the guest has a bare Python only.
"""

import hashlib
import os
import random
import socket
import sys
from pathlib import Path

FILES = 12
LIMIT_FILE_BYTES = 150_000


class Load:
    def __init__(self, directory: str, portal: str, seed: int) -> None:
        self.directory = Path(directory)
        self.directory.mkdir()
        self.rng = random.Random(seed)
        self.contents: dict[str, bytearray] = {}
        address, _, port = portal.partition(":")
        self.host = socket.create_connection((address, int(port)))
        self.host.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.answers = self.host.makefile("r")
        self.done = False

    def run(self) -> None:
        while not self.done:
            name = f"file{self.rng.randrange(FILES)}"
            if name not in self.contents:
                self.create(name)
            else:
                self.rng.choice((self.overwrite, self.overwrite, self.append, self.truncate, self.rename, self.delete))(
                    name
                )

    def tell(self, what: str, name: str, *more: object) -> None:
        path = f"{self.directory.name}/{name}"
        self.host.sendall(f"{' '.join(map(str, (what, path, *more)))}\n".encode())
        answer = self.answers.readline().split()
        assert answer[0] == "ok", answer
        self.done = answer[1:] == ["enough"]

    def is_durable(self, name: str) -> None:
        content = self.contents[name]
        self.tell("is", name, len(content), hashlib.sha256(content).hexdigest())

    def path(self, name: str) -> Path:
        return self.directory / name

    def random_bytes(self) -> bytes:
        return self.rng.randbytes(self.rng.choice((1, 700, 4096, self.rng.randrange(1, LIMIT_FILE_BYTES // 2))))

    def write(self, name: str, offset: int, data: bytes) -> None:
        self.tell("will", name)
        descriptor = os.open(self.path(name), os.O_WRONLY | os.O_CREAT)
        os.pwrite(descriptor, data, offset)
        os.fsync(descriptor)
        os.close(descriptor)
        content = self.contents.setdefault(name, bytearray())
        content[offset : offset + len(data)] = data

    def create(self, name: str) -> None:
        self.write(name, 0, self.random_bytes())
        self.sync_directory()
        self.is_durable(name)

    def overwrite(self, name: str) -> None:
        self.write(name, self.rng.randrange(len(self.contents[name]) + 1), self.random_bytes())
        self.is_durable(name)

    def append(self, name: str) -> None:
        length = len(self.contents[name])
        if length >= LIMIT_FILE_BYTES:
            return self.truncate(name)
        self.write(name, length, self.random_bytes())
        return self.is_durable(name)

    def truncate(self, name: str) -> None:
        self.tell("will", name)
        length = self.rng.randrange(len(self.contents[name]) + 1)
        descriptor = os.open(self.path(name), os.O_WRONLY)
        os.ftruncate(descriptor, length)
        os.fsync(descriptor)
        os.close(descriptor)
        del self.contents[name][length:]
        self.is_durable(name)

    def rename(self, name: str) -> None:
        other = f"file{self.rng.randrange(FILES)}"
        if other == name:
            return
        self.tell("will", name)
        self.tell("will", other)
        self.path(name).rename(self.path(other))
        self.sync_directory()
        self.contents[other] = self.contents.pop(name)
        self.tell("gone", name)
        self.is_durable(other)

    def delete(self, name: str) -> None:
        self.tell("will", name)
        self.path(name).unlink()
        self.sync_directory()
        del self.contents[name]
        self.tell("gone", name)

    def sync_directory(self) -> None:
        descriptor = os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY)
        os.fsync(descriptor)
        os.close(descriptor)


if __name__ == "__main__":
    Load(sys.argv[1], sys.argv[2], int(sys.argv[3])).run()
