"""Python reads this at its start where tests/support/jitter.py has put it on the path."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[3]))

from tests.support import jitter

jitter.install()
sys.path.pop()
