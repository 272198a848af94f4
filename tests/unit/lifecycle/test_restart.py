"""Classification by what the real binary was seen to say, and the restart decision."""

import random
from signal import SIGKILL, SIGSEGV, SIGTERM

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.lifecycle.restart import (
    ExitFacts,
    ExitKind,
    PastExit,
    Quarantine,
    Restart,
    RestartPolicy,
    classify,
    decide,
    remember,
)

POLICY = RestartPolicy()
WARNING = "WARNING: proceeding, even though we could not create PATH aliases: Refusing\n"
BACKTRACE = "\n\nStack backtrace:\n   0: <unknown>\n"


def facts(
    code: int | None = None,
    signal: int | None = None,
    *,
    asked: bool = False,
    ready: bool = True,
    timed_out: bool = False,
    stderr: str = "",
    oom: bool = False,
    known: ExitKind | None = None,
) -> ExitFacts:
    return ExitFacts(code, signal, asked, ready, timed_out, stderr, oom, known)


@pytest.mark.parametrize(
    ("given_facts", "kind"),
    [
        (facts(0, asked=True), "asked"),
        (facts(None, SIGKILL, asked=True, oom=True), "asked"),
        (facts(None, None, asked=True), "asked"),
        (facts(0), "crashed"),
        (facts(101), "crashed"),
        (facts(None, SIGSEGV), "crashed"),
        (facts(None, SIGTERM), "crashed"),
        (facts(None, SIGKILL), "killed"),
        (facts(None, SIGKILL, ready=False), "killed"),
        (facts(None, SIGKILL, oom=True), "oom"),
        (facts(None, None), "vanished"),
        (facts(None, None, ready=False), "vanished"),
        (facts(None, SIGKILL, timed_out=True), "unresponsive"),
        (facts(None, SIGKILL, timed_out=True, ready=False), "start_timeout"),
        (facts(0, ready=False), "start_failed"),
        (facts(1, ready=False, stderr="Error: database is locked\n"), "start_failed"),
        (facts(None, SIGSEGV, ready=False), "start_failed"),
        (facts(known=ExitKind.CODEX_MISSING, ready=False), "codex_missing"),
        (facts(None, SIGTERM, asked=True, known=ExitKind.CODEX_VERSION), "codex_version"),
    ],
)
def test_an_exit_has_one_kind(given_facts: ExitFacts, kind: str) -> None:
    assert classify(given_facts) == kind


@pytest.mark.parametrize(
    "words",
    [
        "Error: Model provider `nope` not found",
        'Error: invalid type: string "{\\"x", expected a map\nin `projects`\n',
        'Error: CODEX_HOME points to "/nowhere", but that path does not exist',
        'Error: CODEX_HOME points to "/etc/hosts", but that path is not a directory',
    ],
)
def test_what_codex_says_of_a_bad_configuration_is_recognised(words: str) -> None:
    tail = WARNING + words + BACKTRACE
    assert classify(facts(1, ready=False, stderr=tail)) is ExitKind.BAD_CONFIG


def test_an_argument_that_codex_does_not_know_means_another_version() -> None:
    tail = WARNING + "error: unexpected argument '--nope' found\n\nUsage: codex app-server\n"
    assert classify(facts(2, ready=False, stderr=tail)) is ExitKind.CODEX_VERSION


def test_words_in_the_stderr_of_an_agent_that_was_ready_quarantine_nothing() -> None:
    tail = "Error: Model provider `nope` not found" + BACKTRACE
    assert classify(facts(1, stderr=tail)) is ExitKind.CRASHED


def test_words_in_the_middle_of_a_line_are_not_codex_speaking() -> None:
    tail = "warn: the model said Error: Model provider `nope` not found\n"
    assert classify(facts(1, ready=False, stderr=tail)) is ExitKind.START_FAILED


def crashes(*at: float, kind: ExitKind = ExitKind.CRASHED) -> list[PastExit]:
    return [PastExit(moment, kind) for moment in at]


class Highest:
    """The jitter that waits longest, and remembers what it was asked."""

    def uniform(self, a: float, b: float) -> float:
        assert a == 0.0
        return b


def longest(history: list[PastExit], now: float, policy: RestartPolicy = POLICY) -> float:
    decision = decide(history, now, Highest(), policy)
    assert isinstance(decision, Restart)
    return decision.delay_seconds


def test_the_first_restart_waits_at_most_the_base() -> None:
    assert longest(crashes(100.0), 100.0) == 0.2


def test_the_wait_doubles_with_each_exit_in_the_period() -> None:
    waits = [longest(crashes(*range(100, 100 + n)), 110.0) for n in range(1, 6)]
    assert waits == [0.2, 0.4, 0.8, 1.6, 3.2]


