"""A library's cartridges: making, listing, deleting, and settling what a crash left."""

import errno
from pathlib import Path
from typing import Any

import pytest

from appliance.failures import Failure, OperatorError
from appliance.library.cartridges import CartridgeStore, medium_of, numbered_on
from appliance.library.files import LibraryFiles
from appliance.operations import setup
from appliance.operations.cartridge import CREATED_TOGETHER
from appliance.settings import config_file
from appliance.settings.settings import Settings
from datamover.engine import storage_fault, storage_faults_clear
from tests.unit.appliance.offline import offline
from vlib_images.cartridge.cartridge import Cartridge
from vlib_images.cartridge.medium import MEDIA
from vlib_images.errors import WriteProtected
from vlib_images.library.inventory import ElementType


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return config_file.load(setup.create(tmp_path / "lib", setup.plan(tmp_path / "lib", portal="127.0.0.1:0", slots=4)))


def ask(settings: Settings, name: str, **params: object) -> Any:
    return offline(settings.directory / "tapebay.toml", name, **params)


def create(settings: Settings, barcode: str, **params: object) -> list[dict[str, object]]:
    created: list[dict[str, object]] = ask(settings, "cartridge.create", barcode=barcode, **params)
    return created


def listed(settings: Settings) -> dict[object, object]:
    return {row["barcode"]: row["place"] for row in ask(settings, "cartridge.list")}


def refusal(settings: Settings, barcode: str, **params: object) -> OperatorError:
    before = listed(settings)
    with pytest.raises(OperatorError) as caught:
        create(settings, barcode, **params)
    assert listed(settings) == before
    return caught.value


def test_new_cartridges_fill_the_free_slots(settings: Settings) -> None:
    (first,) = create(settings, "A00001L6", place="slot:2")
    assert first == {
        "barcode": "A00001L6",
        "place": "slot:2",
        "library_partition": None,
        "pool": None,
        "medium": "LTO-6",
        "capacity_bytes": 2_500_000_000_000,
        "used_bytes": 0,
        "partitions": 1,
        "worm": False,
        "write_protected": False,
        "problem": None,
    }
    create(settings, "A00002L6", count=3, capacity="1 GiB")
    assert listed(settings) == {"A00002L6": "slot:1", "A00001L6": "slot:2", "A00003L6": "slot:3", "A00004L6": "slot:4"}


def test_medium_and_worm(settings: Settings) -> None:
    (worm,) = create(settings, "A00001L6", worm=True)
    assert (worm["medium"], worm["worm"]) == ("LTO-6 WORM", True)
    (named,) = create(settings, "SCRATCH", medium="LTO-8", capacity="2 GiB", place="shelf")
    assert (named["medium"], named["capacity_bytes"], named["place"]) == ("LTO-8", 2 << 30, "shelf")


def test_what_cannot_be_made(settings: Settings) -> None:
    create(settings, "A00001L6", count=2)
    assert refusal(settings, "A00002L6").failure is Failure.REFUSED
    assert refusal(settings, "A00002L6", count=2, place="shelf").failure is Failure.REFUSED
    assert "2 slots are free, 3 are needed" in str(refusal(settings, "A00003L6", count=3))
    assert "slot:1 holds cartridge A00001L6" in str(refusal(settings, "A00003L6", place="slot:1"))
    assert refusal(settings, "A00003L6", place="slot:9").failure is Failure.NOT_FOUND
    assert "only the robot" in str(refusal(settings, "A00003L6", place="drive:0"))
    assert "LTO-5, LTO-5 WORM" in str(refusal(settings, "SCRATCH"))
    assert "no medium 'DLT'" in str(refusal(settings, "A00003L6", medium="DLT"))
    assert "not a size" in str(refusal(settings, "A00003L6", capacity="much"))
    assert refusal(settings, "../../etc", medium="LTO-6").failure is Failure.USAGE
    assert refusal(settings, "a00003L6", medium="LTO-6").failure is Failure.USAGE
    assert sorted(path.name for path in settings.library.cartridges.iterdir()) == ["A00001L6", "A00002L6"]


def test_numbering_on() -> None:
    assert numbered_on("A00009L6", 2) == ["A00009L6", "A00010L6"]
    assert numbered_on("TAPE7", 3) == ["TAPE7", "TAPE8", "TAPE9"]
    assert numbered_on("NONAME", 1) == ["NONAME"]
    with pytest.raises(OperatorError, match="do not fit its 1 digits"):
        numbered_on("TAPE7", 4)
    with pytest.raises(OperatorError, match="no number"):
        numbered_on("NONAME", 2)


def test_the_barcode_tells_the_medium() -> None:
    assert medium_of("A00001L9", None, False).name == "LTO-9"
    assert medium_of("A00001LW", None, False).name == "LTO-6 WORM"
    assert medium_of("A00001", "LTO-5", True).name == "LTO-5 WORM"
    assert medium_of("A00001L5", "LTO-5", True).name == "LTO-5 WORM"
    with pytest.raises(OperatorError, match="A00001L9 is a label of LTO-9, not of LTO-5"):
        medium_of("A00001L9", "LTO-5", False)


