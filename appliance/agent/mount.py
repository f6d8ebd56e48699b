"""`tapebay mount` and its Python API: from a request to a device of this server, and back.

    from appliance.agent.mount import Agent
    from appliance.control.client import Client

    agent = Agent(Client.at("https://library.example:8443", token))
    with agent.mounted(volume=["A00001L6"]) as mount:
        subprocess.run(["tar", "-cf", mount.devices["drive0"], "/srv"], check=True)

The lease is renewed in the background while the block runs.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any, Final

from appliance.agent.asking import Api
from appliance.agent.devices import devices_of
from appliance.agent.mounts import MountedGrant, Mounts
from appliance.agent.open_iscsi import Way, initiator_name, sweep
from appliance.failures import Failure, OperatorError

LOOK_SECONDS: Final = 0.5
WAIT_SECONDS: Final = 5.0  # for an event
DEVICE_SECONDS: Final = 60.0  # for the kernel to find the devices of a session
RENEWALS: Final = 3  # of a lease, so that two may be lost
_OVER: Final = ("ending", "done", "cancelled", "failed")
_WAITING: Final = ("queued", "warranted")
_PASSING: Final = (Failure.NOT_RUNNING, Failure.BUSY)  # the API may be back soon

Told = Callable[[str], None]


def nobody(_line: str) -> None:
    """Hears what a mount waits for, and does not care."""


class Agent:
    """The mounts of this server, through one library's API."""

    def __init__(self, api: Api, mounts: Mounts | None = None) -> None:
        self._api = api
        self._mounts = mounts or Mounts.here()

    def mount(self, *, wait_seconds: float | None = None, told: Told = nobody, **wanted: Any) -> MountedGrant:
        """Asks for drives, waits, logs in and waits until the devices are there. wanted: the parameters of
        request.create. wait_seconds: for the grant; None: as long as it takes. told: hears what is waited for.

        Whatever goes wrong, KeyboardInterrupt too, nothing is left: no request, no session, no record. Raises
        OperatorError, OSError.
        """
        sweep([mount.request for mount in self._mounts.all()])
        made = self._api.call("request.create", initiator=initiator_name(), **wanted)
        mount = MountedGrant(made["request"], float(wanted.get("lease_seconds", 180.0)))
        try:
            self._mounts.keep(mount)
            granted = self._granted(mount, wait_seconds, told, entering=True)
            mount = self._entered(mount, granted)
            return self._with_devices(mount, told)
        except BaseException:
            self._abandon(mount.request)
            raise

    @contextmanager
    def mounted(self, **wanted: Any) -> Iterator[MountedGrant]:
        """mount(), renewed in the background until the block ends, then released."""
        mount, stop = self.mount(**wanted), threading.Event()
        renewer = threading.Thread(target=self._renew_until, args=(mount, stop), name="renewals", daemon=True)
        renewer.start()
        try:
            yield mount
        finally:
            stop.set()
            renewer.join()
            self.release(mount)

    def _renew_until(self, mount: MountedGrant, stop: threading.Event) -> None:
        with suppress(OperatorError):  # the grant is over: whoever uses the device is told by it
            self.keep_renewed(mount, stop.wait)

    def renew(self, mount: MountedGrant) -> float:
        """For how many seconds it holds from now on. Raises OperatorError."""
        return float(self._api.call("grant.renew", request=mount.request)["lease_seconds"])

    def keep_renewed(self, mount: MountedGrant, pause: Callable[[float], bool]) -> None:
        """Renews in time until pause(seconds) says True. An API that is away is tried again. Raises OperatorError when
        the grant is over, or not ours any more (NOT_PERMITTED: the token has ended)."""
        while True:
            try:
                self.renew(mount)
            except OperatorError as error:
                if error.failure is Failure.NOT_PERMITTED:
                    raise
                if error.failure not in _PASSING and self._is_over(mount):
                    raise
            if pause(mount.lease_seconds / RENEWALS):
                return

    def _is_over(self, mount: MountedGrant) -> bool:
        try:
            return self._show(mount)["state"] in _OVER
        except OperatorError as error:
            return error.failure is Failure.NOT_FOUND

    def release(self, mount: MountedGrant) -> None:
        """Logs out, removes what was made for the grant, gives the drives back. What is done already is passed over.
        Raises OperatorError; what was not done can be done again."""
        self._leave(mount)
        try:
            self._give_back(mount)
        except OperatorError as error:
            if error.failure in _PASSING:
                message = f"{error}; this server has let go of it, and the lease ends by itself"
                raise OperatorError(error.failure, message) from error
            if not self._is_over(mount):
                raise
        self._mounts.forget(mount.request)

    def _give_back(self, mount: MountedGrant) -> None:
        state = self._show(mount)["state"]
        if state not in _OVER:
            self._api.call("request.cancel" if state in _WAITING else "grant.release", request=mount.request)

    def find(self, what: str) -> MountedGrant:
        """By its request or the path of a device. Raises OperatorError NOT_FOUND."""
        return self._mounts.find(what)

    def all(self) -> list[MountedGrant]:
        """Raises OperatorError."""
        return self._mounts.all()

    # ---- steps of a mount --------------------------------------------------------------------------------------------

    def _show(self, mount: MountedGrant) -> dict[str, Any]:
        shown: dict[str, Any] = self._api.call("request.show", request=mount.request)
        return shown

    def _granted(
        self, mount: MountedGrant, wait_seconds: float | None, told: Told, *, entering: bool
    ) -> dict[str, Any]:
        """The request once it has its drives; for entering, once its host may log in, where the gate chooses them."""
        deadline = None if wait_seconds is None else time.monotonic() + wait_seconds
        said = ""
        for _ in self._changes(mount.request, deadline):
            request = self._show(mount) if entering else {**self._show(mount), "by_gate": False}
            if request["state"] == "granted" or (request["by_gate"] and request["grant"]):
                return request
            if request["state"] in _OVER:
                raise OperatorError(Failure.REFUSED, f"request {mount.request} is {request['state']}: {request['why']}")
            if (why := request["why"]) and why != said:
                told(f"waiting: {why}")
                said = why
        message = f"request {mount.request} was not granted in {wait_seconds:g} s: {said or 'it is on its way'}"
        raise OperatorError(Failure.REFUSED, message)

    def _changes(self, request: str, deadline: float | None) -> Iterator[None]:
        """Whenever something may have changed, until then: at each event, and now and then, as what a request waits for
        is no event."""
        while deadline is None or time.monotonic() <= deadline:
            left = (
                WAIT_SECONDS if deadline is None else min(WAIT_SECONDS, max(LOOK_SECONDS, deadline - time.monotonic()))
            )
            try:
                for _ in self._api.events(request, timeout_seconds=min(WAIT_SECONDS, max(LOOK_SECONDS, left))):
                    yield
                    if deadline is not None and time.monotonic() > deadline:
                        return
            except OperatorError:  # it is away, or silent
                time.sleep(LOOK_SECONDS)
                yield

    def _entered(self, mount: MountedGrant, granted: dict[str, Any]) -> MountedGrant:
        """Logged in."""
        way = Way.of(mount.request, granted["grant"], getattr(self._api, "host", ""))
        mount = replace(mount, target=way.target, portal=way.portal, group=way.group)
        self._mounts.keep(mount)
        way.add()
        way.log_in()
        return mount

    def _with_devices(self, mount: MountedGrant, told: Told) -> MountedGrant:
        """Once the volumes are mounted and the kernel has found everything."""
        request = self._granted(mount, DEVICE_SECONDS, told, entering=False)
        deadline = time.monotonic() + DEVICE_SECONDS
        while True:
            session = mount.way.session() if mount.way is not None else None
            devices = devices_of(session, request["units"]) if session is not None else None
            if devices is not None:
                mount = replace(mount, devices=devices)
                self._mounts.keep(mount)
                return mount
            if time.monotonic() > deadline:
                wanted = ", ".join(f"{unit['device']} ({unit['serial_number']})" for unit in request["units"])
                message = f"the kernel found no device for {wanted} in {DEVICE_SECONDS:g} s; see: dmesg, modprobe st"
                raise OperatorError(Failure.REFUSED, message)
            time.sleep(LOOK_SECONDS)

    def _leave(self, mount: MountedGrant) -> None:
        if (way := mount.way) is not None:
            way.log_out()
            way.remove()

    def _abandon(self, request: str) -> None:
        """After a failure, which is what is to be told. What cannot be undone now is undone by release()."""
        with suppress(OperatorError, OSError):
            mount = self._mounts.find(request)  # with what was done last
            try:
                self._leave(mount)
            except OperatorError:
                self._give_back(mount)
            else:
                self.release(mount)
