"""The figures for Prometheus: read by its own parser, and as large as what was done."""

import re
from pathlib import Path

import httpx
from prometheus_client.parser import text_string_to_metric_families

from datamover.initiator import InitiatorSession
from tests.support.appliance import TARGET_NAME, Appliance, Disk
from tests.support.ports import free_port
from tests.support.scsi import TEST_UNIT_READY, write_6, write_10
from tests.support.waiting import becomes
from tests.unit.appliance.daemon_process import ROOT


def scraped(http: httpx.Client) -> dict[str, dict[tuple[str, ...], float]]:
    """By name, then by the values of the labels."""
    answer = http.get("/metrics")
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    found: dict[str, dict[tuple[str, ...], float]] = {}
    for family in text_string_to_metric_families(answer.text):
        assert family.documentation, family.name
        for sample in family.samples:
            found.setdefault(sample.name, {})[tuple(value for _, value in sorted(sample.labels.items()))] = sample.value
    return found


def work(appliance: Appliance) -> None:
    """A block of 1000 bytes to drive0, eight blocks to the disk."""
    for lun, cdb, data in [(1, write_6(1000), bytes(1000)), (3, write_10(0, 8), bytes(4096))]:
        with InitiatorSession(appliance.portal, TARGET_NAME) as session:
            session.command(lun, TEST_UNIT_READY)  # a unit attention
            session.command(lun, TEST_UNIT_READY)
            result = session.command(lun, cdb, data)
            assert result.status == 0, result


def test_figures_of_a_library_at_work(tmp_path: Path) -> None:
    port = free_port()
    more = f'[api]\nlisten = "127.0.0.1:{port}"\n[gate]\ntarget = "iqn.2026-11.io.tapebay:gate"\n'
    with Appliance(tmp_path, disks=[Disk("data", "1 MiB")], cartridges=3, more=more) as appliance:
        token = appliance.call("token.create", name="prometheus", scope="read")["token"]
        headers = {"Authorization": f"Bearer {token}"}
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", headers=headers, timeout=60) as http:
            check(appliance, http)
        assert httpx.get(f"http://127.0.0.1:{port}/metrics", timeout=60).status_code == 401


def check(appliance: Appliance, http: httpx.Client) -> None:
    before = scraped(http)
    assert before["tapebay_drive_bytes_total"] == {
        (direction, drive): 0 for drive in ("drive0", "drive1") for direction in ("read", "write")
    }
    appliance.load()
    work(appliance)
    appliance.call("unload", drive="drive:0", force=True)
    appliance.load("TST002L6")
    work(appliance)
    appliance.call("pool.create", name="tests", barcodes="TST*", cartridges="X00001L6")
    becomes(1, lambda: appliance.call("pool.show", name="tests")["blank"])  # each asking looks at some more
    snapshot = appliance.call("snapshot.create", disks="data", budget="1 MiB")["snapshot"]
    becomes(0, lambda: scraped(http).get("tapebay_sessions", {}).get((TARGET_NAME,)))
    found = scraped(http)
    assert found["tapebay_drive_bytes_total"]["write", "drive0"] == 2000  # over both cartridges
    assert found["tapebay_drive_loads_total"]["drive0",] - before["tapebay_drive_loads_total"]["drive0",] == 2
    assert found["tapebay_drive_loaded"] == {("drive0",): 1, ("drive1",): 0}
    assert found["tapebay_disk_bytes_total"]["write", "data"] == 8192
    assert found["tapebay_disk_commands_total"]["write", "data"] == 2
    assert found["tapebay_snapshot_budget_bytes"] == {("data", snapshot): 1 << 20}
    assert found["tapebay_changer_moves_total"]["changer",] - before["tapebay_changer_moves_total"]["changer",] == 3
    assert found["tapebay_elements_full"]["storage",] == 2
    assert found["tapebay_sessions_begun_total"][TARGET_NAME,] == 4
    assert found["tapebay_sessions"][TARGET_NAME,] == 0
    assert found["tapebay_target_bytes_total"]["in", TARGET_NAME] > 2000 + 8192
    assert found["tapebay_target_commands_total"][TARGET_NAME,] >= 12
    assert found["tapebay_requests"]["queued",] == 0
    assert found["tapebay_pool_cartridges"] == {("tests",): 3}
    assert found["tapebay_pool_blank_cartridges"] == {("tests",): 1}  # one was written, one is loaded
    assert found["tapebay_audit_events_total"][()] > before["tapebay_audit_events_total"][()]
    assert found["tapebay_api_answers_total"]["200",] >= 1
    assert found["process_resident_memory_bytes"][()] > 0
    names = {name for name in found if name.startswith("tapebay_")}
    documented = set(re.findall(r"`(tapebay_\w+)`", (ROOT / "docs" / "api.md").read_text()))
    assert names == documented