def test_write_protection(settings: Settings) -> None:
    create(settings, "A00001L6")
    assert ask(settings, "cartridge.protect", barcode="A00001L6", protected=True)["write_protected"]
    with Cartridge.open(settings.library.cartridges / "A00001L6") as cartridge, pytest.raises(WriteProtected):
        cartridge.write_block(b"data")
    assert not ask(settings, "cartridge.protect", barcode="A00001L6", protected=False)["write_protected"]
    with LibraryFiles.open(settings) as files:
        files.inventory.move(files.inventory.elements(ElementType.STORAGE)[0].address, 256)
    with pytest.raises(OperatorError, match="unload it first"):
        ask(settings, "cartridge.protect", barcode="A00001L6", protected=True)


def test_delete(settings: Settings) -> None:
    create(settings, "A00001L6", count=2)
    ask(settings, "cartridge.delete", barcode="A00001L6")
    with pytest.raises(OperatorError) as caught:
        ask(settings, "cartridge.delete", barcode="A00001L6")
    assert caught.value.failure is Failure.NOT_FOUND
    with LibraryFiles.open(settings) as files:
        files.inventory.move(files.inventory.elements(ElementType.STORAGE)[1].address, 256)
    with pytest.raises(OperatorError, match="unload it first"):
        ask(settings, "cartridge.delete", barcode="A00002L6")
    assert listed(settings) == {"A00002L6": "drive:0"}
    assert [path.name for path in settings.library.cartridges.iterdir()] == ["A00002L6"]


def test_a_cartridge_that_was_copied_in_is_on_the_shelf(settings: Settings) -> None:
    create(settings, "A00001L6")
    with LibraryFiles.open(settings) as files:
        files.inventory.discard("A00001L6")
    assert listed(settings) == {"A00001L6": "shelf"}


def test_a_cartridge_whose_directory_is_missing_keeps_its_place(settings: Settings) -> None:
    create(settings, "A00001L6")
    (settings.library.cartridges / "A00001L6").rename(settings.library.state / "elsewhere")
    shown = ask(settings, "cartridge.show", barcode="A00001L6")
    assert shown["place"] == "slot:1"
    assert "cartridge" in str(shown["problem"])


def test_what_a_crash_left_is_finished(settings: Settings) -> None:
    create(settings, "A00001L6", count=2)
    directory = settings.library.cartridges
    (directory / "A00001L6").rename(directory / ".deleted-A00001L6")  # killed while deleting
    (directory / ".new-A00003L6").mkdir()  # killed while creating
    assert listed(settings) == {"A00002L6": "slot:2"}
    assert [path.name for path in directory.iterdir()] == ["A00002L6"]
    create(settings, "A00003L6")
    assert listed(settings) == {"A00003L6": "slot:1", "A00002L6": "slot:2"}


def test_a_damaged_cartridge_does_not_hide_the_others(settings: Settings) -> None:
    create(settings, "A00001L6", count=2)
    (settings.library.cartridges / "A00001L6" / "cartridge.json").write_text("{}")
    rows = ask(settings, "cartridge.list")
    assert [bool(row["problem"]) for row in rows] == [True, False]


def test_an_open_cartridge_is_described_too(settings: Settings) -> None:
    create(settings, "A00001L6")
    with LibraryFiles.open(settings) as files:
        cartridge = files.cartridges.open("A00001L6")
        cartridge.write_block(bytes(100_000))
        assert files.cartridges.describe("A00001L6")["used_bytes"] >= 100_000
        cartridge.close()
        assert files.cartridges.describe("A00001L6")["used_bytes"] >= 100_000
        with Cartridge.open(settings.library.cartridges / "A00001L6"):
            assert "in use" in files.cartridges.describe("A00001L6")["problem"]


def test_progress_is_told(settings: Settings) -> None:
    seen = []
    count = 2 * CREATED_TOGETHER + 1
    rows = ask(
        settings,
        "cartridge.create",
        progress=lambda *step: seen.append(step),
        barcode="A00001L6",
        count=count,
        place="shelf",
    )
    assert seen == [(done, count) for done in (CREATED_TOGETHER, 2 * CREATED_TOGETHER, count)]
    assert len(rows) == count


def test_an_interrupted_batch_is_completed(settings: Settings) -> None:
    def interrupted(done: int, _total: int) -> None:
        if done >= CREATED_TOGETHER:
            raise KeyboardInterrupt

    count = CREATED_TOGETHER + 4
    with pytest.raises(KeyboardInterrupt):
        ask(settings, "cartridge.create", progress=interrupted, barcode="A00001L6", count=count, place="shelf")
    assert len(listed(settings)) == CREATED_TOGETHER
    assert len(list(settings.library.cartridges.iterdir())) == CREATED_TOGETHER
    assert refusal(settings, "A00001L6", count=count, place="shelf").failure is Failure.REFUSED
    for _ in range(2):
        assert len(create(settings, "A00001L6", count=count, place="shelf", skip_existing=True)) == count
        assert len(listed(settings)) == count


