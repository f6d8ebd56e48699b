"""plan(old, new, state): what a change would do, worked out from what is given and nothing else."""

from pathlib import Path
from typing import Any

import pytest

from appliance.library.effects import SessionEffect, Situation, plan, refusal
from appliance.settings.settings import Settings
from scsi_targets.iscsi.directory import Portal, Who
from vlib_images.library.elements import ElementType

IQN = "iqn.2026-11.io.tapebay:t"
ALPHA, BETA = "iqn.2026-11.test:alpha", "iqn.2026-11.test:beta"
SLOT, EXIT, DRIVE = ElementType.STORAGE, ElementType.IMPORT_EXPORT, ElementType.DRIVE


def settings(**given: Any) -> Settings:
    """A library of 20 slots, two import/export slots and two drives."""
    base: dict[str, Any] = {
        "portals": [{"listen": "127.0.0.1:0"}],
        "targets": [{"iqn": IQN}],
        "drives": [{"name": "drive0"}, {"name": "drive1"}],
    }
    return Settings.model_validate(base | given).placed(Path("/"))


def part(name: str, slots: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "slots": slots, **more}


def who(initiator: str = ALPHA, target: str = IQN) -> Who:
    return Who(initiator, bytes(6), target, Portal("127.0.0.1"), "192.0.2.1")


WHOLE = settings()
CUT = settings(partitions=[part("a", "1-10", drives=["drive0"]), part("b", "11-20", drives=["drive1"])])


def test_no_change_has_no_effect() -> None:
    state = Situation({1: who()}, {(SLOT, 3): "A00001L6", (DRIVE, 0): "A00002L6"})
    for same in (WHOLE, CUT):
        assert plan(same, same, state).sessions == plan(same, same, state).orphans == ()


def test_each_session_is_told_its_own() -> None:
    zones = [{"name": "one", "initiators": [ALPHA], "devices": ["drive1"]}]
    found = plan(WHOLE, settings(zones=zones), Situation({1: who(), 2: who(BETA)}))
    assert found.sessions == (
        SessionEffect(1, ALPHA, IQN, loses=("LUN 0 changer", "LUN 1 drive0")),
        SessionEffect(
            2, BETA, IQN, loses=("LUN 0 changer", "LUN 1 drive0", "LUN 2 drive1"),
            ends=f"no zone names initiator {BETA}",
        ),
    )  # fmt: skip
    back = plan(settings(zones=zones), WHOLE, Situation({1: who(), 2: who(BETA)}))
    assert [effect.gains for effect in back.sessions] == [("LUN 0 changer", "LUN 1 drive0")]  # 2 was not logged in


def test_who_sees_a_partition_is_told_how_it_changes() -> None:
    wider = settings(partitions=[part("a", "1-12", import_export="1", drives=["drive0"], barcodes="A*")])
    narrow = settings(partitions=[part("a", "1-10", drives=["drive0"])])
    (effect,) = plan(narrow, wider, Situation({1: who()})).sessions
    assert effect.changes == ("a: slots 1-10 -> 1-12, import/export slots none -> 1, barcodes * -> A*",)
    (effect,) = plan(WHOLE, settings(changer={"slots": 30}), Situation({1: who()})).sessions
    assert effect.changes == ("changer: slots 1-20 -> 1-30",)


def test_the_gates_sessions_are_nobody_here() -> None:
    assert plan(WHOLE, CUT, Situation({1: who(target="iqn.2026-11.io.tapebay:gate")})).sessions == ()


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        (CUT, settings(partitions=[part("a", "1-3"), part("b", "11-20")]), "which would leave partition a"),
        (CUT, settings(partitions=[part("a", "1-3"), part("b", "4-20")]), "which would leave partition a"),
        (CUT, settings(partitions=[part("b", "11-20")]), "which would leave partition a"),
        (WHOLE, settings(partitions=[part("a", "1-10", barcodes="B*")]), "not fit the barcode rule of partition a"),
        (WHOLE, settings(changer={"slots": 3}), "which would go"),
        (WHOLE, settings(partitions=[part("a", "11-20")]), None),  # then only operators see it, as they say
        (CUT, WHOLE, None),
        (CUT, settings(partitions=[part("a", "4,1-3"), part("b", "11-20")]), None),
    ],
)  # fmt: skip
def test_cartridges_that_would_be_left_behind(old: Settings, new: Settings, reason: str | None) -> None:
    orphans = plan(old, new, Situation(cartridges={(SLOT, 3): "A00001L6"})).orphans
    if reason is None:
        assert orphans == ()
    else:
        assert refusal(orphans).startswith("cartridge A00001L6 is in slot:4, ")
        assert reason in refusal(orphans)


def test_what_is_in_a_drive_has_to_be_unloaded_first() -> None:
    other = settings(partitions=[part("a", "1-10"), part("b", "11-20", drives=["drive0", "drive1"])])
    orphans = plan(CUT, other, Situation(cartridges={(DRIVE, 0): "A00001L6", (EXIT, 0): "A00002L6"})).orphans
    assert [str(orphan) for orphan in orphans] == [
        "cartridge A00001L6 is in drive:0, which would leave partition a; move it to another place first"
    ]
    assert "--to-shelf" not in refusal(orphans)
