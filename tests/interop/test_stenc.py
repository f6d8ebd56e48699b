"""stenc, the encryption manager of Linux, with tar and dd on a guest; then what lies on the host's disk, decrypted by
the specification and searched for what must not be there."""

import re

import pytest

from tests.interop.guest import GuestRun, Step
from tests.interop.session import run_in_guest
from tests.support import packages
from tests.support.appliance import FIRST_BARCODE, Appliance
from tests.unit.cartridge.format_reader import document, read_partition

pytestmark = pytest.mark.guest

TREE = "tree that nobody but the owner of the key may read"
# What the kernel's st says when a drive refuses to read.
REFUSALS = r"\[st0\] (Sense Key|ASC=|Add. Sense)"


def stenc(name: str, options: str, *, status: int = 0) -> Step:
    """Algorithm index 1 is AES-256-GCM, as in LTO drives; stenc 1.0 asks for index 0 unless told."""
    return Step(name, f"stenc -f $TAPE0_SG -a 1 {options}", status)


def shown(name: str) -> Step:
    return Step(name, "stenc -f $TAPE0_SG --detail")


def at_file(number: int) -> str:
    return "mt -f $TAPE0 rewind" + (f" && mt -f $TAPE0 fsf {number}" if number else "")


def write(name: str, file: int, options: str = "") -> Step:
    return Step(name, f"{at_file(file)} && tar -C /tmp -b 64 -cf $TAPE0 {options or 'tree'}")


def same(name: str, file: int) -> Step:
    """What tar reads there is what was written."""
    script = f"{at_file(file)} && rm -rf /tmp/back && mkdir /tmp/back && tar -C /tmp/back -b 64 -xf $TAPE0"
    return Step(name, f"{script} && diff -r /tmp/tree /tmp/back/tree")


def refused(name: str, file: int) -> Step:
    """Reading fails with EIO; the step prints what dd says and the sense data that st logged."""
    script = f"{at_file(file)} && dd if=$TAPE0 bs=32k of=/dev/null 2>&1 | grep error"
    return Step(name, f"{script}; dmesg | grep 'st0\\].*\\(Sense Key\\|ASC=\\|Add. Sense\\)' | tail -2")


def details(output: str) -> dict[str, str]:
    """What `stenc --detail` says, by name; lines that go on are joined with a slash."""
    found: dict[str, str] = {}
    name = ""
    for line in output.splitlines()[2:]:
        head, value = line[:25].strip().rstrip(":"), line[25:].strip()
        if head:
            name = head
            found[name] = value
        elif value:
            found[name] += f" / {value}"
    return found


def sense(output: str) -> tuple[int, int, int]:
    """(sense key, ASC, ASCQ) of a refused() step."""
    assert "Input/output error" in output, output
    numbers = re.findall(r"(?:Sense Key :|ASC=|ASCQ=)\s*0x([0-9a-f]+)", output)
    key, code, qualifier = (int(number, 16) for number in numbers)
    return key, code, qualifier


