"""Bad input from clients, over both transports, against a whole supervisor.

Each is told what was wrong (code, hint, whether to retry) and counted; the connection lives where
that makes sense, and everybody else goes on.
"""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from supervisor.buses.frames import encode_request
from tests.integration.hosted import hosted, watching
from tests.integration.peers import WebSocketPeer, connected, http_url, token
from tests.integration.serving import until

FRAME_LIMIT = 64 * 1024
TRANSPORTS = ("unix", "websocket")
DEEP = 200
"""Levels: past what Codex reads of a whole message (127), within what a decoder of ours does."""


def subject(project: str | None, account: str = "local", service: str = "api") -> str:
    where = "host" if project is None else f"project-{project}"
    return f"codex.{where}.account-{account}.{service}"


def call(project: str | None, method: str, inbox: str = "_INBOX.a", **params: object) -> bytes:
    return encode_request(subject(project), method, params, inbox)


def check_error(frame: dict[str, Any], code: str) -> dict[str, Any]:
    """The error of a frame, which says all that an error must."""
    error = frame["headers"]["error"]
    assert error["code"] == code, error
    assert error["message"]
    assert error["hint"]
    assert isinstance(error["retryable"], bool)
    assert isinstance(error, dict)
    return error


def prompt(text: bytes) -> Callable[[str], bytes]:
    def frame(actual: str) -> bytes:
        made = call(actual, "sendMessage", threadId="t", text="HERE")
        return made.replace(b"HERE", text)

    return frame


def asking(method: str, **params: object) -> Callable[[str], bytes]:
    return lambda project: call(project, method, **params)


def nested(levels: int) -> dict[str, object]:
    value: dict[str, object] = {}
    for _ in range(levels):
        value = {"a": value}
    return value


