"""What podman's words mean: exit codes, states, lists, complaints."""

import signal

import msgspec
import pytest

from supervisor.ports.runtime import Exit
from supervisor.runtimes.podman_child import last_words
from supervisor.runtimes.podman_exit import of_code
from supervisor.runtimes.podman_records import Container, State
from supervisor.runtimes.spec import MARKER_LABEL, container_name

MARKER = "state:one:3"


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (0, Exit(code=0)),
        (1, Exit(code=1)),
        (127, Exit(code=127)),
        (128, Exit(code=128)),
        (137, Exit(signal=signal.SIGKILL)),
        (143, Exit(signal=signal.SIGTERM)),
        (255, Exit(code=255)),
    ],
)
def test_a_code_above_128_is_the_signal_it_stands_for(code: int, expected: Exit) -> None:
    assert of_code(code) == expected


def test_an_ended_container_of_podman_5_tells_of_memory() -> None:
    text = (
        b'{"OciVersion":"1.2.0","Status":"exited","Running":false,"OOMKilled":true,"Pid":0,'
        b'"ExitCode":137,"StoppedByUser":false}'
    )
    state = msgspec.json.decode(text, type=State)
    assert (state.ended, state.exit_code, state.oom_killed) == (True, 137, True)


@pytest.mark.parametrize("status", ["created", "initialized", "running", "paused", "stopping"])
def test_a_code_before_the_end_does_not_count(status: str) -> None:
    assert not State(status=status).ended


def test_a_container_is_ours_by_its_label_and_a_half_made_one_by_its_name() -> None:
    labelled = Container(id="a", names=["x"], state="running", labels={MARKER_LABEL: MARKER})
    named = Container(id="b", names=[container_name(MARKER)], state="created")
    half_made = Container(id="c", names=[container_name(MARKER)], state="storage")
    assert [c.belongs_to(MARKER) for c in (labelled, named, half_made)] == [True, False, True]
    assert [c.marker for c in (labelled, named)] == [MARKER, ""]


def test_a_line_of_the_list_is_read() -> None:
    text = b'[{"Id":"f00","Names":["n"],"State":"storage","Labels":null,"Pid":0,"Exited":false}]'
    (found,) = msgspec.json.decode(text, type=list[Container])
    assert found == Container(id="f00", names=["n"], state="storage")


def test_the_last_of_many_words_is_shown() -> None:
    said = 'time="…" level=warning msg="x"\nError: statfs /srv/none: no such file\n\n'
    assert last_words(said) == "statfs /srv/none: no such file"
    assert last_words("\n") == "it failed without a word"
    assert len(last_words("x" * 10_000)) == 600
