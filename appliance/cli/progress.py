"""A progress bar for what takes long."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from appliance.progress import Progress as ProgressCall
from appliance.progress import no_progress


@contextmanager
def progress_bar(text: str, wanted: bool, *, of_bytes: bool = True) -> Iterator[ProgressCall]:
    """Yields progress(done, total), which draws a bar on standard error when that is a terminal."""
    if not (wanted and sys.stderr.isatty()):
        yield no_progress
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    amount = (DownloadColumn(), TransferSpeedColumn()) if of_bytes else (MofNCompleteColumn(),)
    columns = (TextColumn("{task.description}"), BarColumn(), *amount, TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(text, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total or None)
