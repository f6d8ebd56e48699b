"""PostgreSQL, backed up hot while it is written, and back in each way: a new disk of an image that appears on the
server, into the blocks where its files are, and by tar. Its own tools judge what is restored."""

import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.interop import guest
from tests.interop.guest import Step
from tests.interop.hot_site import Site, barcode, report_of
from tests.interop.test_postgresql import program
from tests.support import packages

pytestmark = pytest.mark.guest

ROUNDS = int(os.environ.get("TAPEBAY_TEST_ROUNDS", "1"))  # of backups one after the other, while it is written
FILE_SYSTEM = os.environ.get("TAPEBAY_TEST_FILE_SYSTEM", "ext4")  # or xfs
# How it is mounted beside the one that it is a copy of, and checked.
COPIED, CHECKED = {"ext4": ("rw", "e2fsck -fn"), "xfs": ("nouuid", "xfs_repair -n")}[FILE_SYSTEM]
QUERY = "SELECT count(*), min(number), max(number), bool_and(digest = md5(number::text)) FROM rows"

MAKE = r"""
modprobe $KIND; modprobe st
PLAIN=$(retry device_of plain) && mkfs.$KIND -q $PLAIN && mkdir -p /srv/plain && mount $PLAIN /srv/plain || exit
mkdir /srv/plain/pg /run/pg && chown postgres /srv/plain/pg /run/pg && cd /srv/plain/pg || exit
as_postgres() { setpriv --reuid=postgres --regid=postgres --clear-groups -- "$@"; }
server() { # of the cluster in that directory: start or stop it
	as_postgres $PROGRAMS/pg_ctl -D "$1" -o "-k /run/pg -c listen_addresses=" -l /run/pg/log -w -t 120 "${@:2}" \
		>/dev/null
}
sql() { $PROGRAMS/psql -h /run/pg -U tapebay -d postgres -qAt "$@"; }
as_postgres $PROGRAMS/initdb -D /srv/plain/pg/data -k -A trust -U tapebay --no-sync >/dev/null || exit
server /srv/plain/pg/data start || exit
# Fewer files, which would only take time.
sql -c "UPDATE pg_database SET datistemplate = false WHERE datname <> 'postgres'" -c "DROP DATABASE template0" \
	-c "DROP DATABASE template1" -c "CREATE TABLE rows (number int PRIMARY KEY, digest text)" || exit
(
	number=0
	while number=$((number + 1)); do
		echo "INSERT INTO rows SELECT n, md5(n::text) FROM generate_series($((number * 10 - 9)), $((number * 10))) n;"
		echo "\\! echo $((number * 10)) >/tmp/told && mv /tmp/told /tmp/pg.count"
	done
) | sql -v ON_ERROR_STOP=1 &
WRITER=$!
rows_of() { # of the cluster in that directory, which starts as after a power cut; its pages are as their checksums say
	rm -f "$1/postmaster.pid" && server "$1" start || { cat /run/pg/log; return 1; }
	sql -c "$QUERY" && server "$1" -m fast stop && as_postgres $PROGRAMS/pg_checksums --check -D "$1" >/dev/null
}
again() { # restore that image into a new disk, and look at what is on it
	local disk
	disk=$(new_disk $1 again$1) && mkdir -p /srv/again && mount -o $COPIED /dev/$disk /srv/again || return
	rows_of /srv/again/pg/data && umount /srv/again
}
in_place() { # what a backup has, in place as far as it goes, and by tar where it does not
	tapebay catalogue show $1 --json >/tmp/catalogue && "$PYTHON" /mnt/share/prepare.py </tmp/catalogue &&
		tapebay agent restore /srv/plain/pg --backup $1 --dry-run --json >/tmp/plan &&
		tapebay agent restore /srv/plain/pg --backup $1 --yes --json >/tmp/done 2>/tmp/told &&
		"$PYTHON" /mnt/share/others.py /tmp/plan /tmp/done >/tmp/others || { cat /tmp/told; return 1; }
	tapebay load $2 drive:0 >/dev/null && retry tape >/tmp/drive && mt -f $(cat /tmp/drive) setblk 0 &&
		tar -b 512 -xpf $(cat /tmp/drive) -C / -T /tmp/others &&
		mt -f $(cat /tmp/drive) rewind && tapebay unload drive:0 >/dev/null && cat /tmp/count
}
"""
# Files that the backup does not have go, or the server would go on with its newer log; what has grown is cut.
PREPARE = """
import json, os, sys
sizes = {"/" + row["name"]: row["size"] for row in json.load(sys.stdin) if row["kind"] == "file"}
for folder, _, names in os.walk("/srv/plain/pg/data"):
    for path in (os.path.join(folder, name) for name in names):
        if path not in sizes:
            os.unlink(path)
        elif os.path.getsize(path) > sizes[path]:
            os.truncate(path, sizes[path])
os.sync()
"""
# Files that did not come back in place, as tar names them; and how many did.
OTHERS = """
import json, sys
plan, done = (json.load(open(path)) for path in sys.argv[1:])
for row in (*plan, *done):
    if row["why"] and "this is a" not in row["why"]:
        print(row["path"].lstrip("/"))
with open("/tmp/count", "w") as count:
    print(sum(not row["why"] for row in done), file=count)
"""


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    packages.require(*guest.PACKAGES, "postgresql")
    with Site(tmp_path, ["plain"], cartridges=2 * ROUNDS) as running:
        yield running
        assert not running.problems(), running.log_text()


