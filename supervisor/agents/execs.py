"""Commands that a person runs in an agent's container: said before they run, and after (D12).

The one with the terminal runs them, not the supervisor: between the two calls it may be killed, or
restarted. What is left then is an intent without an outcome.
"""

import shlex

from supervisor.agents.ledger import Change
from supervisor.audit import record
from supervisor.errors import ErrorCode, SupervisorError
from supervisor.policy.access import Principal
from supervisor.ports.agent import Begun
from supervisor.ports.runtime import Command, Process

OPEN_LIMIT = 1_000


class OpenExecs:
    """Those that were begun and have not been said to have ended, under this supervisor."""

    def __init__(self) -> None:
        self._ids: dict[str, None] = {}

    def add(self, exec_id: str) -> None:
        """It is begun. The oldest is forgotten where there are too many: nobody ends them."""
        self._ids[exec_id] = None
        if len(self._ids) > OPEN_LIMIT:
            del self._ids[next(iter(self._ids))]

    def take(self, exec_id: str) -> None:
        """It ends, once. `bad_request` for any other."""
        if exec_id not in self._ids:
            raise SupervisorError(
                ErrorCode.BAD_REQUEST,
                "no such command is under way: it has ended, or the supervisor was restarted",
            )
        del self._ids[exec_id]


def begun(process: Process, exec_id: str, command: Command) -> Begun:
    """How it is run. `bad_request` if the app-server is in no container."""
    line = process.exec_line(command)
    if line is None:
        raise SupervisorError(
            ErrorCode.BAD_REQUEST,
            "this project's app-server runs in no container",
            hint="It runs as you do: use a shell of your own, in the project's directory.",
        )
    return Begun(exec_id=exec_id, line=line)


def intent(who: Principal, exec_id: str, command: Command) -> Change:
    """What is committed before it may be run."""
    draft = record.exec_begun(
        who,
        exec_id,
        shlex.join(command.argv),
        str(command.directory),
        tty=command.terminal is not None,
    )
    return Change(drafts=[draft])


def outcome(who: Principal, exec_id: str, exit_code: int, duration_ms: int) -> Change:
    """What is committed once it has ended."""
    return Change(drafts=[record.exec_ended(who, exec_id, exit_code, duration_ms)])
