"""The API against its own OpenAPI document, by schemathesis: a daemon with a small library, and requests made of the
document, right ones and wrong ones.

python -m tests.conformance.schemathesis_run [EXAMPLES] [OPTION...]

Left out are the verbs that would end the daemon, write files of this machine, or revoke the token that is used.
"""

import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests.support.appliance import Appliance, Disk
from tests.support.ports import free_port

# An entity tag that is made up is no version of anything: 412 (RFC 9110 13.1.1) is what it has to be answered.
SETTINGS = """
[checks.positive_data_acceptance]
expected-statuses = ["2xx", "3xx", 401, 403, 404, 409, 412, 429, "5xx"]
"""
# What ends the daemon or this token, works on this machine's files, or waits for servers that never come.
LEFT_OUT = r"^/v1/(shutdown|token/revoke|backup/gather|cartridge/(import|export|recover)|disk/(import|export))$"


def run(folder: Path, examples: int, options: Sequence[str] = (), seed: int | None = None) -> tuple[int, str]:
    """schemathesis's exit status and output."""
    port = free_port()
    more = f'[api]\nlisten = "127.0.0.1:{port}"\n[gate]\ntarget = "iqn.2026-11.io.tapebay:gate"\n'
    with Appliance(folder, disks=[Disk("data", "1 MiB")], cartridges=3, more=more) as appliance:
        token = appliance.call("token.create", name="schemathesis", scope="administer")["token"]
        seeded = [] if seed is None else [f"--seed={seed}"]
        command = [
            *(sys.executable, "-m", "schemathesis.cli", "run", f"http://127.0.0.1:{port}/v1/openapi.json"),
            *("--header", f"Authorization: Bearer {token}", "--exclude-path-regex", LEFT_OUT),
            *("--max-examples", str(examples), "--no-color", "--request-timeout=60", *seeded, *options),
        ]
        (folder / "schemathesis.toml").write_text(SETTINGS)
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        problems = [entry for entry in appliance.problems() if "has been tampered" not in entry["event"]]
        assert not problems, problems
    return done.returncode, done.stdout + done.stderr


def main() -> int:
    examples = int(sys.argv[1]) if len(sys.argv) > 1 else 50
    with tempfile.TemporaryDirectory() as folder:
        status, output = run(Path(folder), examples, sys.argv[2:])
    print(output)
    return status


if __name__ == "__main__":
    sys.exit(main())
