"""kill -9 at every transaction: what the files hold just before and just after each commit is opened anew, as after a
crash at that moment. Nothing is there twice, nothing is lost, and no drive is held for ever."""

import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from appliance.broker.requests import Request, Wanted
from appliance.broker.states import RequestState, RequestStep
from appliance.library.library import Library
from appliance.settings import config_file
from datamover.initiator import Credentials, InitiatorSession
from tests.unit.appliance.test_requests import (
    GATE,
    HOST,
    ISID,
    READ_BLOCK,
    READY,
    REWIND,
    WRITE_BLOCK,
    command,
    eventually,
    library,
    serving,
)
from vlib_images.library.database.database import Database

FILEMARK = bytes([0x10, 0, 0, 0, 1, 0])
BLOCK = b"t" * 512
PLACES = {"A00001L6": 0, "A00002L6": 1}


class Recorder:
    """Copies a library before and after each commit of its database."""

    def __init__(self, directory: Path, copies: Path) -> None:
        self._directory, self._copies = directory, copies
        self._lock = threading.RLock()
        self.moments: list[tuple[str, Path]] = []

    def copy(self, moment: str) -> None:
        path = self._copies / str(len(self.moments))
        shutil.copytree(self._directory, path)
        self.moments.append((moment, path))

    @contextmanager
    def recording(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
        change = Database.change

        @contextmanager
        def recorded(database: Database, *happened: Any) -> Iterator[Any]:
            with self._lock:
                what = " and ".join(f"{event.action} of {event.subject}" for event in happened)
                self.copy(f"before {what}")
                with change(database, *happened) as connection:
                    yield connection
                self.copy(f"after {what}")

        with monkeypatch.context() as patch:
            patch.setattr(Database, "change", recorded)
            yield


def login(served: Library, request: Request) -> InitiatorSession:
    assert served.broker is not None
    key = served.broker.key(request)
    assert key is not None
    proof = Credentials(key.name, key.secret, GATE, key.mutual_secret)
    return InitiatorSession(served.bound[0], GATE, initiator_name=HOST, credentials=proof, isid=ISID)


def until(served: Library, name: str, *states: RequestState) -> Request:
    assert served.broker is not None
    requests = served.broker.requests
    eventually(lambda: requests.get(name).state in states)
    return requests.get(name)


def a_life(served: Library, *, by_gate: bool) -> None:
    """Two drives are asked for, written to and given back."""
    assert served.broker is not None
    made = served.broker.ask(HOST, (Wanted(), Wanted()), lease_seconds=600, by_gate=by_gate)
    request = until(served, made.name, RequestState.PLACING if by_gate else RequestState.GRANTED)
    eventually(lambda: served.broker is not None and served.broker.key(request) is not None)
    with login(served, request) as session:
        request = until(served, made.name, RequestState.GRANTED)
        # Its last transaction before the end, so that no file of a cartridge is copied while it is written.
        eventually(lambda: served.broker is not None and served.broker.requests.get(made.name).port is not None)
        for unit in request.units:
            eventually(lambda lun=unit.lun: command(session, lun, READY).status == 0)  # type: ignore[misc]
            assert command(session, unit.lun, WRITE_BLOCK, BLOCK).status == 0
            assert command(session, unit.lun, FILEMARK).status == 0
    served.broker.end(made.name, RequestStep.FREE, "released")
    until(served, made.name, RequestState.DONE)


def nothing_is_doubled(served: Library) -> None:
    assert served.broker is not None
    held = [unit for request in served.broker.requests.all() if request.state.holds for unit in request.units]
    assert len({unit.device for unit in held if unit.device}) == len([unit for unit in held if unit.device])
    assert len({unit.volume for unit in held}) == len(held)
    assert sorted(served.files.inventory.barcodes()) == sorted(PLACES)


def everything_is_home(served: Library) -> None:
    assert served.broker is not None
    layout, inventory = served.files.inventory.layout, served.files.inventory
    assert all(request.state.over for request in served.broker.requests.all())
    assert {drive.lent_to for drive in served.drives.values()} == {None}
    assert {drive.cartridge for drive in served.drives.values()} == {None}
    places = {barcode: inventory.find(barcode) for barcode in PLACES}
    assert {b: e and layout.storage.index(e.address) for b, e in places.items()} == PLACES


def the_client_comes_back(served: Library) -> None:
    """With its first key, from the same initiator port; then it gives everything back."""
    assert served.broker is not None
    for request in served.broker.requests.all():
        if request.state in (RequestState.ENDING, RequestState.DONE):
            until(served, request.name, RequestState.DONE)
            continue
        if not request.by_gate:
            request = until(served, request.name, RequestState.GRANTED)
        else:
            eventually(lambda name=request.name: served.broker and served.broker.key(served.broker.requests.get(name)))
        with login(served, served.broker.requests.get(request.name)) as session:
            request = until(served, request.name, RequestState.GRANTED)
            for unit in request.units:
                eventually(lambda lun=unit.lun: command(session, lun, READY).status == 0)  # type: ignore[misc]
                assert command(session, unit.lun, REWIND).status == 0
                result = command(session, unit.lun, READ_BLOCK, None, len(BLOCK))
                # What was promised, or a blank tape: BLANK CHECK.
                assert bytes(result.data) == BLOCK if result.status == 0 else result.sense[2] & 0xF == 8
        served.broker.end(request.name, RequestStep.FREE, "released")
        until(served, request.name, RequestState.DONE)


def nobody_comes_back(served: Library) -> None:
    """Three renewals are missed, whenever there is a lease."""
    broker = served.broker
    assert broker is not None
    clock, offset = broker._clock, [0.0]
    broker._clock = lambda: clock() + offset[0]

    def all_over() -> bool:
        states = [request.state for request in broker.requests.all()]
        if any(state.live for state in states):
            offset[0] += 3600
            broker.wake()
        return all(state.over for state in states)

    eventually(all_over)


@pytest.mark.parametrize("afterwards", [the_client_comes_back, nobody_comes_back])
@pytest.mark.parametrize("by_gate", [False, True], ids=["broker chooses", "gate chooses"])
def test_a_crash_at_every_transaction(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, by_gate: bool, afterwards: Callable[[Library], None]
) -> None:
    directory, copies = library(tmp_path), tmp_path / "copies"
    copies.mkdir()
    recorder = Recorder(directory, copies)
    with serving(directory) as served, recorder.recording(monkeypatch):
        a_life(served, by_gate=by_gate)
    told = " ".join(moment for moment, _ in recorder.moments)
    for step in RequestStep:
        if step not in (RequestStep.CANCEL, RequestStep.FAIL):
            assert f"request {step.value}" in told, step
    for moment, copy in recorder.moments:
        again = Library.open(config_file.load(copy / "tapebay.toml"))
        with closing(again):
            again.start()
            try:
                nothing_is_doubled(again)
                afterwards(again)
                everything_is_home(again)
            except BaseException as error:
                error.add_note(f"after a crash {moment}")
                raise
            finally:
                again.stop()
        shutil.rmtree(copy)
