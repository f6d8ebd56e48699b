"""What a mounted device is made of, from a sysfs made for the test and tables as `dmsetup table` prints them."""

from pathlib import Path

import pytest

from appliance.agent.block_devices import BlockDevices, DeviceRange
from appliance.agent.file_systems import NotMapped, mappable, mount_of, mounts

MIB = 1 << 20


class Machine:
    """Two disks of 100 MiB: sda with a partition at 1 MiB, sdb; device-mapper devices as a test adds them."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.tables: dict[tuple[int, int], str] = {}
        for name, minor in (("sda", 0), ("sdb", 16)):
            disk = self.add(root / "devices" / name, (8, minor), 100 * MIB)
            (disk / "device").mkdir()
            (disk / "device" / "wwid").write_text(f"naa.3{name.encode().hex()}\n")
            (root / "block").mkdir(exist_ok=True)
            (root / "block" / name).symlink_to(disk)
        part = self.add(root / "devices" / "sda" / "sda1", (8, 1), 50 * MIB)
        (part / "partition").write_text("1\n")
        (part / "start").write_text(f"{MIB // 512}\n")

    def add(self, path: Path, device: tuple[int, int], length: int) -> Path:
        path.mkdir(parents=True)
        (path / "size").write_text(f"{length // 512}\n")
        (path / "dev").write_text(f"{device[0]}:{device[1]}\n")
        links = self.root / "dev" / "block"
        links.mkdir(parents=True, exist_ok=True)
        (links / f"{device[0]}:{device[1]}").symlink_to(path)
        return path

    def map(self, name: str, minor: int, table: str) -> tuple[int, int]:
        path = self.add(self.root / "devices" / "virtual" / f"dm-{minor}", (253, minor), 0)
        (path / "dm").mkdir()
        (path / "dm" / "name").write_text(f"{name}\n")
        self.tables[253, minor] = table
        return (253, minor)

    @property
    def devices(self) -> BlockDevices:
        return BlockDevices(self.root, lambda device: self.tables[device])


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_a_whole_disk(machine: Machine) -> None:
    stack = machine.devices.stack((8, 16))
    assert (stack.names, stack.pieces) == (("sdb",), (DeviceRange(0, 100 * MIB, "sdb", 0),))
    assert machine.devices.identifier("sdb") == "naa.3736462"


def test_a_partition_adds_its_start(machine: Machine) -> None:
    stack = machine.devices.stack((8, 1))
    assert stack.names == ("sda1", "sda")
    assert list(stack.locate(4096, 512)) == [("sda", MIB + 4096, 512)]
    with pytest.raises(NotMapped, match="which has 52428800"):
        list(stack.locate(50 * MIB - 512, 1024))


def test_a_volume_of_two_pieces_over_a_partition_and_a_disk(machine: Machine) -> None:
    table = f"0 {10 * MIB // 512} linear 8:1 2048\n{10 * MIB // 512} {20 * MIB // 512} linear 8:16 {5 * MIB // 512}\n"
    stack = machine.devices.stack(machine.map("vg-data", 0, table))
    assert stack.disks == ["sda", "sdb"]
    assert stack.names == ("vg-data", "sda1", "sda", "sdb")
    assert list(stack.locate(10 * MIB - 512, 1024)) == [("sda", 12 * MIB - 512, 512), ("sdb", 5 * MIB, 512)]
    over = machine.devices.stack(machine.map("over", 1, f"0 {MIB // 512} linear 253:0 {10 * MIB // 512}\n"))
    assert over.pieces == (DeviceRange(0, MIB, "sdb", 5 * MIB),)


@pytest.mark.parametrize(
    ("table", "why"),
    [
        ("0 2048 crypt aes-xts-plain64 :32:logon:x 0 8:16 4096", "made by device mapper's crypt"),
        ("0 2048 striped 2 128 8:0 0 8:16 0", "made by device mapper's striped"),
        (f"0 {200 * MIB // 512} linear 8:16 0", "reaches beyond 8:16"),
        ("", "made of nothing"),
        ("0 2048 linear 7:0 0", "there is no block device 7:0"),
    ],
)
def test_what_does_more_than_to_add_is_refused(machine: Machine, table: str, why: str) -> None:
    device = machine.map("odd", 0, table)
    with pytest.raises(NotMapped, match=why):
        machine.devices.stack(device)


def test_devices_that_are_no_disk(machine: Machine) -> None:
    machine.add(machine.root / "devices" / "virtual" / "loop3", (7, 3), MIB)
    with pytest.raises(NotMapped, match="loop3 is a loop device"):
        machine.devices.stack((7, 3))


MOUNT_INFO = rb"""22 1 8:2 / / rw,relatime - ext4 /dev/sda2 rw
30 22 8:1 / /srv/data rw,noatime - xfs /dev/sda1 rw,attr2
31 22 0:50 / /srv/net rw - nfs4 host:/x rw
32 22 8:1 /sub /srv/part rw - xfs /dev/sda1 rw
33 22 8:16 / /srv/a\040b\134 ro - ext4 /dev/sdb ro
"""


def test_the_mount_of_a_path(tmp_path: Path) -> None:
    table = tmp_path / "mountinfo"
    table.write_bytes(MOUNT_INFO)
    rows = {str(mount.point): mount for mount in mounts(table)}
    assert rows["/srv/a b\\"].device == (8, 16)
    assert mount_of(Path("/usr"), table) == rows["/"]
    with pytest.raises(NotMapped, match="/srv/net is nfs4"):
        mappable(rows["/srv/net"])
    with pytest.raises(NotMapped, match="a bind mount"):
        mappable(rows["/srv/part"])
    assert mappable(rows["/srv/data"]).file_system == "xfs"
    assert mount_of(Path("/")).point == Path("/")  # this machine's own
