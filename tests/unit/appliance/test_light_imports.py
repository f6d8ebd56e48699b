"""What every command imports does not include the database: that is for the daemon and for work without one."""

import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    "module", ["appliance.cli.app", "appliance.settings.config_file", "scsi_targets.devices.changer.models"]
)
def test_the_database_is_not_imported(module: str) -> None:
    program = f"import sys, {module}; sys.exit('sqlalchemy' in sys.modules or 'alembic' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True)


def test_alembic_is_not_imported_for_a_current_schema() -> None:
    program = (
        "import sys, tempfile, pathlib; from vlib_images.library.database.database import Database;"
        "Database.create(pathlib.Path(tempfile.mkdtemp()) / 'tapebay.db').close(); sys.exit('alembic' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
