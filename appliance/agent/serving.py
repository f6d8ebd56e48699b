"""`tapebay agent serve`: takes part in backups of several servers whenever this server is wanted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from appliance.agent.asking import Asking
from appliance.agent.backup import EXPECTED, AgentJob, HotBackup, MountedSource
from appliance.agent.network_process import NetworkProcessEnded
from appliance.failures import Failure, OperatorError

LOOK_SECONDS: Final = 5.0


def serve(
    hot: HotBackup,
    found: Callable[[str], tuple[AgentJob, list[MountedSource]]],
    asking: Asking,
    on: Callable[[], bool] = lambda: True,
) -> None:
    """While on(). found: a job of this server by its name, and its file systems; what it raises is the reason why this
    server does not take part. Raises OperatorError where the appliance lets it in no more, or this process cannot ask
    it any more."""
    while on():
        try:
            wanted = asking.call("backup.wanted", server=hot.name)
        except OperatorError as error:
            if error.failure is Failure.NOT_PERMITTED or isinstance(error, NetworkProcessEnded):
                raise
            hot.told(str(error))
            wanted = []
        for name in wanted:
            _take_part(hot, name, found)
        asking.pause(LOOK_SECONDS)


def _take_part(hot: HotBackup, name: str, found: Callable[[str], tuple[AgentJob, list[MountedSource]]]) -> None:
    hot.told(f"job {name} is gathered")
    try:
        job, sources = found(name)
    except (OperatorError, *EXPECTED, OSError) as error:
        hot.told(f"job {name}: {error}")
        hot.decline(name, str(error))
        return
    try:
        report = hot.take_part(job, sources)
    except (OperatorError, *EXPECTED, OSError) as error:
        hot.told(f"job {name}: {error}")
    else:
        hot.told(f"job {name}: backup {report['number']} is {report['state']} {report['reason']}".rstrip())
