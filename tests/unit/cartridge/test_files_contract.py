"""What every store of cartridges promises: a directory and its twin in memory do the same."""

from pathlib import Path

import pytest

from tests.unit.cartridge.conftest import contents
from vlib_images.cartridge.cartridge import Cartridge
from vlib_images.cartridge.files import CartridgeFiles, DirectoryFiles, read_document, write_document
from vlib_images.cartridge.medium import MEDIA
from vlib_images.cartridge.memory_files import MemoryFiles
from vlib_images.cartridge.salvage import salvage
from vlib_images.cartridge.segments import SegmentLimits
from vlib_images.cartridge.verify import verify
from vlib_images.errors import CartridgeDamaged, CartridgeInUse, NotACartridge


@pytest.fixture(params=["directory", "memory"])
def files(request: pytest.FixtureRequest, tmp_path: Path) -> CartridgeFiles:
    path = tmp_path / "store" / "T00001L8"
    return DirectoryFiles(path) if request.param == "directory" else MemoryFiles(str(path))


def test_small_files(files: CartridgeFiles) -> None:
    assert not files.exists()
    files.make()
    files.make()
    assert files.exists()
    assert files.names() == []
    for content in (b"one", b"", b"a longer one"):
        files.replace("x", content, spare=False)
        assert files.read("x", 100) == content
        assert files.read_beginning("x", 4) == content[:4]
    assert files.has("x")
    assert files.names() == ["x"]
    with pytest.raises(CartridgeDamaged, match="12 bytes"):
        files.read("x", 11)
    files.remove()
    assert files.exists()
    files.unlink("x")
    for missing in (lambda: files.unlink("x"), lambda: files.read("x", 1), lambda: files.read_beginning("x", 1)):
        with pytest.raises(FileNotFoundError):
            missing()
    files.synchronize()
    files.synchronize_name()
    assert files.free_bytes() > 0
    files.remove()
    assert not files.exists()


def test_folders(files: CartridgeFiles) -> None:
    files.make()
    inner = files.folder("p0")
    assert not inner.exists()
    inner.make()
    inner.replace("manifest", b"m")
    assert files.names() == ["p0"]
    assert files.folder("p0").read("manifest", 10) == b"m"
    assert not files.has("manifest")


def test_documents(files: CartridgeFiles) -> None:
    files.make()
    write_document(files, "usage.json", {"loads": 1})
    write_document(files, "usage.json", {"loads": 2})
    assert read_document(files, "usage.json") == {"loads": 2}
    whole = files.read("usage.json", 1000)
    files.replace("usage.json", whole.replace(b'"loads": 2', b'"loads": 3'))
    with pytest.raises(CartridgeDamaged, match=r"usage\.json does not match its checksum"):
        read_document(files, "usage.json")


def test_locks(files: CartridgeFiles) -> None:
    files.make()
    with pytest.raises(FileNotFoundError):
        files.lock("lock", shared=True)
    files.replace("lock", b"")
    readers = [files.lock("lock", shared=True) for _ in range(2)]
    with pytest.raises(BlockingIOError):
        files.lock("lock", shared=False)
    for reader in readers:
        reader.close()
    writer = files.lock("lock", shared=False)
    assert not writer.closed
    with pytest.raises(BlockingIOError):
        files.lock("lock", shared=True)
    writer.close()
    assert writer.closed
    files.lock("lock", shared=False).close()


def make(files: CartridgeFiles, **options: object) -> Cartridge:
    return Cartridge.create(files, barcode="T00001L8", medium=MEDIA["LTO-8"], capacity_bytes=1 << 30, **options)  # type: ignore[arg-type]


def test_a_whole_life(files: CartridgeFiles, tmp_path: Path) -> None:
    """Many segments, a cut, a format, a crash, a check, a copy; and whoever has it open keeps others away."""
    with pytest.raises(NotACartridge):
        Cartridge.open(files)
    limits = SegmentLimits(segment_bytes=20_000, segment_objects=50)
    tape: list[bytes | None] = [bytes([number % 256]) * (number * 7 + 1) for number in range(200)]
    with make(files, partitions=2, limits=limits) as cartridge:
        for block in tape:
            assert block is not None
            cartridge.write_block(block)
        cartridge.write_filemarks(2)
        cartridge.synchronize()
        with pytest.raises(CartridgeInUse):
            Cartridge.open(files, read_only=True)
    tape += [None, None]
    with pytest.raises(FileExistsError):
        make(files)
    assert verify(files).damages == []
    with Cartridge.open(files, read_only=True) as first, Cartridge.open(files, read_only=True) as second:
        assert contents(first) == contents(second) == tape
    with Cartridge.open(files, limits=limits) as cartridge:
        cartridge.locate_block(0, 120)
        cartridge.write_block(b"instead")
        cartridge.mam.reset(2)
    saved = MemoryFiles()
    assert salvage(files, saved).lost == []
    with Cartridge.open(saved) as copy:
        assert contents(copy) == [*tape[:120], b"instead"]
    with Cartridge.open(files) as cartridge:
        cartridge.format([1 << 29])
        assert contents(cartridge) == []
    assert "p1" not in files.names()


def test_what_was_written_after_the_last_close_is_recovered(files: CartridgeFiles) -> None:
    cartridge = make(files)
    cartridge.write_block(b"promised")
    cartridge.synchronize()
    cartridge.write_block(b"not promised" * 50_000)
    cartridge.storage.lock.close()  # the process is gone: nothing is tidied up
    with Cartridge.open(files) as again:
        assert contents(again)[0] == b"promised"
        assert not again.storage.recovery[0].clean
