"""From lines to rows: what a turn, an item, a question and a lie leave behind."""

import json

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from supervisor.agents import claims
from supervisor.agents.effects import Answer, Asked, Effect, Excess, TurnEnded, Unknown
from supervisor.agents.intents import intent_row
from supervisor.agents.projection import Projection
from supervisor.agents.snapshot import snapshot_payload
from supervisor.audit import chain
from supervisor.broker.entry import entry_of, event_payload, parse_line
from supervisor.ids import Cursor, Epoch, Generation
from supervisor.policy.access import SUPERVISOR
from supervisor.protocol import methods
from tests.unit.agents.making import ME, PROJECT, fold, line, projection

TURN = {"threadId": "t", "turnId": "u"}
THREAD = line("thread/started", thread={"id": "t", "cwd": "/p"})
STARTED = line("turn/started", threadId="t", turn={"id": "u"})
APPROVAL = "item/commandExecution/requestApproval"


def item(moment: str, kind: str = "agentMessage", item_id: str = "i", **fields: object) -> bytes:
    return line(f"item/{moment}", **TURN, item={"id": item_id, "type": kind, **fields})


def completed(status: str = "completed", turn: str = "u") -> bytes:
    return line("turn/completed", threadId="t", turn={"id": turn, "status": status})


def ask(request_id: int | str = 0, method: str = APPROVAL, **fields: object) -> bytes:
    return msgspec.json.encode(
        {"id": request_id, "method": method, "params": {**TURN, "itemId": "i", **fields}}
    )


def started(request_id: str, turn_id: str) -> bytes:
    """The answer to a turn/start."""
    return msgspec.json.encode({"id": request_id, "result": {"turn": {"id": turn_id}}})


def submit(into: Projection, request_id: str, method: str = "turn/start", **params: object) -> None:
    """What a barrier commits before a request is written."""
    into.put_intent(
        intent_row(
            PROJECT,
            request_id,
            method,
            params,
            ME,
            meant=params,
            idempotency_key=None,
            n=1,
            at=1.0,
        )
    )


def audit_kinds(of: Projection) -> list[tuple[str, str, str]]:
    return [(row.kind, row.phase, row.account) for row in of.batch.audit]


def test_a_turn_and_its_items_become_rows_with_the_numbers_of_their_lines() -> None:
    made = projection()
    effects = fold(
        made, THREAD, STARTED, item("started"), item("completed", text="hi"), completed()
    )
    turn, message = made.batch.turns["t", "u"], made.batch.items["t", "u", "i"]
    assert (turn.state, turn.started_n, turn.ended_n) == ("completed", 2, 5)
    assert (message.state, message.started_n, message.completed_n) == ("completed", 3, 4)
    assert json.loads(message.body)["text"] == "hi"
    assert (made.batch.threads["t"].status, made.batch.threads["t"].has_turns) == ("active", True)
    assert [type(e) for e in effects if e is not None] == [TurnEnded]
    assert (made.memory.turns, made.memory.items) == ({}, {})


def test_an_interrupted_turn_abandons_its_items_and_a_completed_one_leaves_its_commands() -> None:
    lines = (
        STARTED,
        item("started"),
        item("started", "commandExecution", "c", command="sleep 9", cwd="/p"),
    )
    for status, left in (("interrupted", []), ("completed", [("t", "c")])):
        made = projection()
        fold(made, THREAD, *lines, completed(status))
        assert list(made.memory.items) == left
        assert made.batch.items["t", "u", "i"].state == "abandoned"
        if left:
            fold(made, item("completed", "commandExecution", "c", exitCode=0), first_n=9)
            assert made.batch.items["t", "u", "c"].completed_n == 9


def test_a_turn_ends_with_what_codex_said_of_it() -> None:
    made = projection()
    fold(made, STARTED, line("turn/completed", threadId="t", turn={"id": "u", "status": "odd"}))
    assert made.batch.turns["t", "u"].state == "failed"


@pytest.mark.parametrize("error", [{"message": "no", "codexErrorInfo": "other"}, None])
def test_a_turn_that_failed_has_ended_and_its_error_is_kept(error: object) -> None:
    made = projection()
    ended = {"id": "u", "status": "failed", "error": error}
    fold(made, STARTED, line("turn/completed", threadId="t", turn=ended))
    turn = made.batch.turns["t", "u"]
    assert turn.state == "failed"
    assert (None if turn.error is None else json.loads(turn.error)) == error
    assert made.memory.turns == {}


