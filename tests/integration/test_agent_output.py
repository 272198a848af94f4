"""Bad input from the agent: every line is shown once or recorded, counted, and nobody else is hurt.

The truth is the spool as it lies on disk, read with the standard library's JSON.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from supervisor.errors import ErrorCode, SupervisorError
from tests.integration.hosted import LINE_LIMIT, Hosted, Seen, hosted, raw, watching

SHOWN, REFUSED, SILENT = "shown", "refused", "silent"


@dataclass(frozen=True)
class Case:
    """One piece of bad output: what becomes of its lines, and which counter tells of it."""

    line: bytes
    fate: str
    counter: str
    labels: dict[str, str] = field(default_factory=dict)
    count: int = 1


def refused(line: bytes, reason: str) -> Case:
    return Case(line, REFUSED, "lines_refused_total", {"reason": reason})


def item(body: bytes, method: bytes = b"item/completed") -> bytes:
    ids = b'"threadId":"@T@","turnId":"@U@"'
    return b'{"method":"%b","params":{"item":%b,%b}}' % (method, body, ids)


def note(params: bytes, method: bytes = b"item/completed") -> bytes:
    return b'{"method":"%b","params":%b}' % (method, params)


NINES = b"9" * 300
COMMAND = b'{"type":"commandExecution","id":"c1","command":"ls","cwd":"/","exitCode":%b}'
KEPT = {"kind": "notification"}
CASES = {
    "too_large": refused(b'{"method":"x","params":"%b"}' % (b"x" * LINE_LIMIT), "too_large"),
    "not_utf8": refused(item(b'{"id":"i","type":"agentMessage","text":"\xff"}'), "not_utf8"),
    "not_json": refused(b"this is no JSON {", "not_json"),
    "empty": refused(b"", "not_json"),
    "half_json": refused(b'{"method":"turn/completed","params":{', "not_json"),
    "not_object": refused(b'[{"method":"turn/started"}]', "not_object"),
    "no_message": refused(b'{"hello":"world"}', "not_a_message"),
    "long_method": refused(b'{"method":"%b"}' % (b"m" * 1000), "not_a_message"),
    "bad_id": refused(b'{"id":1.5,"method":"currentTime/read"}', "bad_id"),
    "huge_id": refused(b'{"id":%b,"result":{}}' % NINES, "bad_id"),
    "surrogate_in_an_id": refused(note(b'{"threadId":"\\ud800"}'), "lone_surrogate"),
    "deep": refused(note(b"[" * 5000 + b"]" * 5000), "too_deep"),
    "nearly_too_deep_to_decode": refused(note(b"[" * 992 + b"]" * 992), "too_deep"),
    "deep_where_a_decoder_goes_twice": refused(
        b'{"id":7,"method":"item/commandExecution/requestApproval","params":{"threadId":"@T@",'
        b'"zz":' + b"[" * 994 + b"]" * 994 + b"}}",
        "too_deep",
    ),
    "nested_as_codex_may": Case(
        note(b"[" * 200 + b"]" * 200, b"new/thing"), SHOWN, "unknown_notifications_total"
    ),
    "surrogate_in_text": refused(
        item(b'{"id":"i","type":"agentMessage","text":"\\ud800"}'), "lone_surrogate"
    ),
    "surrogate_in_a_command": refused(
        item(b'{"id":"i","type":"commandExecution","command":"\\ud800"}'), "lone_surrogate"
    ),
    "nul_in_text": Case(
        item(b'{"id":"i","type":"agentMessage","text":"a\\u0000b"}'), SHOWN, "lines_total", KEPT
    ),
    "nul_in_ids": Case(
        note(
            b'{"item":{"id":"i\\u0000","type":"t\\u0000"},"threadId":"t\\u0000","turnId":"\\u0000"}'
        ),
        SHOWN,
        "lines_total",
        KEPT,
    ),
    "nul_in_a_path": Case(
        item(
            b'{"id":"f","type":"fileChange","status":"completed","changes":'
            b'[{"path":"/a\\u0000b","kind":{"type":"add"},"diff":"x"}]}'
        ),
        SHOWN,
        "store_rows_total",
        {"table": "audit"},
    ),
    "response_never_asked": Case(
        b'{"id":"never-asked","result":{}}', SILENT, "unmatched_responses_total"
    ),
    "response_with_a_number": Case(b'{"id":5,"result":{}}', SILENT, "unmatched_responses_total"),
    "error_never_asked": Case(
        b'{"id":"never","error":{"code":%b,"message":5}}' % NINES,
        SILENT,
        "unmatched_responses_total",
    ),
    "unknown_notification": Case(
        b'{"method":"new/thing","params":{"a":1}}', SHOWN, "unknown_notifications_total"
    ),
    "wrong_types": Case(
        note(b'{"threadId":5,"turn":"x"}', b"turn/completed"), SHOWN, "unknown_notifications_total"
    ),
    "no_params": Case(b'{"method":"turn/completed"}', SHOWN, "unknown_notifications_total"),
    "enormous_numbers": Case(
        item(COMMAND % NINES, b"item/started"), SHOWN, "store_rows_total", {"table": "audit"}
    ),
    "infinite_number": Case(item(COMMAND % b"1e400"), SHOWN, "lines_total", KEPT),
    "duplicate_keys": Case(
        b'{"method":"turn/completed","method":"new/thing","params":{},"params":[]}',
        SHOWN,
        "unknown_notifications_total",
    ),
    "turn_never_started": Case(
        note(b'{"threadId":"@T@","turn":{"id":"never","status":"completed"}}', b"turn/completed"),
        SHOWN,
        "lines_total",
        KEPT,
    ),
    "item_of_an_unknown_thread": Case(
        note(b'{"threadId":"nobody","turnId":"none","item":{"id":"i","type":"plan"}}'),
        SHOWN,
        "store_rows_total",
        {"table": "items"},
    ),
    "delta_of_an_unknown_item": Case(
        note(b'{"threadId":"@T@","itemId":"no","delta":"x"}', b"item/agentMessage/delta"),
        SHOWN,
        "lines_total",
        KEPT,
    ),
    "resolved_never_asked": Case(
        note(b'{"threadId":"@T@","requestId":77}', b"serverRequest/resolved"),
        SHOWN,
        "lines_total",
        KEPT,
    ),
}


def expected(host: Hosted, project: str, fates: dict[bytes, str]) -> list[bytes]:
    """What a subscriber must have been shown of the spool; `fates` are those of bad lines."""
    shown: list[bytes] = []
    for line in host.spooled(project):
        fate = REFUSED if len(line) > LINE_LIMIT else fates.get(line)
        if fate is None:
            fate = SHOWN if "method" in json.loads(line) else SILENT
        if fate == SHOWN:
            shown.append(line)
        elif fate == REFUSED:
            shown.append(b"refused %d" % len(line))
    return shown


def told(seen: Seen) -> list[bytes]:
    """What it was shown, records of refused lines as `expected` has them."""
    record = b'{"method":"supervisor/lineRefused"'
    return [
        b"refused %d" % json.loads(m)["params"]["bytes"] if m.startswith(record) else m
        for m in seen.said
    ]


async def check_accounts(host: Hosted, project: str) -> None:
    """The checkpoint is at the spool's end, and every line and own event has its number."""
    await host.call(project, "listAudit", limit=1)  # writes what waits
    query = 'SELECT next_n, "offset" FROM checkpoints WHERE project = ?'
    [(next_n, offset)] = host.rows(query, project)
    [(own,)] = host.rows("SELECT count(*) FROM events WHERE project = ?", project)
    assert offset == host.spool(project).stat().st_size
    assert next_n - 1 == len(host.spooled(project)) + own
    records = (await host.call(project, "listAudit", limit=1000))["records"]
    assert [record["seq"] for record in records] == list(range(1, len(records) + 1))


