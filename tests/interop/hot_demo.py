"""`./quickstart --hot`: a file system is backed up while it is written, by a server that no byte of its files crosses.

Boots a Linux of its own as an ordinary process (User-Mode Linux, no root), which logs in to a library made for this,
puts ext4 on a disk of it, and has SQLite write there without a pause. The agent backs it up, meanwhile; then the tape
is read, and the database that is on it checked by SQLite itself.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.interop import guest
from tests.interop.guest import Step
from tests.interop.hot_site import BARCODE, Site, files_of, report_of, rows_of
from tests.support import packages

HIDDEN = ("/tmp", "/run", "/dev/shm")  # by guest_init.sh
MAKE = r"""
modprobe ext4
DISK=$(retry device_of plain) && mkfs.ext4 -q -F $DISK && mkdir -p /srv/data && mount $DISK /srv/data || exit
mkdir /srv/data/large
for n in 1 2 3 4 5 6 7 8; do head -c 8M /dev/urandom >/srv/data/large/$n; done
"$PYTHON" /mnt/share/writer.py /srv/data/base.db /tmp/data.count &
WRITER=$!
retry written /tmp/data.count 20
"""
BACK_UP = f"tapebay agent backup /srv/data --exclude lost+found --to {BARCODE} --json"


def main() -> None:
    if missing := packages.missing(*guest.PACKAGES):
        raise SystemExit(f"these Debian packages are missing: {' '.join(missing)}")
    for hidden in HIDDEN:
        if Path(sys.prefix).resolve().is_relative_to(hidden):
            raise SystemExit(f"the Linux that boots has its own {hidden}, and so no {sys.prefix}; clone this elsewhere")
    with tempfile.TemporaryDirectory(prefix="tapebay-hot-") as folder, Site(Path(folder), ["plain"]) as site:
        print(
            "A Linux boots, puts a file system on a disk of a library, and SQLite writes to it without a pause.",
            flush=True,
        )
        done = site.run(
            Step("make", MAKE), Step("before", "cat /tmp/data.count"), Step("back up", BACK_UP),
            Step("after", "cat /tmp/data.count"), Step("stop", "kill $WRITER; wait $WRITER", status=None),
        )  # fmt: skip
        report = report_of(done["back up"])
        for line in done["back up"][: done["back up"].index("{\n")].splitlines():
            print(f"| {line}")
        files = files_of(site.archive())
        base = {name.removeprefix("data/"): data for name, data in files.items() if name.startswith("data/base")}
        _told(report, rows_of(Path(folder) / "restored", base), int(done["before"]), int(done["after"]))


def _told(report: dict[str, Any], rows: int, before: int, after: int) -> None:
    (part,) = report["servers"]
    if report["state"] != "done" or not before <= rows <= after:
        raise SystemExit(f"the backup is not what it has to be: {report['state']}, {before} <= {rows} <= {after} rows")
    print(f"{report['files']} files, {report['content_bytes']} bytes, on cartridge {BARCODE}: a tape that tar lists.")
    print(f"The database on it is whole, with {rows} rows. Before the backup it had {before}, after it {after}.")
    print(f"Bytes of files over the server's network: {part['payload_bytes']}; bytes in all: {part['network_bytes']}.")
    server, library = part["processor_seconds"], report["processor_seconds"]
    print(f"Seconds of a processor: the server's {server:g}, the library's {library:g}.")


if __name__ == "__main__":
    try:
        main()
    except AssertionError as error:  # a step of the guest's that failed, with all that it said
        failed, _, transcript = str(error).partition("\n")
        told = Path(sys.prefix) / "hot" / "transcript.log"
        told.write_text(transcript)
        raise SystemExit(f"{failed}; what the Linux said is in {told}") from None