def test_the_one_who_asked_is_answerable_whichever_line_comes_first() -> None:
    command = item("started", "commandExecution", "c", command="ls", cwd="/p")
    for order in ((started("r", "u"), STARTED), (STARTED, started("r", "u"))):
        made = projection()
        fold(made, THREAD)
        submit(made, "r", threadId="t")
        fold(made, *order, command, completed(), first_n=2)
        accounts = {kind: account for kind, _, account in audit_kinds(made)}
        assert accounts["command.run"] == accounts["turn.ended"] == ME.account
        assert made.batch.turns["t", "u"].request_id == "r"
        assert made.batch.intents["r"].state == "done"
        assert made.memory.intents == {}


def test_a_turn_nobody_asked_for_is_the_supervisors_to_answer_for() -> None:
    made = projection()
    fold(made, STARTED, completed())
    assert audit_kinds(made) == [("turn.ended", "fact", SUPERVISOR.account)]


def test_a_refused_request_is_settled_with_codexs_words() -> None:
    made = projection()
    submit(made, "r", threadId="t")
    fold(made, b'{"id":"r","error":{"code":-32600,"message":"no"}}')
    row = made.batch.intents["r"]
    assert (row.state, json.loads(row.outcome or b"")["message"]) == ("failed", "no")
    assert made.memory.turns == {}


@pytest.mark.parametrize("result", ["null", "5", '{"turn":[]}', '{"turn":{"id":7}}', "{}"])
def test_an_answer_in_another_shape_settles_the_request_and_starts_nothing(result: str) -> None:
    made = projection()
    submit(made, "r", threadId="t")
    fold(made, b'{"id":"r","result":%b}' % result.encode())
    assert made.batch.intents["r"].state == "done"
    assert made.memory.turns == {}


def test_a_question_waits_until_it_is_resolved() -> None:
    made = projection()
    effects = fold(made, ask(command="ls"), ask(command="ls"))
    assert [type(e) for e in effects] == [Asked, type(None)], "asked again by thread/resume"
    [row] = made.memory.waiting()
    assert (row.approval_id, row.state, row.asked_n) == ("1-0", "waiting", 1)
    fold(made, line("serverRequest/resolved", threadId="t", requestId=0), first_n=3)
    assert made.memory.requests == {}
    assert made.batch.server_requests["1-0"].state == "abandoned"
    kinds = [kind for kind, _, _ in audit_kinds(made)]
    assert kinds == ["approval.asked", "approval.settled"]


def test_an_id_keeps_its_json_type() -> None:
    made = projection()
    fold(made, ask(0), ask("0"))
    assert [row.approval_id for row in made.memory.waiting()] == ["1-0", '1-"0"']
    fold(made, line("serverRequest/resolved", threadId="t", requestId="0"))
    assert [row.request_id for row in made.memory.waiting()] == [b"0"]


def test_questions_of_another_generation_are_not_resolved_by_this_one() -> None:
    made = projection()
    fold(made, ask(0))
    made.generation = Generation(2)
    fold(made, line("serverRequest/resolved", threadId="t", requestId=0))
    assert [row.approval_id for row in made.memory.waiting()] == ["1-0"]


def excess(effects: list[Effect | None]) -> list[str]:
    return [e.kind for e in effects if isinstance(e, Excess)]


def test_claims_past_the_bounds_are_told_and_forgotten() -> None:
    made = projection()
    turns = [line("turn/started", threadId="t", turn={"id": str(n)}) for n in range(1003)]
    assert excess(fold(made, *turns)) == ["turn"] * 3
    started_items = [item("started", item_id=str(n)) for n in range(514)]
    assert excess(fold(made, *started_items)) == ["item"] * 2
    long = "x" * (claims.ID_LIMIT + 1)
    assert excess(fold(made, item("started", item_id=long))) == ["item"]
    assert excess(fold(made, line("thread/started", thread={"id": long}))) == ["thread"]
    assert excess(fold(made, line("thread/started", thread={"id": "c", "cwd": "x" * 5000})))
    assert long not in str([*made.memory.items, *made.memory.threads])


