"""The bench of table 1: networks as fast as they say, that count what they carry; each way is what it is called."""

import socket
import threading
from collections.abc import Iterator
from xml.etree import ElementTree

import pytest

from tests.bench import chart, table1
from tests.support import packages
from tests.support.shaped_network import BURST_SECONDS, Link, ShapedNetwork

SIZE = 8 << 20
SVG = "{http://www.w3.org/2000/svg}"


class Clock:
    """Time that passes only where something sleeps, and there by a little more than asked for."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds * 1.2


@pytest.mark.parametrize("rate", [1e5, 12.5e6, 125e6])
def test_a_link_has_its_rate(rate: float) -> None:
    clock = Clock()
    link = Link(rate, clock, clock.sleep)
    for _ in range(1000):
        link.pass_on(link.chunk_bytes)
    took, least = clock.now - 100.0, 1000 * link.chunk_bytes / rate
    assert least - BURST_SECONDS <= took < least * 1.01
    assert link.bytes == 1000 * link.chunk_bytes


def test_who_paused_catches_up_with_little() -> None:
    clock = Clock()
    link = Link(1e6, clock, clock.sleep)
    clock.now += 50
    link.pass_on(1_000_000)
    assert clock.now - 150.0 >= 1.0 - BURST_SECONDS


def test_a_network_carries_both_ways_and_counts() -> None:
    server = socket.create_server(("127.0.0.1", 0))

    def answer() -> None:
        connection, _ = server.accept()
        with connection:
            taken = b""
            while data := connection.recv(1 << 16):
                taken += data
            connection.sendall(taken[::-1] * 2)

    thread = threading.Thread(target=answer)
    thread.start()
    sent = bytes(range(256)) * 4000
    with ShapedNetwork() as network:
        with socket.create_connection(network.reach(server.getsockname()[:2])) as client:
            client.sendall(sent)
            client.shutdown(socket.SHUT_WR)
            got = b""
            while data := client.recv(1 << 16):
                got += data
        thread.join()
    server.close()
    assert got == sent[::-1] * 2
    assert (network.to_server.bytes, network.from_server.bytes) == (len(sent), 2 * len(sent))


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[table1.Site]:
    packages.require("libiscsi7")
    with table1.site(tmp_path_factory.mktemp("table1"), SIZE) as running:
        yield running


# Through how many servers the data goes, and how often over each network.
WAYS = {
    "a": (2, {"production": 1, "backup": 0, "SAN": 2}),
    "b": (2, {"production": 0, "backup": 1, "SAN": 2}),
    "c": (1, {"production": 0, "backup": 0, "SAN": 2}),
    "d": (0, {"production": 0, "backup": 0, "SAN": 0}),
}


@pytest.mark.parametrize("way", WAYS)
def test_where_the_data_goes(site: table1.Site, way: str) -> None:
    row = site.back_up(way, None)
    servers, times = WAYS[way]
    assert row.servers == servers
    for network, count in times.items():
        carried = row.network_bytes[network] / SIZE
        assert count <= carried < count + 0.02, network
    assert row.seconds > 0 and row.server_seconds > 0


def test_the_table_and_its_plot() -> None:
    rows = [
        table1.Row(way, rate, SIZE, 0.5 + number, dict.fromkeys(table1.NETWORKS, number), 0.25, 0.5, number)
        for rate in (12.5e6, None)
        for number, way in enumerate("abcd")
    ]
    lines = table1.table(rows).splitlines()
    assert len(lines) == 2 + len(rows)
    assert lines[2].startswith("| 100 Mbit/s | (a) over the production network | 16.8 | 0.0 |")
    assert "| 32.00 | 64.00 | 0 |" in lines[2]
    drawn = ElementTree.fromstring(table1.plot(rows))
    texts = [text.text for text in drawn.iter(f"{SVG}text")]
    assert {"100 Mbit/s", "unlimited", "(d) server-less", "MB/s"} <= set(texts)


def test_bars_are_as_high_as_what_they_show() -> None:
    drawn = ElementTree.fromstring(
        chart.chart(
            ["one", "<other>"], [chart.Panel("a & b", [chart.Group("x", [1.0, 4.0]), chart.Group("y", [2.0, 0.0])])]
        )
    )
    bars = list(drawn.iter(f"{SVG}rect"))[3:]  # the ground and the legend come first
    heights = [float(bar.attrib["height"]) for bar in bars]
    assert [height / max(heights) for height in heights] == pytest.approx([0.25, 1.0, 0.5, 0.0], abs=0.01)


@pytest.mark.parametrize(("value", "upright"), [(2148.0, True), (12.0, False)])
def test_figures_wider_than_their_bars_read_upwards_and_cover_nothing(value: float, upright: bool) -> None:
    group = chart.Group("x", [value] * 4)
    drawn = ElementTree.fromstring(chart.chart(list("abcd"), [chart.Panel("p", [group, group, group])]))
    figures = [text for text in drawn.iter(f"{SVG}text") if text.attrib.get("font-size") == "8"]
    assert len(figures) == 12
    assert ["rotate(-90)" in text.attrib.get("transform", "") for text in figures] == [upright] * 12


@pytest.mark.parametrize("text", ["", "100", "1T", "-1G", "1 G"])
def test_what_is_no_rate(text: str) -> None:
    with pytest.raises(Exception, match="is no rate"):
        table1.parse_rate(text)
