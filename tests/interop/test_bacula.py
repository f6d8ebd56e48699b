"""Bacula's acceptance tests of a tape drive and its autochanger script, on a Linux guest."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.interop.guest import PACKAGES, Step
from tests.interop.session import run_in_guest
from tests.support import packages
from tests.support.appliance import GUEST_SEES_HOST_AS, Appliance, Disk

pytestmark = pytest.mark.guest

DEVICE = """
Storage { Name = sd; WorkingDirectory = /tmp; PidDirectory = /tmp; Plugin Directory = /tmp }
Director { Name = director; Password = unused }
Messages { Name = Standard; director = director = all }
Device {
  Name = drive; Archive Device = $TAPE0; Device Type = Tape; Media Type = LTO; Label Media = yes
  Automatic Mount = yes; Always Open = yes; Removable Media = yes; Random Access = no
"""
ALONE = f"{DEVICE}}}\n"
IN_A_ROBOT = f"""{DEVICE}  Autochanger = yes; Drive Index = 0
}}
Autochanger {{
  Name = robot; Device = drive; Changer Device = $CHANGER
  Changer Command = "/etc/bacula/scripts/mtx-changer %c %o %S %a %d"
}}
"""
# How btape says that one of its tests went well; where it only shows numbers, with these numbers.
PASSED = (
    "=== Test Succeeded. End Write, rewind, and re-read test ===",
    "We should be in file 3. I am at file 3. This is correct!",  # MTEOM
    "Total files=4, blocks=7, bytes = 451,136\nEnd scanning the tape.",  # appending
    "Block re-read correct. Test succeeded!",  # back over a filemark and a record
    "We should be in file 5. I am at file 5. This is correct!",  # MTFSF
    "The test autochanger worked!!",
)


def btape(configuration: str, *answers: str) -> list[Step]:
    packages.require("bacula-sd", "mt-st", "mtx")
    said = "".join(f"{answer}\\n" for answer in (*answers, "quit"))
    return [
        Step("configuration", f"cat >/tmp/bacula.conf <<END\n{configuration}END"),
        Step("load", "mtx -f $CHANGER load 1 0"),
        Step("btape", f"printf '{said}' | btape -c /tmp/bacula.conf $TAPE0"),
    ]


def test_everything_that_bacula_needs_of_a_drive_and_its_robot(appliance: Appliance) -> None:
    done = run_in_guest(appliance, btape(IN_A_ROBOT, "test", "y"))
    for line in PASSED:
        assert line in done["btape"], done["btape"]


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Appliance]:
    """An appliance whose one cartridge, in slot 1, is soon full. (btape reads its first 330 MB again.)"""
    packages.require(*PACKAGES)
    disks = [Disk("disk", "16 MiB")]
    with Appliance(tmp_path, disks=disks, cartridges=0, advertise=GUEST_SEES_HOST_AS) as running:
        running.call("cartridge.create", barcode="SMALL1L6", count=1, capacity="400 MiB")
        yield running
    assert not running.problems(), running.log_text()


def test_a_tape_is_filled_to_its_end_and_the_last_block_is_there(small: Appliance) -> None:
    done = run_in_guest(small, btape(ALONE, "fill", "s"))
    assert "Re-read of last block succeeded." in done["btape"], done["btape"]
    assert "The last block on the tape matches. Test succeeded." in done["btape"], done["btape"]
