"""mt, tar, dd and mtx on a Linux guest, against what each has to print."""

import re

import pytest

from tests.interop.guest import Step
from tests.interop.session import run_in_guest
from tests.support import packages
from tests.support.appliance import Appliance

pytestmark = pytest.mark.guest


def tell(name: str, command: str) -> Step:
    """A step that runs a command and prints where the tape is then.

    The block, the file number and the block within it.
    """
    where = "mt -f $TAPE0 tell; mt -f $TAPE0 status | grep 'File number'"
    return Step(name, f"{command} >/tmp/said 2>&1 || {{ cat /tmp/said; false; }} && {{ {where}; }}")


def position(output: str) -> tuple[int, int, int]:
    """(block, file number, block within the file) of a tell() step."""
    found = re.fullmatch(r"At block (\d+)\.\nFile number=(-?\d+), block number=(-?\d+), partition=0\.\n", output)
    assert found, output
    return int(found[1]), int(found[2]), int(found[3])


# name, command, where the tape has to be after it
POSITIONS = (
    ("nothing yet", "mt -f $TAPE0 rewind", (0, 0, 0)),
    ("write ten blocks", "dd if=/tmp/ten of=$TAPE0 bs=10k", (11, 1, 0)),
    ("write three blocks", "dd if=/tmp/three of=$TAPE0 bs=64k", (15, 2, 0)),
    ("write a tar", "tar -C /tmp -b 128 -cf $TAPE0 tree", None),
    ("rewind", "mt -f $TAPE0 rewind", (0, 0, 0)),
    ("fsf 1", "mt -f $TAPE0 fsf 1", (11, 1, 0)),
    ("fsr 2", "mt -f $TAPE0 fsr 2", (13, 1, 2)),
    ("bsr 1", "mt -f $TAPE0 bsr 1", (12, 1, 1)),
    # In front of the filemark that ends file 0; st does not know how many blocks that file has.
    ("bsf 1", "mt -f $TAPE0 bsf 1", (10, 0, -1)),
    ("fsf 1 again", "mt -f $TAPE0 fsf 1", (11, 1, 0)),
    ("fsf over two", "mt -f $TAPE0 rewind && mt -f $TAPE0 fsf 2", (15, 2, 0)),
    ("bsfm 1", "mt -f $TAPE0 bsfm 1", (15, 2, 0)),
    ("seek 12", "mt -f $TAPE0 seek 12", (12, -1, -1)),
    ("rewind after seek", "mt -f $TAPE0 rewind", (0, 0, 0)),
)


def test_mt_moves_and_tar_comes_back(appliance: Appliance) -> None:
    packages.require("mt-st", "mtx")
    done = run_in_guest(
        appliance,
        [
            Step("load", "mtx -f $CHANGER load 1 0"),
            Step("status", "mt -f $TAPE0 status"),
            Step("data", "head -c 100k /dev/urandom >/tmp/ten; head -c 192k /dev/urandom >/tmp/three"),
            Step("tree", "mkdir /tmp/tree && split -n 20 /usr/bin/bash /tmp/tree/part. && cp /etc/passwd /tmp/tree"),
            *(tell(name, command) for name, command, _ in POSITIONS),
            Step("read ten", "dd if=$TAPE0 bs=10k 2>/dev/null | cmp - /tmp/ten"),
            Step("read three with a larger buffer", "dd if=$TAPE0 bs=256k 2>/dev/null | cmp - /tmp/three"),
            Step("list", "tar -tf $TAPE0 -b 128 | sort"),
            Step("extract", "mt -f $TAPE0 bsfm 1 && mkdir /tmp/back && tar -C /tmp/back -b 128 -xf $TAPE0"),
            Step("same tree", "diff -r /tmp/tree /tmp/back/tree"),
            Step("end of data", "mt -f $TAPE0 eod && mt -f $TAPE0 status"),
            Step("nothing behind it", "dd if=$TAPE0 bs=64k 2>/dev/null | wc -c"),
            Step("append", "mt -f $TAPE0 eod && dd if=/tmp/ten of=$TAPE0 bs=10k 2>/dev/null && mt -f $TAPE0 status"),
            Step("read appended", "mt -f $TAPE0 rewind && mt -f $TAPE0 fsf 3 && dd if=$TAPE0 bs=10k | cmp - /tmp/ten"),
            Step("overwrite cuts off", "mt -f $TAPE0 rewind && mt -f $TAPE0 fsf 1 && dd if=/tmp/ten of=$TAPE0 bs=100k"),
            tell("eod after overwriting", "mt -f $TAPE0 eod"),
            Step("fixed blocks", "mt -f $TAPE0 rewind && mt -f $TAPE0 setblk 512 && dd if=/tmp/ten of=$TAPE0 bs=10k"),
            tell("after fixed blocks", "true"),
            Step("read fixed", "mt -f $TAPE0 rewind && dd if=$TAPE0 bs=64k 2>/dev/null | cmp - /tmp/ten"),
            Step("fixed status", "mt -f $TAPE0 status; mt -f $TAPE0 setblk 0"),
            Step("large blocks", "mt -f $TAPE0 rewind && dd if=/dev/urandom of=/tmp/large bs=1M count=8 2>/dev/null"),
            Step("write large", "dd if=/tmp/large of=$TAPE0 bs=1M 2>/dev/null"),
            Step("read large", "mt -f $TAPE0 rewind && dd if=$TAPE0 bs=1M 2>/dev/null | cmp - /tmp/large"),
            tell("weof 3", "mt -f $TAPE0 weof 3"),
            Step("rewinding device", "dd if=/tmp/ten of=/dev/st0 bs=10k 2>/dev/null && mt -f $TAPE0 tell"),
            Step("erase", "mt -f $TAPE0 erase && mt -f $TAPE0 eod && mt -f $TAPE0 tell"),
        ],
    )  # fmt: skip
    assert done["load"].rstrip() == "Loading media from Storage Element 1 into drive 0...done"
    assert " BOT ONLINE IM_REP_EN" in done["status"]
    for name, _, where in POSITIONS:
        assert where is None or position(done[name]) == where, (name, done[name])
    assert done["list"].split()[0] == "tree/"
    end, file, _ = position(done["write a tar"])
    assert (file, f"File number={file}, block number=-1" in done["end of data"]) == (3, True), done["end of data"]
    assert done["nothing behind it"].strip() == "0"
    assert "File number=4, block number=0" in done["append"]
    assert end > 15
    assert position(done["eod after overwriting"])[0] == 11 + 2
    assert position(done["after fixed blocks"])[0] == 200 + 1
    assert "Tape block size 512 bytes" in done["fixed status"]
    assert position(done["weof 3"])[0] == 8 + 1 + 3
    assert done["rewinding device"] == "At block 0.\n"
    assert done["erase"] == "At block 0.\n"