def filled(line: bytes, thread: str, turn: str, count: int = 0) -> bytes:
    """As the fake writes it."""
    filled = line.replace(b"@T@", thread.encode()).replace(b"@U@", turn.encode())
    return filled.replace(b"@N@", b"%d" % count)


@pytest.mark.parametrize("name", CASES)
async def test_a_bad_line_is_shown_or_recorded_and_the_turn_goes_on(
    name: str, tmp_path: Path
) -> None:
    case = CASES[name]
    async with hosted(tmp_path) as host:
        hostile, healthy = await host.open("hostile"), await host.open("healthy")
        async with watching(host, hostile) as seen, watching(host, healthy) as beside:
            thread, other = await host.thread(hostile), await host.thread(healthy)
            before = host.metric(case.counter, **case.labels)
            turn = await host.send(hostile, thread, raw(case.line + b"\n"))
            await beside.until_end(await host.send(healthy, other, "text n=10"))
            await seen.until_end(turn)
            fates = {filled(case.line, thread, turn): case.fate}
            assert told(seen) == expected(host, hostile, fates)
            assert beside.said == expected(host, healthy, {})
            await check_accounts(host, hostile)
            assert host.metric(case.counter, **case.labels) >= before + case.count
            assert (await host.call(hostile, "pingProject"))["loadedThreads"] == 1
        turns = host.rows("SELECT state FROM turns WHERE turn_id = ?", turn)
        assert turns == [("completed",)]
        assert host.rows("SELECT count(*) FROM generations") == [(2,)], "an app-server restarted"


