import json

import msgspec
import pytest
import structlog

from supervisor.errors import ErrorCode, SupervisorError
from supervisor.policy.access import Principal
from supervisor.ports.bus import Subject
from tests.unit.rpc.fakes import ALICE, CountingMeter, FakeAgent, FakeAgents, dispatcher

P1 = Subject(project="p1", account="local")
HOST = Subject(project=None, account="local")


class Bench:
    """A dispatcher over two projects: `p1` is Alice's, `theirs` is another account's."""

    def __init__(self) -> None:
        self.agent = FakeAgent("p1")
        self.theirs = FakeAgent("theirs", account="other")
        self.agents = FakeAgents(self.agent, self.theirs)
        self.meter = CountingMeter()
        self.dispatcher = dispatcher(self.agents, self.meter)

    async def call(
        self, subject: Subject, method: str, params: object, principal: Principal = ALICE
    ) -> dict[str, object]:
        payload = msgspec.json.encode({"method": method, "params": params})
        exchange = self.dispatcher.accept(principal, subject, msgspec.Raw(payload))
        shown = json.loads(await exchange.result())
        assert isinstance(shown, dict)
        return shown

    async def refused(self, subject: Subject, method: str, params: object) -> SupervisorError:
        with pytest.raises(SupervisorError) as caught:
            await self.call(subject, method, params)
        return caught.value

    def payload_refused(self, payload: bytes) -> SupervisorError:
        with pytest.raises(SupervisorError) as caught:
            self.dispatcher.accept(ALICE, P1, msgspec.Raw(payload))
        return caught.value


@pytest.fixture
def bench() -> Bench:
    return Bench()


async def test_a_request_is_answered_with_the_methods_result(bench: Bench) -> None:
    assert (await bench.call(P1, "projectStatus", {}))["project"] == "p1"
    assert bench.meter.requests == {("projectStatus", None): 1}


async def test_another_accounts_subject_is_forbidden_even_for_ones_own_project(
    bench: Bench,
) -> None:
    foreign = Subject(project="p1", account="other")
    assert (await bench.refused(foreign, "projectStatus", {})).code is ErrorCode.FORBIDDEN
    foreign_host = Subject(project=None, account="other")
    assert (await bench.refused(foreign_host, "hostStatus", {})).code is ErrorCode.FORBIDDEN


async def test_another_accounts_project_is_as_unknown_as_none(bench: Bench) -> None:
    theirs = await bench.refused(Subject(project="theirs", account="local"), "projectStatus", {})
    none = await bench.refused(Subject(project="nobody", account="local"), "projectStatus", {})
    assert theirs.code is none.code is ErrorCode.PROJECT_UNKNOWN
    assert theirs.message.replace("theirs", "X") == none.message.replace("nobody", "X")
    assert theirs.as_dict().keys() == none.as_dict().keys()


async def test_an_unknown_method_is_named_and_not_counted_by_its_name(bench: Bench) -> None:
    error = await bench.refused(P1, "dropTables\ud7ff", {})
    assert error.code is ErrorCode.METHOD_UNKNOWN
    assert "dropTables" in error.message
    assert bench.meter.requests == {("unknown", "method_unknown"): 1}


async def test_an_unknown_service_is_refused(bench: Bench) -> None:
    other = Subject(project="p1", account="local", service="files")
    assert (await bench.refused(other, "projectStatus", {})).code is ErrorCode.METHOD_UNKNOWN


async def test_a_method_is_asked_on_its_own_kind_of_subject(bench: Bench) -> None:
    assert "codex.host" in (await bench.refused(P1, "listProjects", {})).message
    assert "project's" in (await bench.refused(HOST, "projectStatus", {})).message