STEPS = (
    Step("load", "mtx -f $CHANGER load 1 0 && mt -f $TAPE0 status >/dev/null"),
    # stenc seeds its generator with what is typed.
    Step("first key", "echo asdfghjkl | stenc -g 256 -k /tmp/a.key -kd 'September key' >/dev/null && cat /tmp/a.key"),
    Step("second key", "echo qwertzuiop | stenc -g 256 -k /tmp/b.key -kd 'October key' >/dev/null && cat /tmp/b.key"),
    Step("data", f"mkdir /tmp/tree && cp /usr/bin/bash /tmp/tree && yes '{TREE}' | head -c 200k >/tmp/tree/text"),
    write("in clear", 0),
    Step("length of the clear file", "mt -f $TAPE0 tell"),
    Step("rewind", "mt -f $TAPE0 rewind"),
    shown("nothing set"),
    stenc("index 0", "-e on -k /tmp/a.key -a 0", status=1),
    Step("short key", "echo zxcvbnm | stenc -g 128 -k /tmp/short.key >/dev/null"),
    stenc("a key of 128 bits", "-e on -k /tmp/short.key", status=1),
    stenc("on", "-e on -k /tmp/a.key"),
    write("encrypted", 1),
    Step("to file 1", at_file(1)),
    shown("on, at an encrypted block"),
    Step("through st", "stenc -f $TAPE0 --detail"),
    same("read with the key", 1),
    refused("clear text while decrypting", 0),
    stenc("off", "-e off"),
    Step("to file 1 again", at_file(1)),
    shown("off, at an encrypted block"),
    refused("without a key", 1),
    stenc("another key", "-e on -k /tmp/b.key"),
    Step("to file 1 once more", at_file(1)),
    shown("another key, at an encrypted block"),
    refused("with another key", 1),
    stenc("mixed", "-e mixed -k /tmp/a.key"),
    Step("to the beginning", at_file(0)),
    shown("mixed, at clear text"),
    same("clear text in mixed mode", 0),
    same("encrypted in mixed mode", 1),
    stenc("clear on demount", "-e on -k /tmp/a.key --ckod"),
    Step("demount", "mtx -f $CHANGER unload 1 0 && mtx -f $CHANGER load 1 0 && mt -f $TAPE0 status >/dev/null"),
    Step("to file 1 after that", at_file(1)),
    shown("demounted"),
    refused("after the demount", 1),
    stenc("protected", "-e on -k /tmp/a.key --protect"),
    write("write protected from raw reading", 2),
    stenc("unprotected", "-e on -k /tmp/a.key --unprotect"),
    write("write without protection", 3),
    stenc("raw", "-e rawread -k /tmp/b.key"),
    Step("to file 2", at_file(2)),
    shown("raw, at a protected block"),
    refused("raw reading of a protected block", 2),
    Step("raw reading", f"{at_file(3)} && dd if=$TAPE0 bs=256k count=1 2>/dev/null | tee /tmp/raw | head -c 7"),
    Step("raw is not clear", f"grep -qaF '{TREE}' /tmp/raw", 1),
    Step("where it is encrypted", "sg_logs -p 0x17 $TAPE0_SG | grep -A 4 'first encrypted'"),
    # As somebody at a terminal types it: twice, and yes.
    Step("typed", "head -1 /tmp/a.key >/tmp/typed; cat /tmp/typed /tmp/typed >/tmp/twice; echo y >>/tmp/twice"),
    stenc("on again", "-e on -kd 'typed in' </tmp/twice"),
    shown("typed in"),
    same("read at last", 3),
    Step("into the other drive", "mtx -f $CHANGER unload 1 0 && mtx -f $CHANGER load 1 1 && mt -f $TAPE1 status"),
    Step("to file 1 there", "mt -f $TAPE1 fsf 1"),
    Step("in the other drive", "stenc -f $TAPE1_SG --detail"),
)  # fmt: skip


@pytest.mark.timeout(240)
def test_stenc_manages_the_keys_of_a_drive(appliance: Appliance) -> None:
    packages.require("stenc", "sg3-utils", "mt-st", "mtx")
    done = run_in_guest(appliance, STEPS, allowed=REFUSALS, timeout_seconds=200)
    check_what_stenc_said(done)
    check_what_the_kernel_said(done)
    keys = [done[name].splitlines()[0] for name in ("first key", "second key")]
    appliance.stop()
    check_what_lies_on_disk(appliance, keys)
    appliance.start()