BAD_FRAMES: dict[str, tuple[Callable[[str], bytes], str]] = {
    "junk": (lambda _: b"junk", "bad_request"),
    "no_inbox": (
        lambda p: call(p, "pingProject").replace(b'"reply":"_INBOX.a"', b'"reply":null'),
        "bad_request",
    ),
    "inbox_of_another_kind": (
        lambda p: call(p, "pingProject").replace(b"_INBOX.a", b"_HELLO"),
        "bad_request",
    ),
    "wildcard_inbox": (
        lambda p: call(p, "pingProject").replace(b"_INBOX.a", b"_INBOX.>"),
        "bad_request",
    ),
    "not_utf8_in_params": (prompt(b"\xff\xfe"), "bad_request"),
    "half_a_character_in_params": (prompt(b"\xf0\x9f\x98"), "bad_request"),
    "lone_surrogate": (prompt(b"\\ud800"), "bad_request"),
    "surrogates_the_wrong_way_round": (prompt(b"\\ude00\\ud83d"), "bad_request"),
    "utf8_of_a_surrogate": (prompt(b"\xed\xa0\x80"), "bad_request"),
    "raw_control_character": (prompt(b"a\x00b"), "bad_request"),
    "empty_prompt": (prompt(b""), "bad_request"),
    "other_account": (
        lambda p: encode_request(subject(p, "other"), "pingProject", {}, "_INBOX.a"),
        "forbidden",
    ),
    "other_account_of_the_host": (
        lambda _: encode_request(subject(None, "other"), "listProjects", {}, "_INBOX.a"),
        "forbidden",
    ),
    "unknown_project": (lambda _: call("nobody", "projectStatus"), "project_unknown"),
    "no_subject": (
        lambda _: encode_request("codex.>", "pingProject", {}, "_INBOX.a"),
        "bad_request",
    ),
    "unknown_service": (
        lambda p: encode_request(subject(p, service="shell"), "pingProject", {}, "_INBOX.a"),
        "method_unknown",
    ),
    "unknown_method": (asking("turn/start"), "method_unknown"),
    "method_of_the_host": (asking("openProject", path="/"), "bad_request"),
    "unknown_field": (asking("pingProject", sudo=True), "bad_request"),
    "wrong_type": (asking("listAudit", limit="many"), "bad_request"),
    "number_out_of_bounds": (asking("listAudit", limit=10**30), "bad_request"),
    "not_a_number": (
        lambda p: call(p, "listAudit", limit=1).replace(b'"limit":1', b'"limit":NaN'),
        "bad_request",
    ),
    "missing_field": (asking("sendMessage", text="hello"), "bad_request"),
    "thread_id_that_is_a_path": (asking("readThread", threadId="../../x"), "bad_request"),
    "unknown_thread": (asking("sendMessage", threadId="none", text="x"), "thread_unknown"),
    "nested_too_deep": (
        asking("answerApproval", approvalId="1-0", result=nested(DEEP)),
        "bad_request",
    ),
    "nested_beyond_decoding": (
        lambda p: call(p, "answerApproval", result=1).replace(
            b'"result":1', b'"result":' + b"[" * 20_000 + b"]" * 20_000
        ),
        "bad_request",
    ),
    "unknown_approval": (
        asking("answerApproval", approvalId="99-0", decision="accept"),
        "approval_unknown",
    ),
    "approval_id_of_nonsense": (
        asking("answerApproval", approvalId="\u0000", decision="accept"),
        "approval_unknown",
    ),
    "cursor_of_nonsense": (asking("subscribe", after="not a cursor"), "bad_request"),
    "working_directory_elsewhere": (asking("startThread", cwd="/etc"), "project_path_refused"),
    "config_of_ones_own": (asking("startThread", config={}), "bad_request"),
}


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_bad_frames_are_told_and_counted_and_hurt_nobody(
    transport: str, tmp_path: Path
) -> None:
    async with hosted(tmp_path, max_frame_bytes=FRAME_LIMIT) as host:
        project = await host.open("p")
        async with connected(host, transport) as peer:
            for name, (make, code) in BAD_FRAMES.items():
                before = host.metric("rpc_errors_total", code=code)
                await peer.send(make(project))
                check_error(await peer.frame(), code)
                assert host.metric("rpc_errors_total", code=code) == before + 1, name
                await peer.send(call(project, "pingProject", "_INBOX.b"))
                assert (await peer.frame())["payload"] == {"loadedThreads": 0}, name
        assert (await host.call(project, "pingProject"))["loadedThreads"] == 0
        assert host.rows("SELECT count(*) FROM intents") == [(0,)]
        assert (await host.call(project, "projectStatus"))["generation"] == 1


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize(
    "text", ["a\u0000b", "\u2028\u2029\ufeff", "a\nb\r\n\x1b[2J", "\ud83d\ude00" * 3000, "\uffff"]
)
async def test_strange_text_reaches_the_app_server_as_one_line_of_json(
    text: str, transport: str, tmp_path: Path
) -> None:
    text = text.encode("utf-16", "surrogatepass").decode("utf-16")
    async with hosted(tmp_path, max_frame_bytes=FRAME_LIMIT) as host:
        project = await host.open("p")
        async with watching(host, project) as seen, connected(host, transport) as peer:
            thread = await host.thread(project)
            await peer.send(call(project, "sendMessage", threadId=thread, text=text))
            await seen.until_end((await peer.frame())["payload"]["turnId"])
            messages = [json.loads(m) for m in seen.said]
            said = [
                m["params"]["item"]["content"][0]["text"]
                for m in messages
                if m["method"] == "item/completed" and "content" in m["params"]["item"]
            ]
            assert said == [text]


