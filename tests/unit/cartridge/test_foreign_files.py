"""A cartridge or a tape to import that somebody else made: links, pipes and second names in it lead nowhere."""

import os
import shutil
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.documents import read_document, write_document
from tests.unit.cartridge.conftest import contents
from tests.unit.cartridge.test_interchange import mhvtl
from vlib_images.cartridge.cartridge import Cartridge
from vlib_images.cartridge.medium import MEDIA
from vlib_images.cartridge.salvage import salvage
from vlib_images.cartridge.verify import verify
from vlib_images.errors import CartridgeError, NotACartridge
from vlib_images.interchange import InterchangeError, import_tape

Make = Callable[..., Cartridge]

# Every name that opening, loading, writing, synchronizing and formatting open or replace.
TEMPORARY = [".cartridge.json.new", ".usage.json.new", ".mam.json.new", "p0/.manifest.new", "p0/.00000001.idx.new"]
OPENED = ["cartridge.json", "lock", "p0/manifest", "p0/00000001.seg", "p0"]


def use(directory: Path) -> list[bytes | None]:
    """All that a drive does with a cartridge."""
    with Cartridge.open(directory) as cartridge:
        cartridge.loaded("IBM", "1")
        cartridge.locate_block(0, 1)
        cartridge.write_block(b"second")
        cartridge.synchronize()
        cartridge.append_only = False
        cartridge.mam.reset(1)
        return contents(cartridge)


@pytest.fixture
def copied(make: Make, tmp_path: Path) -> Path:
    with make() as cartridge:
        cartridge.write_block(b"first")
        cartridge.synchronize()
    return tmp_path / "T00001L8"


@pytest.fixture
def precious(tmp_path: Path) -> Path:
    path = tmp_path / "inventory.json"
    path.write_bytes(b"precious")
    return path


@pytest.mark.parametrize("plant", [os.symlink, os.link], ids=["symlink", "hard link"])
@pytest.mark.parametrize("name", TEMPORARY)
def test_nothing_is_written_through_a_temporary_name(
    copied: Path, precious: Path, name: str, plant: Callable[[Path, Path], None]
) -> None:
    (copied / name).unlink(missing_ok=True)
    plant(precious, copied / name)
    assert use(copied) == [b"first", b"second"]
    assert precious.read_bytes() == b"precious"
    assert not (copied / name).is_symlink()


@pytest.mark.parametrize("name", TEMPORARY)
def test_a_pipe_under_a_temporary_name_is_not_waited_for(copied: Path, name: str) -> None:
    (copied / name).unlink(missing_ok=True)
    os.mkfifo(copied / name)
    assert use(copied) == [b"first", b"second"]


@pytest.mark.parametrize("name", OPENED)
def test_a_cartridge_with_a_link_is_refused_and_what_it_leads_to_stays(copied: Path, tmp_path: Path, name: str) -> None:
    """What it leads to would even do: the very file, elsewhere."""
    elsewhere = tmp_path / "elsewhere"
    (copied / name).rename(elsewhere)
    (copied / name).symlink_to(elsewhere)
    before = elsewhere.read_bytes() if elsewhere.is_file() else (elsewhere / "00000001.seg").read_bytes()
    with pytest.raises(CartridgeError, match="symbolic link"):
        use(copied)
    after = elsewhere.read_bytes() if elsewhere.is_file() else (elsewhere / "00000001.seg").read_bytes()
    assert after == before


@pytest.mark.parametrize("name", [name for name in OPENED if name != "p0"])
def test_a_pipe_in_a_cartridge_hangs_nobody(copied: Path, name: str) -> None:
    (copied / name).unlink()
    os.mkfifo(copied / name)
    with pytest.raises(CartridgeError, match="no regular file"):
        use(copied)