@pytest.mark.parametrize(
    ("params", "field"),
    [
        ({}, "params.threadId"),
        ({"threadId": 1, "text": "x"}, "params.threadId"),
        ({"threadId": "", "text": "x"}, "params.threadId"),
        ({"threadId": "a b", "text": "x"}, "params.threadId"),
        ({"threadId": "t" * 129, "text": "x"}, "params.threadId"),
        ({"threadId": "t", "text": "x", "config": {}}, "params.config"),
        ({"threadId": "t", "text": "x", "sandboxPolicy": {}}, "params.sandboxPolicy"),
        ({"threadId": "t", "text": "x", "thread_id": "t"}, "params.thread_id"),
        ({"threadId": "t", "text": ""}, "params.text"),
        ({"threadId": "t"}, "exactly one of text, input"),
        ({"threadId": "t", "text": "x", "input": []}, "params.input"),
        ({"threadId": "t", "input": [{"type": "image", "url": "http://x"}]}, "params.input.0"),
        ({"threadId": "t", "input": [{"type": "text", "text": 1}]}, "params.input.0.text.text"),
        ("text", "params"),
        ([], "params"),
        (None, "params"),
    ],
)
async def test_bad_params_are_refused_by_the_name_of_the_field(
    bench: Bench, params: object, field: str
) -> None:
    error = await bench.refused(P1, "sendMessage", params)
    assert error.code is ErrorCode.BAD_REQUEST
    assert field in error.message
    assert not bench.agent.acted


@pytest.mark.parametrize(
    "payload",
    [
        b"null",
        b"[]",
        b"{}",
        b'{"method":1}',
        b'{"method":"projectStatus","more":1}',
        b'{"method":"projectStatus","params":{"a":"\\ud800"}}',
        b'{"method":"projectStatus","params":{"a":NaN}}',
        b'{"method":"projectStatus","params":{"a":1e999}}',
        b'{"method":"projectStatus","params":' + b"[" * 50_000 + b"]" * 50_000 + b"}",
        b'{"method":"projectStatus","params":{"a":' + b'{"a":' * 900 + b"1" + b"}" * 900 + b"}}",
    ],
)
def test_a_payload_that_is_no_request_is_a_bad_request(bench: Bench, payload: bytes) -> None:
    assert bench.payload_refused(payload).code is ErrorCode.BAD_REQUEST


async def test_params_may_be_left_out(bench: Bench) -> None:
    exchange = bench.dispatcher.accept(ALICE, P1, msgspec.Raw(b'{"method":"projectStatus"}'))
    assert json.loads(await exchange.result())["project"] == "p1"


async def test_an_unexpected_exception_is_logged_once_and_not_shown(bench: Bench) -> None:
    bench.agent.failure = KeyError("secret")
    with structlog.testing.capture_logs() as logs:
        error = await bench.refused(P1, "pingProject", {})
    assert error.code is ErrorCode.INTERNAL
    assert "secret" not in str(error.as_dict())
    assert [line["action"] for line in logs] == ["rpc_internal"]
    assert bench.meter.requests == {("pingProject", "internal"): 1}


async def test_an_agents_error_reaches_the_client_as_it_is(bench: Bench) -> None:
    bench.agent.failure = SupervisorError(ErrorCode.AGENT_QUARANTINED, "crashed", hint="look")
    error = await bench.refused(P1, "pingProject", {})
    assert (error.code, error.message, error.hint) == (
        ErrorCode.AGENT_QUARANTINED,
        "crashed",
        "look",
    )


async def test_methods_that_need_the_app_server_wait_for_it_and_others_do_not(
    bench: Bench,
) -> None:
    await bench.call(P1, "projectStatus", {})
    await bench.call(P1, "listAudit", {})
    assert bench.agent.waited_ready == 0
    await bench.call(P1, "pingProject", {})
    assert bench.agent.waited_ready == 1


async def test_requests_that_act_say_so(bench: Bench) -> None:
    def accepted(method: str, params: object) -> bool:
        payload = msgspec.json.encode({"method": method, "params": params})
        return bench.dispatcher.accept(ALICE, P1, msgspec.Raw(payload)).acts

    assert accepted("sendMessage", {"threadId": "t", "text": "x"})
    assert not accepted("listThreads", {})
    assert not accepted("subscribe", {})
