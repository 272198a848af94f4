"""What podman's words mean: exit codes, states, lists, complaints."""

import signal

import msgspec
import pytest

from supervisor.errors import ErrorCode, SupervisorError
from supervisor.ports.runtime import Exit
from supervisor.runtimes.podman_child import last_words
from supervisor.runtimes.podman_exit import of_code
from supervisor.runtimes.podman_records import (
    Container,
    Event,
    Inspected,
    State,
    decoded,
    decoded_lines,
)
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


EVENT = (
    '{"status":"%s","id":"1d7d","from":"i","Type":"container","Action":"%s","Actor":{"ID":"1d7d",'
    '"Attributes":{"containerExitCode":"%s","k.a":"1","name":"x"}},"scope":"local",'
    '"time":1795281765,"timeNano":1795281765146926312}'
)


def test_events_are_lines_and_only_a_death_tells_a_code() -> None:
    said = f"{EVENT % ('start', 'start', '0')}\n{EVENT % ('died', 'died', '137')}\n\n"
    started, died = decoded_lines(said.encode(), Event)
    assert (started.what, started.exit_code) == ("start", None)
    assert (died.what, died.id, died.exit_code) == ("died", "1d7d", 137)
    assert died.attributes["k.a"] == "1"
    assert died.at_ns == 1795281765146926312


def test_an_event_of_podman_5_without_what_is_not_known_of_it_is_read() -> None:
    said = (
        '{"Action":"died","Actor":{"ID":"9f","Attributes":null},"Type":"container","id":"9f",'
        '"HealthStatus":"","scope":"local","status":"died"}'
    )
    (event,) = decoded_lines(said.encode(), Event)
    assert (event.id, event.exit_code, event.attributes) == ("9f", None, {})


def test_an_inspected_container_of_podman_5_is_read() -> None:
    said = (
        '{"Id":"9f","State":{"OciVersion":"1.2.0","Status":"running","Running":true,"Pid":42,'
        '"ConmonPid":41,"ExitCode":0,"OOMKilled":false},"Image":"sha256:1","Name":"x"}'
    )
    assert msgspec.json.decode(said, type=Inspected).state == State(status="running")


@pytest.mark.parametrize("said", [b"", b"[", b"null", b'{"Id":1}', b"\xff", b'"x"'])
def test_what_is_no_answer_of_podmans_is_one_named_error(said: bytes) -> None:
    with pytest.raises(SupervisorError, match="not understood") as caught:
        decoded(said, list[Container])
    assert caught.value.code is ErrorCode.AGENT_START_FAILED
