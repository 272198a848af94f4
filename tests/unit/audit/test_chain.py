"""The hash chain: whatever is done to it shows."""

import json
from hashlib import sha256

import msgspec
from hypothesis import assume, given
from hypothesis import strategies as st

from supervisor.audit.chain import GENESIS, Chain, Problem, verify
from supervisor.audit.record import Draft, Kind, Phase
from supervisor.ids import Generation, ProjectId
from supervisor.ports.store import AuditRow

P = ProjectId("p")
TEXT = st.text(st.characters(exclude_categories=()), max_size=8)
OPTIONAL = st.none() | TEXT
NUMBER = st.integers(0, 2**63 - 1)

DRAFTS = st.builds(
    Draft,
    kind=st.sampled_from(Kind),
    phase=st.sampled_from(Phase),
    account=TEXT,
    principal=TEXT,
    source=TEXT,
    client=TEXT,
    detail=st.dictionaries(st.text("abc", max_size=3), st.integers(0, 9) | st.text(max_size=5)).map(
        lambda d: msgspec.json.encode(d, order="sorted")
    ),
    generation=NUMBER.map(Generation),
    n=NUMBER,
    thread_id=OPTIONAL,
    turn_id=OPTIONAL,
    item_id=OPTIONAL,
)
TIMES = st.floats(0, 4e9)


@st.composite
def chains(draw: st.DrawFn, least: int = 1) -> tuple[list[AuditRow], tuple[int, str]]:
    """Some records, and the end of their chain as a checkpoint would hold it."""
    chain = Chain(P, "here")
    made = draw(st.lists(st.tuples(DRAFTS, TIMES), min_size=least, max_size=6))
    rows = [chain.append(one, at) for one, at in made]
    return rows, (chain.seq, chain.head)


def field_values(name: str) -> st.SearchStrategy[object]:
    values: dict[str, st.SearchStrategy[object]] = {
        "seq": st.integers(-5, 20),
        "at": TIMES,
        "generation": NUMBER,
        "n": NUMBER,
        "thread_id": OPTIONAL,
        "turn_id": OPTIONAL,
        "item_id": OPTIONAL,
        "detail": st.binary(max_size=20),
        "hash": st.text("0123456789abcdef", min_size=64, max_size=64),
    }
    return values.get(name, TEXT)


@given(chains(least=0))
def test_an_untouched_chain_is_whole(chain: tuple[list[AuditRow], tuple[int, str]]) -> None:
    rows, end = chain
    verdict = verify(rows, end=end)
    assert verdict.ok
    assert (verdict.checked, verdict.next_seq, verdict.head) == (len(rows), *end)


@given(chains(), st.data())
def test_any_edit_of_any_field_is_found(
    chain: tuple[list[AuditRow], tuple[int, str]], data: st.DataObject
) -> None:
    rows, _ = chain
    at = data.draw(st.integers(0, len(rows) - 1))
    name = data.draw(st.sampled_from(AuditRow.__struct_fields__))
    value = data.draw(field_values(name))
    assume(value != getattr(rows[at], name))
    rows[at] = msgspec.structs.replace(rows[at], **{name: value})

    verdict = verify(rows)

    assert not verdict.ok
    assert verdict.checked == at


@given(chains(least=2), st.data())
def test_any_removal_is_found_where_it_is(
    chain: tuple[list[AuditRow], tuple[int, str]], data: st.DataObject
) -> None:
    rows, end = chain
    at = data.draw(st.integers(0, len(rows) - 1))
    del rows[at]

    verdict = verify(rows, end=end)

    assert verdict.problem is (Problem.GAP if at < len(rows) else Problem.CUT)
    assert verdict.checked == at


@given(chains(least=2), st.data())
def test_any_swap_is_found(
    chain: tuple[list[AuditRow], tuple[int, str]], data: st.DataObject
) -> None:
    rows, _ = chain
    one = data.draw(st.integers(0, len(rows) - 2))
    other = data.draw(st.integers(one + 1, len(rows) - 1))
    rows[one], rows[other] = rows[other], rows[one]

    verdict = verify(rows)

    assert not verdict.ok
    assert verdict.checked == one


@given(chains(), st.data())
def test_a_record_said_twice_is_found(
    chain: tuple[list[AuditRow], tuple[int, str]], data: st.DataObject
) -> None:
    rows, _ = chain
    at = data.draw(st.integers(0, len(rows) - 1))
    rows.insert(at + 1, rows[at])

    verdict = verify(rows)

    assert (verdict.problem, verdict.checked) == (Problem.REORDERED, at + 1)


@given(chains(), DRAFTS)
def test_a_record_made_up_at_the_end_is_found(
    chain: tuple[list[AuditRow], tuple[int, str]], extra: Draft
) -> None:
    rows, end = chain
    forger = Chain(P, "here", *end)
    rows.append(forger.append(extra, 1.0))

    assert verify(rows, end=end).problem is Problem.EDITED


@given(chains(), DRAFTS)
def test_a_chain_forged_anew_does_not_end_where_the_true_one_does(
    chain: tuple[list[AuditRow], tuple[int, str]], other: Draft
) -> None:
    rows, end = chain
    forger = Chain(P, "elsewhere")
    forged = [forger.append(other, row.at) for row in rows]

    assert verify(forged).ok
    assert verify(forged, end=end).problem is Problem.EDITED


@given(chains(), st.data())
def test_a_chain_goes_on_where_a_checkpoint_left_it(
    chain: tuple[list[AuditRow], tuple[int, str]], data: st.DataObject
) -> None:
    rows, end = chain
    successor = Chain(P, "here", *end)
    rows.append(successor.append(data.draw(DRAFTS), 2.0))

    assert verify(rows, end=(successor.seq, successor.head)).ok
    part = verify(rows[-1:], start_seq=end[0], start_hash=end[1])
    assert part.ok
    assert part.checked == 1


def test_the_hash_can_be_computed_with_nothing_of_ours() -> None:
    chain = Chain(P, "here")
    made = Draft(
        kind=Kind.COMMAND_RUN,
        phase=Phase.OUTCOME,
        account="local",
        principal="Zoë",
        source="unix:uid=0",
        client="c",
        detail=b'{"command":"ls \\"a\\"","exit_code":0}',
        generation=Generation(2),
        n=7,
        thread_id="t",
    )
    chain.append(made, 1.5)
    row = chain.append(made, 2.25)
    fields = {name: getattr(row, name) for name in row.__struct_fields__ if name != "hash"}
    fields["detail"] = row.detail.decode()
    canonical = json.dumps(fields, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    before = Chain(P, "here").append(made, 1.5).hash

    assert row.seq == 2
    assert row.hash == sha256(f"{before}\n{canonical}".encode()).hexdigest()


def test_chains_of_two_projects_differ_from_the_first_record() -> None:
    made = Draft(
        kind=Kind.AGENT_EXITED,
        phase=Phase.FACT,
        account="a",
        principal="p",
        source="s",
        client="c",
        detail=b"{}",
    )
    mine = Chain(P, "here").append(made, 1.0)
    yours = Chain(ProjectId("q"), "here").append(made, 1.0)

    assert mine.hash != yours.hash
    assert not verify([msgspec.structs.replace(yours, project=P)]).ok


def test_an_empty_chain_ends_at_its_genesis() -> None:
    assert verify([], end=(1, GENESIS)).ok
    assert verify([], end=(2, "ab" * 32)).problem is Problem.CUT