def elements(status: str) -> dict[str, str]:
    """What `mtx status` says of each element."""
    lines = (re.match(r"\s*(.*?Element \d+)(?: IMPORT/EXPORT)?:(.*)", line) for line in status.splitlines()[1:])
    return {line[1]: re.sub(r"\s+", " ", line[2]).strip() for line in lines if line}


def test_mtx_sees_and_moves_every_cartridge(appliance: Appliance) -> None:
    packages.require("mt-st", "mtx")
    done = run_in_guest(
        appliance,
        [
            Step("inquiry", "mtx -f $CHANGER inquiry"),
            Step("inventory", "mtx -f $CHANGER inventory"),
            Step("before", "mtx -f $CHANGER status"),
            Step("load", "mtx -f $CHANGER load 2 1"),
            Step("loaded", "mtx -f $CHANGER status"),
            Step("write", "head -c 1M /dev/urandom >/tmp/a && dd if=/tmp/a of=$TAPE1 bs=64k 2>/dev/null"),
            Step("full drive", "mtx -f $CHANGER load 1 1", status=1),
            Step("empty slot", "mtx -f $CHANGER load 10 0", status=1),
            Step("locked", "mt -f $TAPE1 lock"),
            Step("unload a locked one", "mtx -f $CHANGER unload 10 1", status=1),
            Step("unlocked", "mt -f $TAPE1 unlock"),
            Step("offline", "mt -f $TAPE1 rewoffl"),
            Step("unload", "mtx -f $CHANGER unload 10 1"),
            Step("transfer", "mtx -f $CHANGER transfer 3 21"),
            Step("after", "mtx -f $CHANGER status"),
            Step("load into the other drive", "mtx -f $CHANGER load 10 0"),
            Step("same data there", "dd if=$TAPE0 bs=64k 2>/dev/null | cmp - /tmp/a"),
            Step("unload without rewinding", "mt -f $TAPE0 offline && mtx -f $CHANGER unload 2 0"),
        ],
    )
    assert "Product Type: Medium Changer" in done["inquiry"]
    assert re.search(r"2 Drives, 22 Slots \( 2 Import/Export \)", done["before"])
    before = elements(done["before"])
    assert before["Data Transfer Element 0"] == "Empty"
    assert before["Storage Element 2"] == "Full :VolumeTag=TST002L6"
    assert before["Storage Element 22"] == "Empty"
    loaded = elements(done["loaded"])
    assert loaded["Data Transfer Element 1"] == "Full (Storage Element 2 Loaded):VolumeTag = TST002L6"
    assert loaded["Storage Element 2"] == "Empty"
    after = elements(done["after"])
    assert after["Storage Element 10"] == "Full :VolumeTag=TST002L6"
    assert after["Storage Element 21"] == "Full :VolumeTag=TST003L6"
    assert after["Storage Element 3"] == "Empty"
    assert "Drive 1 Full" in done["full drive"]
    assert "is Empty" in done["empty slot"]