def test_a_turn_of_ours_is_remembered_whatever_the_app_server_claims() -> None:
    made = projection()
    fold(made, *(line("turn/started", threadId="t", turn={"id": str(n)}) for n in range(1000)))
    submit(made, "r", threadId="t")
    fold(made, started("r", "ours"))
    assert ("t", "ours") in made.memory.turns


def test_questions_past_the_bounds_are_refused_at_once() -> None:
    made = projection()
    effects = fold(made, *(ask(n) for n in range(claims.WAITING_LIMIT + 2)))
    refused = [e for e in effects if isinstance(e, Asked) and not e.waiting]
    assert [(e.policy, e.refusal) for e in refused] == [("refuse", "overloaded")] * 2
    made = projection()
    big = "x" * (claims.WAITING_BYTES_LIMIT // 2)
    effects = fold(made, ask(1, reason=big), ask(2, reason=big), ask(3))
    assert [isinstance(e, Asked) and e.waiting for e in effects] == [True, False, True]


def test_the_texts_of_many_open_items_are_bounded_together() -> None:
    made = projection()
    delta = "x" * 500_000
    for n in range(200):
        fold(made, item("started", item_id=str(n)))
        said = line("item/agentMessage/delta", **TURN, itemId=str(n), delta=delta)
        fold(made, said, said, said)
    held = sum(len(each.text) for each in made.memory.items.values())
    assert held < 64 * 1024 * 1024
    assert all(each.truncated for each in made.memory.items.values())


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5)
    | st.sampled_from(["t", "u", "i", "completed", "commandExecution", "fileChange", "\0"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["id", "type", "status", "changes", "kind"]), inner)
    ),
    max_leaves=8,
)
PARAMS = st.dictionaries(
    st.sampled_from(
        ["threadId", "turnId", "itemId", "thread", "turn", "item", "status", "requestId", "delta"]
    ),
    VALUES,
)
MESSAGES = st.one_of(
    st.builds(
        lambda method, params: {"method": method, "params": params},
        st.sampled_from(sorted(methods.NOTIFICATIONS)),
        PARAMS,
    ),
    st.builds(
        lambda method, params, id_: {"method": method, "params": params, "id": id_},
        st.sampled_from(sorted(methods.SERVER_REQUESTS)),
        PARAMS,
        st.integers(0, 3) | st.text(max_size=3),
    ),
    st.builds(lambda id_, result: {"id": id_, "result": result}, st.sampled_from("rs"), VALUES),
    st.builds(lambda id_, error: {"id": id_, "error": error}, st.sampled_from("rs"), VALUES),
)
HONEST = [THREAD, STARTED, item("started"), item("completed"), completed(), ask(0), ask(1)]
LINES = st.lists(
    st.sampled_from(HONEST) | MESSAGES.map(lambda message: json.dumps(message).encode()),
    max_size=12,
)


def folded(lines: list[bytes]) -> Projection:
    made = projection()
    for request_id in ("r", "s"):
        submit(made, request_id, threadId="t")
    fold(made, *lines)
    return made


@settings(max_examples=150)
@given(LINES)
def test_no_line_breaks_the_fold_the_snapshot_or_the_audit_chain(lines: list[bytes]) -> None:
    made = folded(lines)
    again = folded(lines)
    assert again.batch == made.batch, "read again, and understood otherwise"
    assert chain.verify(made.batch.audit, end=(made.chain.seq, made.chain.head)).ok
    shown = snapshot_payload(made.memory, Cursor(Epoch("e"), 1), {"state": "ready"}, None)
    assert json.loads(shown)["type"] == "snapshot"
    for n, one in enumerate(lines, 1):
        entry = entry_of(n, one, parse_line(one))
        if entry.message is not None:
            json.loads(event_payload(Epoch("e"), entry, n - 1))


def test_what_cannot_be_read_is_an_unknown_or_an_answer_to_nobody() -> None:
    effects = fold(projection(), line("new/thing"), line("turn/completed"), b'{"id":7,"result":1}')
    assert [type(e) for e in effects] == [Unknown, Unknown, Answer]
