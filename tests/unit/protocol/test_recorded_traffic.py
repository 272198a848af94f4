"""Recorded traffic of the real app-server, through the whole of the protocol package."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from supervisor.protocol.answers import check_answer
from supervisor.protocol.framing import LineFramer
from supervisor.protocol.items import item_of, message_text
from supervisor.protocol.jsonrpc import Kind, Parsed, error_of, params_of, parse, result_of
from supervisor.protocol.methods import CLIENT_REQUESTS, NOTIFICATIONS, SERVER_REQUESTS

NAMES = ["text", "command_untrusted", "file_change", "user_input", "dynamic_tool"]


def recorded(name: str, direction: str) -> list[Any]:
    text = (Path(__file__).parent / "data" / f"{name}.jsonl").read_text()
    entries = [json.loads(line) for line in text.splitlines()]
    return [entry["msg"] for entry in entries if entry["dir"] == direction]


def lines(name: str, direction: str = "s>c") -> list[bytes]:
    return [
        json.dumps(message, ensure_ascii=False, separators=(",", ":")).encode()
        for message in recorded(name, direction)
    ]


def kind_of(message: dict[str, object]) -> Kind:
    if "method" in message:
        return Kind.REQUEST if "id" in message else Kind.NOTIFICATION
    return Kind.ERROR if "error" in message else Kind.RESPONSE


@pytest.mark.parametrize("name", NAMES)
def test_every_line_is_what_it_was(name: str) -> None:
    for direction in ("s>c", "c>s"):
        for message, line in zip(recorded(name, direction), lines(name, direction), strict=True):
            parsed = parse(line)
            assert parsed.kind is kind_of(message)
            assert parsed.method == message.get("method")
            if parsed.id is not None:
                assert json.loads(parsed.id) == message["id"]


@pytest.mark.parametrize("name", NAMES)
def test_every_id_is_found(name: str) -> None:
    for message, line in zip(recorded(name, "s>c"), lines(name), strict=True):
        params = message.get("params", {})
        parsed = parse(line)
        if parsed.kind in (Kind.RESPONSE, Kind.ERROR):
            continue
        assert parsed.thread_id == (params.get("threadId") or params.get("thread", {}).get("id"))
        assert parsed.turn_id == (params.get("turnId") or params.get("turn", {}).get("id"))
        item = params.get("itemId") or params.get("item", {}).get("id") or params.get("callId")
        assert parsed.item_id == item
        assert parsed.delta == params.get("delta")


@pytest.mark.parametrize("name", NAMES)
def test_every_method_is_in_the_table(name: str) -> None:
    known = {*NOTIFICATIONS, *SERVER_REQUESTS}
    assert {parse(line).method for line in lines(name)} - {None} <= known
    asked = {parse(line) for line in lines(name, "c>s")}
    assert {p.method for p in asked if p.kind is Kind.REQUEST} <= set(CLIENT_REQUESTS)


@pytest.mark.parametrize("name", NAMES)
def test_parts_equal_the_message(name: str) -> None:
    for message, line in zip(recorded(name, "s>c"), lines(name), strict=True):
        if "result" in message:
            assert json.loads(bytes(result_of(line))) == message["result"]
        elif "error" in message:
            assert error_of(line).message == message["error"]["message"]
        else:
            assert json.loads(bytes(params_of(line))) == message["params"]


def test_a_spool_of_it_all_comes_out_the_same_at_any_chunk_size() -> None:
    whole = [line for name in NAMES for line in lines(name)]
    spool = b"".join(line + b"\n" for line in whole)
    for size in (1, 7, 4096, 65536):
        framer = LineFramer()
        chunks = (spool[at : at + size] for at in range(0, len(spool), size))
        assert [line for chunk in chunks for line in framer.feed(chunk)] == whole


def test_the_deltas_of_a_message_make_its_text() -> None:
    parsed = [(parse(line), line) for line in lines("text")]
    text: dict[str, str] = {}
    for one, _ in parsed:
        if one.method == "item/agentMessage/delta":
            assert one.item_id is not None
            text[one.item_id] = text.get(one.item_id, "") + (one.delta or "")
    ended = [item_of(line) for one, line in parsed if one.method == "item/completed"]
    assert text
    assert {i.id: message_text(i) for i in ended if i and i.kind == "agentMessage"} == text


def items(name: str, method: str, kind: str) -> list[Any]:
    found = [item_of(line) for line in lines(name) if parse(line).method == method]
    return [item for item in found if item and item.kind == kind]


def test_commands_are_told_with_their_exit_codes() -> None:
    ran = items("command_untrusted", "item/completed", "commandExecution")
    assert ran[0].command.command == "/bin/bash -lc 'touch accepted.txt && echo hi'"
    assert (ran[0].command.cwd, ran[0].command.exit_code) == ("/srv/project", 0)
    assert {"completed", "declined"} <= {item.status for item in ran}


def test_file_changes_are_told_with_their_diffs() -> None:
    changed = items("file_change", "item/completed", "fileChange")
    assert Counter(item.status for item in changed) == {"completed": 3, "declined": 1}
    assert [c.diff for item in changed for c in item.changes][
        -1
    ] == "@@ -1 +1 @@\n-base\n+changed\n"


def server_requests(name: str) -> dict[bytes, Parsed]:
    parsed = (parse(line) for line in lines(name))
    return {p.id: p for p in parsed if p.kind is Kind.REQUEST and p.id is not None}


@pytest.mark.parametrize("name", NAMES[1:])
def test_the_answers_that_were_given_are_answers(name: str) -> None:
    asked = server_requests(name)
    given = [line for line in lines(name, "c>s") if parse(line).kind is Kind.RESPONSE]
    assert given
    for line in given:
        identifier = parse(line).id
        assert identifier is not None
        method = asked[identifier].method
        assert method is not None
        result = json.loads(bytes(result_of(line)))
        assert check_answer(method, result) == result