def test_the_wait_never_passes_the_cap() -> None:
    policy = RestartPolicy(intensity=5000)
    history = crashes(*[100.0] * 4000)
    assert longest(history, 100.0, policy) == 30.0


def test_exits_before_the_period_are_forgotten() -> None:
    assert longest(crashes(10.0, 20.0, 30.0, 100.0), 100.0) == 0.2
    assert longest(crashes(39.9, 40.0, 100.0), 100.0) == 0.4


def test_one_exit_more_than_the_intensity_is_quarantine_with_the_reason() -> None:
    assert isinstance(decide(crashes(*range(5)), 5.0, Highest(), POLICY), Restart)
    decision = decide(crashes(*range(6)), 5.0, Highest(), POLICY)
    assert isinstance(decision, Quarantine)
    assert decision.kind is ExitKind.CRASHED
    assert decision.reason == "it ended 6 times within 60 s, last: crashed"


@pytest.mark.parametrize("kind", ["bad_config", "auth", "quota", "codex_missing", "codex_version"])
def test_what_no_restart_mends_is_quarantined_at_once(kind: str) -> None:
    decision = decide(crashes(1.0, kind=ExitKind(kind)), 1.0, Highest(), POLICY)
    assert isinstance(decision, Quarantine)
    assert decision.kind == kind
    assert decision.reason


@pytest.mark.parametrize(
    "kind",
    [
        "crashed",
        "killed",
        "start_failed",
        "start_timeout",
        "unresponsive",
        "oom",
        "vanished",
    ],
)
def test_what_a_restart_may_mend_is_restarted(kind: str) -> None:
    assert longest(crashes(1.0, kind=ExitKind(kind)), 1.0) == 0.2


def test_an_end_that_was_asked_for_counts_for_nothing() -> None:
    history = [*crashes(1.0, 2.0, 3.0, 4.0, 5.0, 6.0), PastExit(7.0, ExitKind.ASKED)]
    assert decide(history, 7.0, Highest(), POLICY) == Restart(0.0)
    assert longest([PastExit(7.0, ExitKind.ASKED), *crashes(8.0)], 8.0) == 0.2
    assert decide([], 7.0, Highest(), POLICY) == Restart(0.0)


def test_starts_that_never_answer_are_given_up_however_slowly_they_fail() -> None:
    timeouts = crashes(*range(0, 180, 30), kind=ExitKind.START_TIMEOUT)
    assert len(timeouts) == 6
    assert isinstance(decide(timeouts, 150.0, Highest(), POLICY), Quarantine)
    assert isinstance(decide(timeouts[:5], 120.0, Highest(), POLICY), Restart)


def test_a_start_that_answered_in_between_breaks_the_row() -> None:
    slow = crashes(0.0, 100.0, 200.0, kind=ExitKind.START_TIMEOUT)
    history = [*slow, *crashes(300.0), *crashes(400.0, 500.0, kind=ExitKind.START_TIMEOUT)]
    assert longest(history, 500.0) == 0.4


times = st.lists(st.floats(0, 1000), max_size=30).map(sorted)


@given(times, st.integers(), st.lists(st.sampled_from(ExitKind), min_size=30, max_size=30))
def test_the_decision_is_a_pure_function_and_its_delay_is_bounded(
    moments: list[float], seed: int, kinds: list[ExitKind]
) -> None:
    history = [PastExit(at, kind) for at, kind in zip(moments, kinds, strict=False)]
    now = moments[-1] if moments else 0.0
    first = decide(history, now, random.Random(seed), POLICY)
    assert first == decide(history, now, random.Random(seed), POLICY)
    if isinstance(first, Restart):
        assert 0.0 <= first.delay_seconds <= 30.0


@given(times, st.lists(st.sampled_from(ExitKind), min_size=30, max_size=30))
def test_a_bounded_memory_decides_as_a_whole_one_does(
    moments: list[float], kinds: list[ExitKind]
) -> None:
    whole: list[PastExit] = []
    bounded: tuple[PastExit, ...] = ()
    for at, kind in zip(moments, kinds, strict=False):
        exit_ = PastExit(at, kind)
        whole.append(exit_)
        bounded = remember(bounded, exit_, POLICY)
        assert len(bounded) <= POLICY.intensity + 1
        asked = any(past.kind is ExitKind.ASKED for past in whole)
        if not asked:
            kept = decide(bounded, at, Highest(), POLICY)
            full = decide(whole, at, Highest(), POLICY)
            assert type(kept) is type(full)
            assert isinstance(kept, Quarantine) or kept == full
