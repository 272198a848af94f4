"""The table is whole: every message of the pinned codex has a row, and every row a policy."""

import ast
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from supervisor import protocol
from supervisor.errors import ErrorCode, SupervisorError
from supervisor.protocol import policy_table
from supervisor.protocol.methods import (
    CLIENT_NOTIFICATIONS,
    CLIENT_POLICIES,
    CLIENT_REQUESTS,
    NOTIFICATIONS,
    SERVER_POLICIES,
    SERVER_REQUESTS,
    Method,
    Policy,
    Scope,
    client_request,
)

CLIENT_LISTS = ("READ", "ACT", "REWRITE", "REWRITE_READ", "OPERATOR", "REFUSE", "OWN")
SERVER_LISTS = ("ASK", "TOOL", "CLOCK", "REFUSE_SERVER")


def stable(table: dict[str, Method]) -> int:
    return sum(not method.experimental for method in table.values())


def test_the_table_has_as_many_methods_as_codex() -> None:
    assert (len(CLIENT_REQUESTS), stable(CLIENT_REQUESTS)) == (172, 105)
    assert (len(SERVER_REQUESTS), stable(SERVER_REQUESTS)) == (11, 10)
    assert (len(NOTIFICATIONS), stable(NOTIFICATIONS)) == (85, 85)
    assert list(CLIENT_NOTIFICATIONS) == ["initialized"]


def test_every_row_has_a_policy_and_every_policy_a_row() -> None:
    assert set(CLIENT_POLICIES) == set(CLIENT_REQUESTS)
    assert set(SERVER_POLICIES) == set(SERVER_REQUESTS)
    assert set(policy_table.OWN_NOTIFICATION) == set(CLIENT_NOTIFICATIONS)


@pytest.mark.parametrize("lists", [CLIENT_LISTS, SERVER_LISTS])
def test_no_method_is_in_two_policies(lists: tuple[str, ...]) -> None:
    counts = Counter(name for each in lists for name in getattr(policy_table, each))
    assert [name for name, count in counts.items() if count > 1] == []


@pytest.mark.parametrize("name", [*CLIENT_LISTS, *SERVER_LISTS])
def test_the_lists_of_the_policy_table_are_sorted(name: str) -> None:
    methods = getattr(policy_table, name)
    assert methods == sorted(methods)


def test_names_never_mean_two_things() -> None:
    names = [*CLIENT_REQUESTS, *SERVER_REQUESTS, *NOTIFICATIONS, *CLIENT_NOTIFICATIONS]
    assert len(names) == len(set(names))


@pytest.mark.parametrize(
    "name",
    [
        "account/login/start",
        "account/logout",
        "config/batchWrite",
        "config/value/write",
        "environment/add",
        "externalAgentConfig/import",
        "feedback/upload",
        "fs/readFile",
        "fs/writeFile",
        "marketplace/add",
        "plugin/install",
        "process/spawn",
        "remoteControl/enable",
    ],
)
def test_nobody_may(name: str) -> None:
    assert client_request(name).policy is Policy.REFUSE
    assert not client_request(name).acts


@pytest.mark.parametrize(
    "name",
    [
        "command/exec",
        "config/read",
        "mcpServer/tool/call",
        "memory/reset",
        "thread/approveGuardianDeniedAction",
        "thread/inject_items",
        "thread/shellCommand",
    ],
)
def test_operators_alone_may_and_leave_a_trace(name: str) -> None:
    assert client_request(name).policy is Policy.OPERATOR
    assert client_request(name).acts


DANGEROUS_FIELDS = {
    "approvalPolicy",
    "approvalsReviewer",
    "clientUserMessageId",
    "config",
    "modelProvider",
    "permissions",
    "responsesapiClientMetadata",
    "sandbox",
    "sandboxPolicy",
    "cwd",
    "cwds",
    "roots",
    "runtimeWorkspaceRoots",
}


def test_no_request_passes_unchecked_with_a_field_that_widens_a_turn_or_names_a_directory() -> None:
    passing = [m for m in CLIENT_REQUESTS.values() if m.policy in (Policy.READ, Policy.ACT)]
    exposed = {m.name: m.fields & DANGEROUS_FIELDS for m in passing if m.fields & DANGEROUS_FIELDS}
    assert exposed == {"thread/list": {"cwd"}}  # a filter over threads, which opens nothing


