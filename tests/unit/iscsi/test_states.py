"""The tables, row by row; what is no row is a defect of ours."""

import itertools

import pytest

from scsi_targets.iscsi.states import (
    CHAP_TRANSITIONS,
    CONNECTION_TRANSITIONS,
    ChapEvent,
    ChapState,
    ConnectionEvent,
    ConnectionState,
    IllegalTransition,
    StateMachine,
)


@pytest.mark.parametrize(("state", "event"), list(itertools.product(ConnectionState, ConnectionEvent)))
def test_connection_rows(state: ConnectionState, event: ConnectionEvent) -> None:
    machine = StateMachine(state, CONNECTION_TRANSITIONS)
    following = CONNECTION_TRANSITIONS.get((state, event))
    assert machine.fire_if_allowed(event) == (following is not None)
    assert machine.state is (following or state)
    if following is None:
        with pytest.raises(IllegalTransition, match=f"{event.name} in state {state.name}"):
            machine.fire(event)


def test_every_state_is_reached_and_left() -> None:
    assert set(CONNECTION_TRANSITIONS.values()) == set(ConnectionState)
    assert {state for state, _ in CONNECTION_TRANSITIONS} == set(ConnectionState)


def test_a_connections_life() -> None:
    machine = StateMachine(ConnectionState.FREE, CONNECTION_TRANSITIONS)
    seen = []
    for event in (
        ConnectionEvent.TRANSPORT_ACCEPTED, ConnectionEvent.LOGIN_STARTED, ConnectionEvent.LOGIN_COMPLETED,
        ConnectionEvent.LOGOUT_REQUEST_SENT, ConnectionEvent.LOGOUT_RECEIVED, ConnectionEvent.LOGOUT_COMPLETED,
    ):  # fmt: skip
        machine.fire(event)
        seen.append(machine.state.value)
    assert seen == ["S3", "S4", "S5", "S7", "S6", "S1"]


def test_chap_never_goes_back() -> None:
    order = list(ChapState)
    assert {order.index(after) - order.index(state) for (state, _), after in CHAP_TRANSITIONS.items()} == {1}
    assert len(CHAP_TRANSITIONS) == len(ChapEvent)
