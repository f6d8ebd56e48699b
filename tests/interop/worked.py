"""The worked configurations of docs/sharing, served to guests: each server of a picture is a guest of its own."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from appliance.settings import config_file
from tests.interop import guest
from tests.interop.guest import GuestRun, Step
from tests.support.appliance import GUEST_SEES_HOST_AS, Appliance
from tests.support.host_calls import HostCalls

FOLDER = Path(__file__).parents[2] / "docs" / "sharing"
BOOT_SECONDS = 500  # several guests share the processors with the library


class Worked(Appliance):
    """`tapebay serve` on one of them. What a test has to change of it: where it listens, the networks that guests come
    from, how it logs; and the secrets that it names are made."""

    def __init__(self, folder: Path, name: str) -> None:
        self._name = name
        super().__init__(folder, cartridges=0, advertise=GUEST_SEES_HOST_AS)
        self.settings = config_file.load(self.config)
        self.target_name = self.settings.targets[0].iqn

    def _settings(self, *_: object) -> str:
        text = (FOLDER / f"{self._name}.toml").read_text()
        assert text.count('listen = "127.0.0.1:3260"') == 1
        here = f'listen = "127.0.0.1:{self.port}"\nadvertise = "{self._advertise}:{self.port}"'
        text = text.replace('listen = "127.0.0.1:3260"', here).replace("192.0.2.0/24", "127.0.0.0/8")
        for account in config_file.parse(self.config, text).chap.accounts:
            assert account.secret_file is not None
            path = self.folder / account.secret_file
            path.write_text(secret_of(account.user) + "\n")
            path.chmod(0o600)
        return text + '\n[logging]\nformat = "json"\n'


def secret_of(user: str) -> str:
    return f"the secret of {user}"


@dataclass(frozen=True, slots=True)
class Server:
    """One server of a picture. account: None where it is known by its name. devices: how many the kernel finds."""

    initiator: str
    devices: int
    account: str | None = None

    def steps(self, steps: Iterable[Step]) -> list[Step]:
        """Between login and logout."""
        proof: list[Step] = []
        if self.account is not None:
            auth = {"authmethod": "CHAP", "username": self.account, "password": secret_of(self.account)}
            lines = "\n".join(f"echo 'node.session.auth.{k} = {v}' >>/etc/iscsi/iscsid.conf" for k, v in auth.items())
            proof.append(Step("account", lines))
        return [
            *proof,
            Step("start iscsid", "start_iscsid"),
            Step("discovery", "discover"),
            Step("login", f"log_in {self.devices}"),
            *steps,
            Step("logout", "log_out"),
        ]


def run_together(
    appliance: Worked, servers: Sequence[tuple[Server, Iterable[Step]]], *, allowed: str | None = None
) -> list[GuestRun]:
    """A guest for each server, all at once; `host together` in a step waits until all of them are there. allowed: what
    their kernels may complain of."""
    gate = threading.Barrier(len(servers))
    done: list[GuestRun | BaseException | None] = [None] * len(servers)

    def boot(number: int, server: Server, steps: Iterable[Step]) -> None:
        try:
            done[number] = guest.run(
                [calls.step(), *server.steps(steps)],
                portal=f"{GUEST_SEES_HOST_AS}:{appliance.port}",
                target=appliance.target_name,
                initiator_name=server.initiator,
                memory="256M",
                timeout_seconds=BOOT_SECONDS,
            )
        except BaseException as error:  # noqa: BLE001 - raised again below, where pytest sees it
            done[number] = error
            gate.abort()  # the others need not wait for it

    with HostCalls({"together": lambda: gate.wait(BOOT_SECONDS) and None}) as calls:
        threads = [
            threading.Thread(target=boot, args=(number, server, list(steps)))
            for number, (server, steps) in enumerate(servers)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        errors = [each for each in done if isinstance(each, BaseException)]
        if errors:
            raise errors[0]
    runs = [each for each in done if isinstance(each, GuestRun)]
    for run in runs:
        run.require_quiet_kernel(allowed=allowed)
    return runs