async def test_directories_that_may_not_be_projects(tmp_path: Path) -> None:
    roots, outside = tmp_path / "allowed", tmp_path / "outside"
    for directory in (roots / "real", outside):
        directory.mkdir(parents=True)
    (roots / "file").write_text("")
    (roots / "link").symlink_to(outside)
    (roots / "inner").symlink_to(roots / "real")
    (roots / "loop").symlink_to(roots / "loop")
    bad = [
        str(outside),
        str(roots / "link"),
        str(roots / "inner"),
        str(roots / "link" / ".." / "real"),
        str(roots / "loop"),
        str(roots / "real" / ".." / ".." / "outside"),
        str(roots / "file"),
        str(roots / "missing"),
        "real",
        "./real",
        "~",
        f"{roots}/real\0",
        f"{roots}/{'x' * 300}",
        f"{roots}/" + "d/" * 2000,
        str(tmp_path / "state"),
        str(tmp_path / "state" / "projects"),
        str(tmp_path),
        "/",
        "/proc/self/cwd",
    ]
    async with hosted(tmp_path, project_roots=(roots, tmp_path / "state")) as host:
        for transport in TRANSPORTS:
            async with connected(host, transport) as peer:
                for path in bad:
                    await peer.send(call(None, "openProject", path=path))
                    check_error(await peer.frame(), "project_path_refused")
                await peer.send(call(None, "openProject", path=f"{roots}/real"))
                assert (await peer.frame())["payload"]["path"] == str(roots / "real")
        refused = host.metric("rpc_errors_total", code="project_path_refused")
        assert refused == len(bad) * len(TRANSPORTS)
        assert len((await host.call(None, "listProjects"))["projects"]) == 1
        assert host.rows("SELECT path FROM projects") == [(str(roots / "real"),)]