def files_on(number: int) -> str:
    return barcode(2 * number - 1)


def one_round(number: int) -> list[Step]:
    command = f"tapebay agent backup /srv/plain/pg --to {files_on(number)} --json"
    if number == 1:  # as the documents show it
        command = "tapebay agent run postgresql --agent-file /mnt/share/agent.toml --json"
    count = "cat /tmp/pg.count"
    return [
        Step(f"written {number}", "retry written /tmp/pg.count $(cat /tmp/pg.count)"), Step(f"before {number}", count),
        Step(f"back up {number}", f"cd / && {command}"), Step(f"after {number}", count),
        Step(f"image {number}", f"tapebay agent backup /srv/plain --image --to {barcode(2 * number)} --json"),
        Step(f"after image {number}", count),
    ]  # fmt: skip


def restored_in_place(number: int) -> list[Step]:
    return [
        Step(f"in place {number}", f"in_place {2 * number - 1} {files_on(number)}"),
        Step(f"restored {number}", "rows_of /srv/plain/pg/data"),
    ]


@pytest.mark.timeout(400 + 400 * ROUNDS)
def test_postgresql_in_the_middle_of_its_work(site: Site) -> None:
    """Whatever way it comes back, it starts as after a power cut, and has every row that was committed before the
    backup began. By hand: TAPEBAY_TEST_ROUNDS=10 TAPEBAY_TEST_FILE_SYSTEM=xfs."""
    programs = Path(program("initdb")).resolve().parent
    token = site.call("token.create", name="restorer", scope="administer")["token"]
    numbers = range(1, ROUNDS + 1)
    variables = f"PROGRAMS={programs} KIND={FILE_SYSTEM} COPIED={COPIED} QUERY='{QUERY}'\n"
    done = site.run(
        Step("make", variables + MAKE),
        Step("written", "retry retry written /tmp/pg.count 50"),
        Step("connection", "export PGHOST=/run/pg PGUSER=tapebay PGDATABASE=postgres"),
        *(step for number in numbers for step in one_round(number)),
        Step("stop", "kill $WRITER; server /srv/plain/pg/data -m immediate stop", status=None),
        Step("token", f"export TAPEBAY_TOKEN={token}"),
        *(Step(f"again {number}", f"again {2 * number}") for number in numbers),
        *(step for number in numbers for step in restored_in_place(number)),
        Step("checked", f"umount /srv/plain && {CHECKED} $PLAIN"),
        programs={
            "prepare.py": PREPARE,
            "others.py": OTHERS,
            **site.agent_files("postgresql", paths=["/srv/plain/pg"], to=[files_on(1)]),
        },
        timeout_seconds=300 + 350 * ROUNDS,
    )
    for number in numbers:
        assert report_of(done[f"back up {number}"])["state"] == "done"
        before, after, after_image = (
            int(done[f"{when} {number}"]) for when in ("before", "after", "after image")
        )  # fmt: skip
        is_whole(by_tar(site.archive(files_on(number)), programs), before, after)
        is_whole(done[f"again {number}"], after, after_image)
        is_whole(done[f"restored {number}"], before, after)
        assert int(done[f"in place {number}"]) > 100


def is_whole(shown: str, least: int, most: int) -> None:
    """What QUERY said of a database with every row up to one of these, or the ten that were being committed."""
    count, first, last, right = shown.strip().split("|")
    assert (first, last, right) == ("1", count, "t")
    assert least <= int(count) <= most + 10


def by_tar(archive: Path, programs: Path) -> str:
    """What QUERY says on this machine."""
    with tempfile.TemporaryDirectory(prefix="tapebay-pg-") as folder:  # short: the socket's path has 107 bytes
        Path(folder).chmod(0o755)
        subprocess.run(["tar", "-b", "512", "-xpf", archive, "-C", folder], check=True)
        data, user = f"{folder}/srv/plain/pg/data", "postgres" if os.geteuid() == 0 else None
        Path(data, "postmaster.pid").unlink()
        run = {"user": user, "cwd": "/", "check": True, "stdout": subprocess.DEVNULL}
        options = f"-k {folder}/srv/plain/pg -c listen_addresses="
        subprocess.run([programs / "pg_ctl", "-D", data, "-o", options, "-l", f"{data}/log", "-w", "start"], **run)  # type: ignore[call-overload]
        try:
            shown = subprocess.run(
                [programs / "psql", "-h", f"{folder}/srv/plain/pg", "-U", "tapebay", "-d", "postgres", "-qAtc", QUERY],
                check=True, capture_output=True, text=True, cwd="/",
            )  # fmt: skip
        finally:
            subprocess.run([programs / "pg_ctl", "-D", data, "-m", "fast", "-w", "stop"], **run)  # type: ignore[call-overload]
        subprocess.run([programs / "pg_checksums", "--check", "-D", data], **run)  # type: ignore[call-overload]
    return shown.stdout
