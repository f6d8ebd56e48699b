"""The examples of docs/api.md, run as they stand there."""

import json
import os
import re
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from appliance.web.app import make_app
from tests.support import certificates, packages
from tests.support.appliance import Appliance
from tests.support.ports import free_port
from tests.unit.appliance.daemon_process import ROOT

# Each example has its status; a stream that goes on is left after a while.
CURL = "curl() { command curl -sS --max-time ${SECONDS_EACH:-60} -w '\\n%{http_code}\\n' \"$@\"; }\n"


def examples() -> list[str]:
    return re.findall(r"```sh\n(.*?)```", (ROOT / "docs" / "api.md").read_text(), re.DOTALL)


def test_the_examples_do_what_the_text_says(tmp_path: Path) -> None:
    packages.require("curl")
    port = free_port()
    pair = certificates.make(tmp_path)
    more = f'[api]\nlisten = "127.0.0.1:{port}"\ncertificate = "{pair.certificate}"\nkey = "{pair.key}"\n'
    with Appliance(tmp_path, cartridges=0, more=more) as appliance:
        appliance.call("cartridge.create", barcode="A00001L6", count=3)
        token = appliance.call("token.create", name="docs", scope="operate")["token"]
        environment = {**os.environ, "API": f"https://127.0.0.1:{port}", "TOKEN": token, "CA": str(pair.authority)}
        answers = []
        for example in examples():
            seconds = "3" if "/v1/events" in example else "60"
            done = subprocess.run(
                ["bash", "-c", CURL + example],
                env={**environment, "SECONDS_EACH": seconds},
                capture_output=True,
                text=True,
                check=False,
            )
            assert done.returncode in ((0, 28) if seconds == "3" else (0,)), f"{example}{done.stdout}{done.stderr}"
            answers.append(done.stdout)
    loaded, shown, page, verified, made, protected, stream = answers
    assert '"to":"drive:0"' in loaded
    assert '"barcode":"A00001L6"' in shown
    assert '"next_cursor":"' in page
    assert verified.rstrip().endswith("200")
    assert "event: result" in verified
    assert '"A00009L6"' in made
    assert protected.rstrip().endswith("412")
    assert '"code":"changed"' in protected
    assert "\nid: " in stream
    assert '"subject":"A00001L6"' in stream


def test_each_bound_in_the_document_is_a_number_that_every_reader_has_exactly() -> None:
    """RFC 8259 6: beyond 2**53 a reader may round, and ask for what is refused all the same."""
    app = make_app(lambda progress: None, threading.Event())  # type: ignore[arg-type, return-value]
    bounds = dict(_bounds(json.loads(json.dumps(app.openapi())), ""))
    assert len(bounds) > 50
    assert {path: bound for path, bound in bounds.items() if abs(bound) >= 1 << 53} == {}


def _bounds(node: Any, path: str) -> Iterator[tuple[str, float]]:
    children = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for name, child in children:
        if str(name).lower().endswith(("maximum", "minimum")) and isinstance(child, int | float):
            yield f"{path}/{name}", child
        yield from _bounds(child, f"{path}/{name}")