def test_a_range_is_deleted(settings: Settings) -> None:
    create(settings, "A00002L6", count=3)
    gone = ask(settings, "cartridge.delete", barcode="A00001L6", count=3)
    assert gone == {"barcodes": ["A00002L6", "A00003L6"]}
    assert listed(settings) == {"A00004L6": "slot:3"}
    with pytest.raises(OperatorError) as caught:
        ask(settings, "cartridge.delete", barcode="A00001L6", count=3)
    assert caught.value.failure is Failure.NOT_FOUND


def test_a_range_of_which_one_is_loaded_is_left_whole(settings: Settings) -> None:
    create(settings, "A00001L6", count=3)
    with LibraryFiles.open(settings) as files:
        files.inventory.move(files.inventory.elements(ElementType.STORAGE)[2].address, 256)
    with pytest.raises(OperatorError, match="A00003L6 is in drive:0"):
        ask(settings, "cartridge.delete", barcode="A00001L6", count=3)
    assert len(listed(settings)) == 3


def test_one_process_at_a_time(settings: Settings) -> None:
    with LibraryFiles.open(settings), pytest.raises(OperatorError) as caught:
        LibraryFiles.open(settings)
    assert caught.value.failure is Failure.IN_USE
    with LibraryFiles.open(settings) as files:
        assert files.inventory.barcodes() == []


def test_serial_numbers_are_the_library_s_own(settings: Settings, tmp_path: Path) -> None:
    other = config_file.load(setup.create(tmp_path / "two", setup.plan(tmp_path / "two", portal="127.0.0.1:0")))
    with LibraryFiles.open(settings) as files, LibraryFiles.open(other) as others:
        serial = files.serial_number("drive0", None)
        assert len(serial) == 10
        assert serial not in {files.serial_number("drive1", None), others.serial_number("drive0", None)}
        assert files.serial_number("drive0", "GIVEN00001") == "GIVEN00001"
    with LibraryFiles.open(settings) as again:
        assert again.serial_number("drive0", None) == serial


def test_cartridges_that_do_not_reach_the_disk_are_not_there(settings: Settings) -> None:
    storage_fault("sync_file_system", errno.EIO, after=1)
    try:
        with pytest.raises(OperatorError, match="Input/output error"):
            create(settings, "A00001L6", count=CREATED_TOGETHER + 20, place="shelf")
    finally:
        storage_faults_clear()
    made = [f"A{number:05}L6" for number in range(1, CREATED_TOGETHER + 1)]
    assert sorted(map(str, listed(settings))) == made
    assert sorted(path.name for path in settings.library.cartridges.iterdir()) == made
    create(settings, f"A{CREATED_TOGETHER + 1:05}L6", count=20, place="shelf")
    assert len(listed(settings)) == CREATED_TOGETHER + 20


def test_a_directory_in_the_way_of_one_keeps_all_from_being_made(settings: Settings) -> None:
    (settings.library.cartridges / "A00005L6").write_text("")
    with pytest.raises(OperatorError, match="A00005L6 exists already"):
        create(settings, "A00001L6", count=10, place="shelf")
    assert listed(settings) == {}


def test_what_is_told_of_new_cartridges_is_what_they_are(settings: Settings) -> None:
    told = create(settings, "A00001L6", count=2, worm=True) + create(settings, "CLN001L1")
    told += create(settings, "A00003L7", capacity="1 GiB", place="shelf")
    assert told == [ask(settings, "cartridge.show", barcode=row["barcode"]) for row in told]


def test_which_cartridges_are_blank_is_known_without_opening_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = CartridgeStore(tmp_path)
    barcodes = [f"A{number:05}L6" for number in range(6)]
    store.create_all(dict.fromkeys(barcodes, MEDIA["LTO-6"]), None)
    written = store.open(barcodes[0])
    assert isinstance(written, Cartridge)
    written.write_block(b"data")
    assert store.look_at(barcodes, 60)
    assert store.blank(barcodes[0]) is None  # in a drive
    written.close()
    store.protect(barcodes[1], True)
    assert store.look_at(barcodes, 60)
    monkeypatch.setattr(Cartridge, "open", None)  # nothing is opened any more
    assert store.look_at(barcodes, 0)
    assert [store.blank(barcode) for barcode in barcodes] == [None, None, *["LTO-6"] * 4]


def test_looking_for_blank_cartridges_takes_no_longer_than_it_is_given(tmp_path: Path) -> None:
    store = CartridgeStore(tmp_path)
    barcodes = [f"A{number:05}L6" for number in range(3)]
    store.create_all(dict.fromkeys(barcodes, MEDIA["LTO-6"]), None)
    assert not store.look_at(barcodes, -1)
    assert store.look_at(barcodes, 60)
