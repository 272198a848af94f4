"""Events, a line each."""

from supervisor.cli.listing import WIDTH, Line, Lines, asked


def event(n: int, method: str, **params: object) -> dict[str, object]:
    message = {"method": method, "params": params}
    return {"type": "event", "cursor": f"e.{n}", "message": message}


def delta(n: int, text: str, item: str = "i") -> dict[str, object]:
    return event(n, "item/agentMessage/delta", threadId="t", itemId=item, delta=text)


def listed(*payloads: dict[str, object]) -> list[Line]:
    lines = Lines()
    return [line for payload in payloads for line in lines.take(payload)] + lines.flush()


def test_deltas_of_one_item_make_one_line_before_what_follows() -> None:
    turn = {"id": "u", "status": "completed"}
    made = listed(delta(1, "a "), delta(2, "b"), event(3, "turn/completed", turn=turn))

    assert [(line.cursor, line.what, line.summary) for line in made] == [
        ("e.2", "item/agentMessage/delta", "a b"),
        ("e.3", "turn/completed", "u completed"),
    ]


def test_deltas_of_different_items_stay_apart_and_lines_stay_short() -> None:
    assert [line.summary for line in listed(delta(1, "a", "x"), delta(2, "b", "y"))] == ["a", "b"]

    long = [delta(n, "x" * 50) for n in range(20)]
    summaries = [line.summary for line in listed(*long)]
    assert "".join(summaries) == "x" * 1000
    assert max(map(len, summaries)) <= WIDTH


def test_a_snapshot_says_what_is_open_and_what_waits() -> None:
    snapshot: dict[str, object] = {
        "type": "snapshot",
        "cursor": "e.7",
        "agent": {"state": "ready"},
        "threads": [
            {
                "threadId": "t",
                "status": "active",
                "turn": {"turnId": "u"},
                "openItems": [{"type": "agentMessage", "text": "so far"}],
            }
        ],
        "approvals": [
            {
                "approvalId": "1-0",
                "threadId": "t",
                "method": "item/commandExecution/requestApproval",
                "params": {"command": "bash -c ls"},
            }
        ],
    }

    assert [line.summary for line in listed(snapshot)] == [
        "agent ready",
        "thread active, turn u runs",
        "open agentMessage: so far",
        "1-0 waits: $ ls",
    ]


def test_what_it_does_not_know_is_shown_by_its_plain_values() -> None:
    [line] = listed(event(1, "new/thing", threadId="t", a=1, b="two", c={"deep": 1}))

    assert (line.thread, line.summary) == ("t", "a=1, b=two")


def test_gaps_are_told() -> None:
    expired: dict[str, object] = {"type": "expired", "asked": "old.1"}
    lagging: dict[str, object] = {"type": "lagging", "cursor": "e.2"}

    assert [line.what for line in listed(expired, lagging)] == ["expired", "lagging"]


def test_an_approval_nobody_can_describe_is_called_by_its_method() -> None:
    assert asked({"method": "new/request", "params": None}) == "new/request"