def asked(method: str, request_id: bytes = b"4711", more: bytes = b"") -> bytes:
    ids = b'"threadId":"@T@","turnId":"@U@","itemId":"i"'
    return b'{"id":%b,"method":"%b","params":{%b%b}}\n' % (request_id, method.encode(), ids, more)


def answers(seen: Seen) -> list[dict[str, Any]]:
    """What the fake read as answers to its requests."""
    said = (json.loads(m) for m in seen.said if m.startswith(b'{"method":"fake/answered"'))
    return [message["params"] for message in said]


@pytest.mark.parametrize(
    ("method", "reason"),
    [
        ("new/request", "unknown"),
        ("attestation/generate", "unsupported"),
        ("account/chatgptAuthTokens/refresh", "unsupported"),
    ],
)
async def test_what_nobody_is_asked_gets_an_error_with_its_own_id(
    method: str, reason: str, tmp_path: Path
) -> None:
    async with hosted(tmp_path) as host:
        project = await host.open("hostile")
        async with watching(host, project) as seen:
            thread = await host.thread(project)
            await host.send(project, thread, raw(asked(method, b'"an id"')))
            await seen.until(answers)
            [answer] = answers(seen)
            assert answer["id"] == "an id"
            assert answer["error"]["code"] == -32601
            assert host.metric("server_requests_refused_total", reason=reason) == 1
            assert (await host.call(project, "listApprovals"))["approvals"] == []


async def test_the_clock_is_told(tmp_path: Path) -> None:
    async with hosted(tmp_path) as host:
        project = await host.open("hostile")
        async with watching(host, project) as seen:
            await host.send(project, await host.thread(project), raw(asked("currentTime/read")))
            await seen.until(answers)
            [answer] = answers(seen)
            assert answer["id"] == 4711
            written = host.spool(project).stat().st_mtime
            assert abs(answer["result"]["currentTimeAt"] - written) < 3600


APPROVAL = "item/commandExecution/requestApproval"


async def test_a_request_id_asked_twice_is_one_question_with_one_answer(tmp_path: Path) -> None:
    async with hosted(tmp_path) as host:
        project = await host.open("hostile")
        async with watching(host, project) as seen:
            twice = asked(APPROVAL, more=b',"command":"ls"') + asked(
                APPROVAL, more=b',"command":"rm"'
            )
            turn = await host.send(project, await host.thread(project), raw(twice))
            await seen.until_end(turn)
            [waiting] = (await host.call(project, "listApprovals"))["approvals"]
            assert waiting["params"]["command"] == "ls"
            approval = waiting["approvalId"]
            await host.call(project, "answerApproval", approvalId=approval, decision="decline")
            with pytest.raises(SupervisorError) as caught:
                await host.call(project, "answerApproval", approvalId=approval, decision="accept")
            assert caught.value.code is ErrorCode.APPROVAL_SETTLED
            await seen.until(answers)
            await check_accounts(host, project)
        rows = host.rows("SELECT state, params FROM server_requests")
        assert [(state, b'"ls"' in params) for state, params in rows] == [("answered", True)]
        assert [answer["result"] for answer in answers(seen)] == [{"decision": "decline"}]