def test_a_link_to_a_cartridge_is_no_cartridge(copied: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(copied)
    for read_only in (True, False):
        with pytest.raises(CartridgeError, match="symbolic link"):
            Cartridge.open(tmp_path / "link", read_only=read_only)
    with pytest.raises((CartridgeError, OSError), match="symbolic link"):
        verify(tmp_path / "link")


def test_a_copy_of_hard_links_does_not_change_the_original(copied: Path, tmp_path: Path) -> None:
    """`cp -al`: files that are replaced part, but a log that is appended to would grow in both."""
    shutil.copytree(copied, tmp_path / "copy", copy_function=os.link)
    segment = (copied / "p0" / "00000001.seg").read_bytes()
    with Cartridge.open(tmp_path / "copy", read_only=True) as reader:
        assert contents(reader) == [b"first"]
    with pytest.raises(CartridgeError, match=r"hard links.*cp -a"):
        use(tmp_path / "copy")
    assert (copied / "p0" / "00000001.seg").read_bytes() == segment
    (tmp_path / "copy" / "lock").unlink()
    (tmp_path / "copy" / "lock").touch()
    with pytest.raises(CartridgeError, match=r"hard links.*cp -a"):
        use(tmp_path / "copy")
    assert (copied / "p0" / "00000001.seg").read_bytes() == segment


def test_recovering_follows_no_link(copied: Path, tmp_path: Path) -> None:
    (copied / "p0").rename(tmp_path / "elsewhere")
    (copied / "p0").symlink_to(tmp_path / "elsewhere")
    (copied / "cartridge.json").unlink()
    with pytest.raises(NotACartridge, match="holds no segment"):
        salvage(copied, tmp_path / "saved", barcode="T00002L8", medium=MEDIA["LTO-8"])


@pytest.mark.parametrize(
    "change",
    [
        {"uuid": "no uuid"},
        {"uuid": 7},
        {"partition_bytes": []},
        {"partition_bytes": [1] * 100_000},
        {"partition_bytes": ["many"]},
        {"capacity_bytes": -1},
        {"capacity_bytes": 1 << 70},
        {"medium": ["LTO-8"]},
        {"worm": "yes"},
        {"barcode": None},
    ],
)
def test_an_identity_of_nonsense_is_a_damaged_cartridge(copied: Path, change: dict[str, object]) -> None:
    write_document(copied / "cartridge.json", read_document(copied / "cartridge.json") | change)
    with pytest.raises(CartridgeError, match=r"cartridge\.json|medium type"):
        Cartridge.open(copied)


@pytest.mark.parametrize("name", ["usage.json", "mam.json"])
@pytest.mark.parametrize(
    "content", [{"partitions": "x", "mounts": 7}, {"partitions": [7], "mounts": [{}], "loads": "x"}]
)
def test_counters_of_nonsense_keep_nobody_from_the_data(copied: Path, name: str, content: dict[str, object]) -> None:
    write_document(copied / name, content)
    assert use(copied) == [b"first", b"second"]


# ---- imports ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("plant", [os.symlink, os.link], ids=["symlink", "hard link"])
@pytest.mark.parametrize("name", ["data", "indx"])
def test_an_mhvtl_cartridge_leads_nowhere(
    make: Make, tmp_path: Path, name: str, plant: Callable[[Path, Path], None]
) -> None:
    mhvtl(tmp_path / "m", [(b"block", 0, b"block")], "")
    (tmp_path / "m" / name).rename(tmp_path / "secret")
    plant(tmp_path / "secret", tmp_path / "m" / name)
    with make() as cartridge:
        with pytest.raises(InterchangeError, match="link"):
            import_tape("mhvtl", tmp_path / "m", cartridge)
        assert cartridge.end_of_data(0) == 0


@pytest.mark.parametrize("plant", [os.symlink, os.link], ids=["symlink", "hard link"])
@pytest.mark.parametrize("name", ["file-0000", "blocks.json"])
def test_a_directory_leads_nowhere(make: Make, tmp_path: Path, name: str, plant: Callable[[Path, Path], None]) -> None:
    source = tmp_path / "d"
    source.mkdir()
    (source / "file-0000").write_bytes(b"x")
    (source / "blocks.json").write_text('{"files": [{"name": "file-0000", "blocks": [[1, 1]]}]}')
    (source / name).rename(tmp_path / "secret")
    plant(tmp_path / "secret", source / name)
    with make() as cartridge, pytest.raises(InterchangeError, match="link"):
        import_tape("directory", source, cartridge)


@pytest.mark.parametrize("name", ["simh", "e11", "awstape", "tgt"])
def test_a_pipe_is_not_waited_for(make: Make, tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / "pipe")
    with make() as cartridge, pytest.raises(InterchangeError, match="no regular file"):
        import_tape(name, tmp_path / "pipe", cartridge)


def test_what_an_operator_names_may_be_a_link(make: Make, tmp_path: Path) -> None:
    mhvtl(tmp_path / "m", [(b"block", 1, zlib.compress(b"block"))], "")
    (tmp_path / "named").symlink_to(tmp_path / "m")
    with make() as cartridge:
        import_tape("mhvtl", tmp_path / "named", cartridge)
        assert contents(cartridge) == [b"block"]