async def test_who_may_come_in_over_http(tmp_path: Path) -> None:
    async with hosted(tmp_path) as host, aiohttp.ClientSession() as session:
        right = {"Authorization": f"Bearer {token(host)}"}
        cases: list[tuple[dict[str, str], int, str]] = [
            ({}, 401, "unauthenticated"),
            ({"Authorization": "Bearer wrong"}, 401, "unauthenticated"),
            ({"Authorization": f"Basic {token(host)}"}, 401, "unauthenticated"),
            ({"Authorization": f"Bearer {token(host)[:-1]}"}, 401, "unauthenticated"),
            ({**right, "Host": "evil.example.org"}, 403, "forbidden"),
            ({**right, "Origin": "https://evil.example.org"}, 403, "forbidden"),
            ({**right, "Origin": "null"}, 403, "forbidden"),
        ]
        url = f"{http_url(host)}/v1/rpc"
        upgrade = {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": "13"}
        for headers, status, code in cases:
            before = host.metric("rpc_refused_total", reason=code)
            async with session.get(url, headers=upgrade | headers) as answer:
                assert answer.status == status
                check_error({"headers": await answer.json()}, code)
            assert host.metric("rpc_refused_total", reason=code) == before + 1
        async with session.get(url, headers=right) as answer:
            assert answer.status == 400
            check_error({"headers": await answer.json()}, "bad_request")
        assert host.metric("rpc_refused_total", reason="junk") == 1
        assert token(host) not in (await (await session.get(f"{http_url(host)}/metrics")).text())
        async with connected(host, "websocket") as peer:
            await peer.send(call(None, "hostStatus"))
            assert (await peer.frame())["payload"]["projects"] == 0


async def test_a_frame_too_large_is_refused_and_others_go_on(tmp_path: Path) -> None:
    async with hosted(tmp_path, max_frame_bytes=FRAME_LIMIT) as host:
        project = await host.open("p")
        frame = call(project, "sendMessage", threadId="t", text="x" * FRAME_LIMIT)
        async with connected(host, "unix") as peer:
            await peer.send(frame)
            check_error(await peer.frame(), "too_large")
            await peer.send(call(project, "pingProject"))
            assert (await peer.frame())["payload"] == {"loadedThreads": 0}
        async with connected(host, "websocket") as peer:
            assert isinstance(peer, WebSocketPeer)
            await peer.send(frame)
            assert (await peer.socket.receive()).type is aiohttp.WSMsgType.CLOSE
            assert peer.socket.close_code == 1009
        await until(lambda: host.metric("rpc_refused_total", reason="too_large") == 2)
        assert await host.call(project, "pingProject")


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_a_thousand_pipelined_requests_are_answered_or_told_to_wait(
    transport: str, tmp_path: Path
) -> None:
    async with hosted(tmp_path) as host:
        project = await host.open("p")
        await host.call(project, "pingProject")
        async with connected(host, transport) as peer, asyncio.TaskGroup() as group:

            async def send() -> None:
                for n in range(1000):
                    await peer.send(call(project, "pingProject", f"_INBOX.{n}"))

            group.create_task(send())
            frames = [await peer.frame() for _ in range(1000)]
            assert {f["subject"] for f in frames} == {f"_INBOX.{n}" for n in range(1000)}
            failed = [f for f in frames if "error" in f["headers"]]
            for frame in failed:
                assert check_error(frame, "overloaded")["retryable"]
            assert len(failed) < 1000
            assert host.metric("rpc_errors_total", code="overloaded") == len(failed)
        assert await host.call(project, "pingProject")


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_a_client_gone_in_mid_request_has_its_turn_run_once(
    transport: str, tmp_path: Path
) -> None:
    async with hosted(tmp_path) as host:
        project = await host.open("p")
        async with watching(host, project) as seen:
            thread = await host.thread(project)
            sent: dict[str, object] = {"threadId": thread, "text": "text", "idempotencyKey": "k"}
            async with connected(host, transport) as peer:
                await peer.send(call(project, "sendMessage", **sent))
                if transport == "unix":
                    await peer.send(call(project, "interruptTurn", threadId=thread)[:30])
            await seen.until(lambda s: s.ends)
            again = await host.call(project, "sendMessage", **sent)
            assert again["replayed"]
            assert again["turnId"].encode() in seen.ends[0]
            assert seen.methods().count("turn/started") == 1
        await until(lambda: host.metric("connections", transport=transport) <= 1)


async def test_an_approval_is_answered_once_with_what_was_offered_and_by_its_own_project(
    tmp_path: Path,
) -> None:
    async with hosted(tmp_path) as host:
        project, other = await host.open("p"), await host.open("other")
        async with watching(host, project) as seen, connected(host, "websocket") as peer:
            thread = await host.thread(project)
            turn = await host.send(project, thread, "ask")
            await seen.until(lambda s: any("requestApproval" in m for m in s.methods()))
            [approval] = (await host.call(project, "listApprovals"))["approvals"]
            name = approval["approvalId"]

            async def answer(code: str | None, where: str = project, **said: object) -> None:
                await peer.send(call(where, "answerApproval", approvalId=name, **said))
                frame = await peer.frame()
                if code is None:
                    assert frame["payload"] == {}
                else:
                    check_error(frame, code)

            await answer("bad_request", decision="yes, sure")
            await answer("bad_request", decision="approved")
            await answer("bad_request", result={"decision": "maybe"})
            await answer("bad_request", result={"decision": "accept", "x": nested(DEEP)})
            await answer("bad_request", decision="accept", result={"decision": "accept"})
            await answer("bad_request")
            # The other project never asked anything of that number that anybody could answer.
            await answer("approval_settled", other, decision="accept")
            assert (await host.call(project, "listApprovals"))["approvals"] == [approval]
            await answer(None, decision="decline")
            await answer("approval_settled", decision="accept")
            await seen.until_end(turn)
            await answer("approval_settled", decision="accept")
            await host.call(project, "listAudit", limit=1)  # writes what waits
        query = "SELECT state, answer FROM server_requests"
        assert host.rows(query) == [("resolved", b'{"decision":"decline"}')]


async def test_an_idempotency_key_is_for_one_request(tmp_path: Path) -> None:
    async with hosted(tmp_path) as host:
        project = await host.open("p")
        async with watching(host, project) as seen, connected(host, "unix") as peer:
            thread = await host.thread(project)

            async def send(text: str) -> dict[str, Any]:
                params: dict[str, object] = {"threadId": thread, "idempotencyKey": "one"}
                await peer.send(call(project, "sendMessage", text=text, **params))
                return await peer.frame()

            first = (await send("text n=1"))["payload"]
            await seen.until_end(first["turnId"])
            check_error(await send("another"), "idempotency_mismatch")
            assert (await send("text n=1"))["payload"] == first | {"replayed": True}
            assert seen.methods().count("turn/started") == 1
        assert host.metric("turns_total", outcome="completed") == 1