@pytest.mark.parametrize("request_id", [b'"%b"' % (b"i" * 5000), b'"\\u0000"', b"9" * 18])
async def test_a_strange_request_id_can_be_answered_or_is_refused(
    request_id: bytes, tmp_path: Path
) -> None:
    async with hosted(tmp_path) as host:
        project = await host.open("hostile")
        async with watching(host, project) as seen:
            thread = await host.thread(project)
            await seen.until_end(await host.send(project, thread, raw(asked(APPROVAL, request_id))))
            for waiting in (await host.call(project, "listApprovals"))["approvals"]:
                approval = waiting["approvalId"]
                await host.call(project, "answerApproval", approvalId=approval, decision="accept")
            await seen.until(answers)
            [answer] = answers(seen)
            assert answer["id"] == json.loads(request_id)
            assert ("error" in answer) == (len(request_id) > 200)
            await check_accounts(host, project)


async def test_half_a_line_at_the_end_takes_no_number_and_the_next_generation_goes_on(
    tmp_path: Path,
) -> None:
    async with hosted(tmp_path) as host:
        project = await host.open("hostile")
        async with watching(host, project) as seen:
            thread = await host.thread(project)
            turn = await host.send(project, thread, "tail")
            await seen.until_end(turn)
            last = json.loads(seen.said[-1])
            assert (
                last["params"]["turn"] | {"id": turn, "status": "interrupted"}
                == (last["params"]["turn"])
            )
            await seen.until(lambda s: s.methods().count("supervisor/agentReady") == 2)
            again = await host.send(project, thread, "text n=2")
            await seen.until_end(again)
            left = host.spool(project).read_bytes().rpartition(b"\n")[2]
            assert left.startswith(b"{")
            ours = [m for m in seen.said if b'"synthesised":true' not in m]
            spooled = [*host.spooled(project), *host.spooled(project, 2)]
            assert ours == [line for line in spooled if "method" in json.loads(line)]
        [(size,)] = host.rows("SELECT final_size FROM generations WHERE generation = 1")
        assert size == host.spool(project).stat().st_size


async def test_bytes_after_the_end_are_dropped_and_counted(tmp_path: Path) -> None:
    async with hosted(tmp_path) as host:
        project = await host.open("hostile")
        async with watching(host, project) as seen:
            thread = await host.thread(project)
            with host.spool(project).open("ab") as kept_open:
                await host.send(project, thread, "die")
                await seen.until(lambda s: s.methods().count("supervisor/agentReady") == 2)
                kept_open.write(b'{"method":"late/word","params":{}}\n')
            assert host.metric("late_bytes_total") == 35
            assert host.metric("late_bytes_total") == 35
            await host.send(project, thread, "text n=1")
            await seen.until(lambda s: b'"status":"completed"' in s.said[-1])
            assert "late/word" not in seen.methods()


async def test_a_successor_tells_the_same_story_of_all_of_it(tmp_path: Path) -> None:
    lines = [case.line for name, case in CASES.items() if name != "too_large"]
    async with hosted(tmp_path, on_shutdown="keep") as host:
        project = await host.open("hostile")
        async with watching(host, project) as seen:
            thread = await host.thread(project)
            for line in lines:
                turn = await host.send(project, thread, raw(line + b"\n"))
                await seen.until_end(turn)
            first = json.loads(seen.payloads[0])["cursor"]
    async with hosted(tmp_path) as successor:
        async with watching(successor, project, after=first) as again:
            await again.until(lambda s: len(s.payloads) >= len(seen.payloads) - 1)
            told_again = [m for _, m in again.events][: len(seen.events)]
            assert told_again == [m for _, m in seen.events]
            assert [n for n, _ in again.events][: len(seen.events)] == [n for n, _ in seen.events]
        assert (await successor.call(project, "projectStatus"))["generation"] == 1
        await check_accounts(successor, project)