def check_what_stenc_said(done: GuestRun) -> None:
    clear = details(done["nothing set"])
    assert clear["Drive Encryption"] == "off"
    assert clear["Drive Input"] == "Not encrypting"
    assert clear["Volume Encryption"] == "Not encrypted"
    assert "Illegal Request (0x05)" in done["index 0"]
    assert re.search(r"ASC: +0x26", done["index 0"])
    on = details(done["on, at an encrypted block"])
    assert on["Drive Encryption"] == "on"
    assert on["Drive Output"] == "Decrypting / Unencrypted data not outputted"
    assert (on["Drive Input"], on["Encryption Algorithm"]) == ("Encrypting", "1")
    assert on["Drive Key Desc.(uKAD)"] == "September key"
    assert (on["Volume Encryption"], on["Volume Algorithm"]) == ("Encrypted and able to decrypt", "1")
    assert details(done["through st"]) == on
    assert re.search(r"ASC: +0x26", done["a key of 128 bits"])
    assert details(done["typed in"])["Drive Key Desc.(uKAD)"] == "typed in"
    assert details(done["in the other drive"])["Drive Encryption"] == "off"
    for name, drive in (
        ("off, at an encrypted block", "off"),
        ("another key, at an encrypted block", "on"),
        ("in the other drive", "off"),
    ):
        page = details(done[name])
        assert page["Drive Encryption"] == drive
        assert page["Volume Encryption"] == "Encrypted, but unable to decrypt due to invalid key."
        assert page["Volume Key Desc.(uKAD)"] == "September key"
    another = details(done["another key, at an encrypted block"])
    assert another["Drive Key Desc.(uKAD)"] == "October key"
    mixed = details(done["mixed, at clear text"])
    assert (mixed["Drive Encryption"], mixed["Volume Encryption"]) == ("mixed", "Not encrypted")
    assert mixed["Drive Output"] == "Decrypting / Unencrypted data outputted"
    assert details(done["demounted"])["Drive Encryption"] == "off"
    raw = details(done["raw, at a protected block"])
    assert (raw["Drive Encryption"], raw["Drive Output"]) == (
        "rawread",
        "Not decrypting / Raw encrypted data outputted",
    )
    assert raw["Volume Key Desc.(uKAD)"] == "September key / Protected from raw read"
    assert done["raw reading"] == "TBRAWBK"
    numbers = [int(number, 16) for number in re.findall(r"data counter: 0x([0-9a-f]+)", done["where it is encrypted"])]
    clear_file = int(re.search(r"At block (\d+)", done["length of the clear file"])[1])  # type: ignore[index]
    assert numbers == [clear_file, 0xFFFFFFFFFFFF]
    counters = [int(page["Key Instance Counter"]) for page in (clear, on, another, mixed, raw)]
    assert counters == sorted(set(counters)), "each key has an instance counter of its own"


def check_what_the_kernel_said(done: GuestRun) -> None:
    assert sense(done["without a key"]) == (7, 0x74, 0x01)
    assert sense(done["after the demount"]) == (7, 0x74, 0x01)
    assert sense(done["clear text while decrypting"]) == (7, 0x74, 0x02)
    assert sense(done["with another key"]) == (7, 0x74, 0x03)
    assert sense(done["raw reading of a protected block"]) == (7, 0x74, 0x0A)


def check_what_lies_on_disk(appliance: Appliance, keys: list[str]) -> None:
    """By a reader that was written from FORMAT.md and decrypts with a library: what was encrypted, with which key."""
    cartridge = appliance.folder / "cartridges" / FIRST_BARCODE
    uuid = bytes.fromhex(document(cartridge / "cartridge.json")["uuid"])
    objects = read_partition(cartridge / "p0", uuid, 0, bytes.fromhex(keys[0]))
    files: list[bytes] = [b""]
    for item in objects:
        if item is None:
            files.append(b"")
        else:
            files[-1] += item
    assert [TREE.encode() in file for file in files] == [True, True, True, True, False]
    stored = b"".join(path.read_bytes() for path in (cartridge / "p0").glob("*.seg"))
    assert TREE.encode() in stored[: len(stored) // 3]  # the file in clear
    assert TREE.encode() not in stored[len(stored) // 3 :]
    everything = [path for path in appliance.folder.rglob("*") if path.is_file()]
    secrets = [form for key in keys for form in (bytes.fromhex(key), key.encode(), key.upper().encode())]
    for path in everything:
        content = path.read_bytes()
        assert not [secret for secret in secrets if secret in content], path
    log = "\n".join(map(str, appliance.log)).encode()
    assert b"data encryption set" in log
    assert not [secret for secret in secrets if secret in log]
