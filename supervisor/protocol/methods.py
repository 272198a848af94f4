"""The method table: every message of the pinned codex, its scope, and what may be done with it.

Names, scopes and fields are generated (`supervisor.protocol.generate`); policies are written by
hand (`supervisor.protocol.policy_table`). A message that is not in the table: a client request is
refused, a server request gets an error, a notification passes and is counted.
"""

from enum import StrEnum, unique
from importlib.resources import files

import msgspec

from supervisor.errors import ErrorCode, SupervisorError
from supervisor.protocol import policy_table


@unique
class Scope(StrEnum):
    """What a message is about; each scope carries the ids of those before it, `process` apart."""

    NONE = "none"
    THREAD = "thread"
    TURN = "turn"
    ITEM = "item"
    PROCESS = "process"
    """A process of the client's own (`command/exec`, `process/spawn`), in no thread."""


@unique
class Policy(StrEnum):
    """What is done with a message that wants through."""

    READ = "read"
    """A client request that changes nothing: passes as it is."""
    ACT = "act"
    """A client request that acts: its intent is committed before it is written."""
    REWRITE = "rewrite"
    """A client request whose params are checked and changed first. `acts` says if it acts too."""
    OPERATOR = "operator"
    """A client request for operators alone. Counts as one that acts."""
    OWN = "own"
    """Answered by the supervisor for each client; never written upstream for one."""
    REFUSE = "refuse"
    """Nobody may: a client gets an error; the app-server gets an error for its request."""
    ASK = "ask"
    """A server request that waits for a person."""
    TOOL = "tool"
    """A server request that waits for a client's program."""
    CLOCK = "clock"
    """A server request the supervisor answers with the time."""
    PASS = "pass"  # noqa: S105  # not a password
    """A notification: delivered to whoever sees its thread."""


class Method(msgspec.Struct, frozen=True, kw_only=True):
    """One row of the table."""

    name: str
    scope: Scope
    policy: Policy
    acts: bool
    """The intent is committed before it is written, its outcome after."""
    experimental: bool
    """Codex serves it only to connections with `capabilities.experimentalApi`."""
    delta: bool
    """A piece of a stream (text, output, audio): replayed for a while, never a row."""
    required: frozenset[str]
    """Fields of the params that must be there, and those that may."""
    optional: frozenset[str]

    @property
    def fields(self) -> frozenset[str]:
        """Every top-level field Codex knows in the params."""
        return self.required | self.optional


class _Row(msgspec.Struct, frozen=True):
    scope: Scope
    experimental: bool
    delta: bool
    required: frozenset[str]
    optional: frozenset[str]


class _Table(msgspec.Struct, frozen=True):
    codex: str
    digest: dict[str, str]
    client_requests: dict[str, _Row]
    server_requests: dict[str, _Row]
    notifications: dict[str, _Row]
    client_notifications: dict[str, _Row]


def _load() -> _Table:
    text = files("supervisor.protocol").joinpath("schema", "methods.json").read_bytes()
    return msgspec.json.decode(text, type=_Table)


def _joined(
    rows: dict[str, _Row], policies: dict[str, Policy], reads: frozenset[str] = frozenset()
) -> dict[str, Method]:
    """Rows with their policies; `reads` are those that do not act though their policy would say
    so. Raises KeyError for a row without a policy."""
    acting = (Policy.ACT, Policy.REWRITE, Policy.OPERATOR)
    return {
        name: Method(
            name=name,
            scope=row.scope,
            policy=policies[name],
            acts=policies[name] in acting and name not in reads,
            experimental=row.experimental,
            delta=row.delta,
            required=row.required,
            optional=row.optional,
        )
        for name, row in rows.items()
    }


CLIENT_POLICIES: dict[str, Policy] = {
    **dict.fromkeys(policy_table.READ, Policy.READ),
    **dict.fromkeys(policy_table.ACT, Policy.ACT),
    **dict.fromkeys(policy_table.REWRITE, Policy.REWRITE),
    **dict.fromkeys(policy_table.REWRITE_READ, Policy.REWRITE),
    **dict.fromkeys(policy_table.OPERATOR, Policy.OPERATOR),
    **dict.fromkeys(policy_table.REFUSE, Policy.REFUSE),
    **dict.fromkeys(policy_table.OWN, Policy.OWN),
}
SERVER_POLICIES: dict[str, Policy] = {
    **dict.fromkeys(policy_table.ASK, Policy.ASK),
    **dict.fromkeys(policy_table.TOOL, Policy.TOOL),
    **dict.fromkeys(policy_table.CLOCK, Policy.CLOCK),
    **dict.fromkeys(policy_table.REFUSE_SERVER, Policy.REFUSE),
}

_TABLE = _load()

CODEX_VERSION: str = _TABLE.codex
"""The version the table was generated from."""
CLIENT_REQUESTS: dict[str, Method] = _joined(
    _TABLE.client_requests, CLIENT_POLICIES, frozenset(policy_table.REWRITE_READ)
)
SERVER_REQUESTS: dict[str, Method] = _joined(_TABLE.server_requests, SERVER_POLICIES)
NOTIFICATIONS: dict[str, Method] = _joined(
    _TABLE.notifications, dict.fromkeys(_TABLE.notifications, Policy.PASS)
)
CLIENT_NOTIFICATIONS: dict[str, Method] = _joined(
    _TABLE.client_notifications, dict.fromkeys(policy_table.OWN_NOTIFICATION, Policy.OWN)
)


def client_request(name: str) -> Method:
    """The row of a client request. Raises `method_unknown`: what we do not know, we do not pass."""
    method = CLIENT_REQUESTS.get(name)
    if method is None:
        raise SupervisorError(
            ErrorCode.METHOD_UNKNOWN, f"codex {CODEX_VERSION} has no method {name[:100]!r}"
        )
    return method