@pytest.mark.parametrize(
    ("name", "acts"),
    [
        ("thread/list", False),
        ("account/read", False),
        ("skills/list", False),
        ("thread/start", True),
        ("turn/start", True),
        ("turn/steer", True),
        ("turn/interrupt", True),
        ("thread/resume", True),
        ("thread/archive", True),
        ("thread/name/set", True),
        ("initialize", False),
    ],
)
def test_what_acts_is_known(name: str, acts: bool) -> None:
    assert client_request(name).acts is acts


@pytest.mark.parametrize("name", ["getAuthStatus", "newConversation", "", "x" * 10_000, "\ud800"])
def test_an_unknown_client_request_is_refused(name: str) -> None:
    with pytest.raises(SupervisorError) as caught:
        client_request(name)
    assert caught.value.code is ErrorCode.METHOD_UNKNOWN
    assert len(caught.value.message) < 200
    caught.value.message.encode()


@pytest.mark.parametrize(
    ("table", "name", "scope"),
    [
        (CLIENT_REQUESTS, "thread/start", Scope.NONE),
        (CLIENT_REQUESTS, "turn/start", Scope.THREAD),
        (CLIENT_REQUESTS, "turn/interrupt", Scope.TURN),
        (CLIENT_REQUESTS, "turn/steer", Scope.TURN),
        (CLIENT_REQUESTS, "process/spawn", Scope.PROCESS),
        (SERVER_REQUESTS, "item/commandExecution/requestApproval", Scope.ITEM),
        (SERVER_REQUESTS, "item/tool/call", Scope.ITEM),
        (SERVER_REQUESTS, "execCommandApproval", Scope.THREAD),
        (SERVER_REQUESTS, "mcpServer/elicitation/request", Scope.TURN),
        (SERVER_REQUESTS, "attestation/generate", Scope.NONE),
        (NOTIFICATIONS, "thread/started", Scope.THREAD),
        (NOTIFICATIONS, "turn/completed", Scope.TURN),
        (NOTIFICATIONS, "item/completed", Scope.ITEM),
        (NOTIFICATIONS, "account/updated", Scope.NONE),
        (NOTIFICATIONS, "thread/realtime/item/transcript/delta", Scope.THREAD),
    ],
)
def test_scopes(table: dict[str, Method], name: str, scope: Scope) -> None:
    assert table[name].scope is scope


def test_deltas_are_the_streams_and_nothing_else() -> None:
    assert {m.name for m in NOTIFICATIONS.values() if m.delta} == {
        "command/exec/outputDelta",
        "item/agentMessage/delta",
        "item/commandExecution/outputDelta",
        "item/fileChange/outputDelta",
        "item/plan/delta",
        "item/reasoning/summaryTextDelta",
        "item/reasoning/textDelta",
        "process/outputDelta",
        "thread/realtime/item/transcript/delta",
        "thread/realtime/outputAudio/delta",
        "thread/realtime/transcript/delta",
    }


def test_server_requests_go_where_they_belong() -> None:
    by_policy = {p: {n for n, m in SERVER_REQUESTS.items() if m.policy is p} for p in Policy}
    assert by_policy[Policy.TOOL] == {"item/tool/call"}
    assert by_policy[Policy.CLOCK] == {"currentTime/read"}
    assert by_policy[Policy.REFUSE] == {"attestation/generate", "account/chatgptAuthTokens/refresh"}
    assert len(by_policy[Policy.ASK]) == 7


def imports(source: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(source.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module.split(".")[0]


def test_the_protocol_knows_no_io_time_chance_or_logs() -> None:
    """Sans-IO: what it decides can be tested and replayed from bytes alone."""
    banned = {"asyncio", "time", "datetime", "random", "logging", "structlog", "socket", "os"}
    (folder,) = protocol.__path__
    found = {f.name: banned & set(imports(f)) for f in Path(folder).glob("*.py")}
    assert found
    assert {name for name, bad in found.items() if bad} == set()
