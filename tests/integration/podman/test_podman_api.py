"""podman's API by a service of our own: what it says, when it is started, and what it may do wrong.

Most of what goes wrong is played by a service of a few lines in podman's place, which is replaced
by the real one at the next start.
"""

import os
import signal
import sys
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from supervisor.errors import ErrorCode, SupervisorError
from supervisor.runtimes.podman_api import PodmanApi
from supervisor.runtimes.podman_command import Podman
from supervisor.runtimes.podman_exit import exit_of
from supervisor.runtimes.podman_service import SOCKET, PodmanService
from tests.containers import IMAGE, require_podman
from tests.contract.scripted import until

HEAD = "HTTP/1.1 {status} X\r\nLibpod-Api-Version: 4.3.1\r\nContent-Length: {length}\r\n\r\n"
FAKE = """
import socket, sys, time
listener = socket.socket(socket.AF_UNIX)
listener.bind(sys.argv[-1].removeprefix("unix://"))
listener.listen()
kept = []
while True:
    connection, _ = listener.accept()
    kept.append(connection)
    if connection.recv(65536):
        {does}
"""


def answering(status: int, body: str, *, length: int | None = None) -> str:
    head = HEAD.format(status=status, length=len(body) if length is None else length)
    return f"connection.sendall({(head + body).encode()!r}); connection.close()"


@pytest.fixture
def variables(tmp_path: Path) -> Mapping[str, str]:
    return require_podman(tmp_path)


@pytest.fixture
def service(variables: Mapping[str, str], tmp_path: Path) -> Iterator[PodmanService]:
    made = PodmanService(variables, tmp_path / "service")
    yield made
    made.close()
    assert services() == []


@pytest.fixture
def api(service: PodmanService) -> PodmanApi:
    return PodmanApi(service)


@pytest.fixture
def podman(variables: Mapping[str, str], tmp_path: Path, service: PodmanService) -> Podman:
    return Podman(variables, directory=tmp_path / "service")


@pytest.fixture
def name(request: pytest.FixtureRequest, podman: Podman) -> Iterator[str]:
    made = f"codex-supervisor-test-{os.getpid()}"
    yield made
    podman.remove(made)


def services() -> list[psutil.Process]:
    """Children of ours that serve an API, and have not ended."""
    return [each for each in psutil.Process().children() if serves(each)]


def serves(process: psutil.Process) -> bool:
    try:
        return "service" in process.cmdline()
    except psutil.Error:
        return False


def create(podman: Podman, name: str, *more: str) -> str:
    return podman.ask("create", "--name", name, "--network", "none", *more).strip()


# -- what it says


def test_containers_are_listed_with_labels_and_states(
    podman: Podman, api: PodmanApi, name: str
) -> None:
    made = create(podman, name, "--label", "test.a=1", "--label", f"test.b={name}", IMAGE, "true")
    (listed,) = [each for each in api.containers() if each.id == made]
    assert (listed.names, listed.state, listed.pid) == ([name], "created", 0)
    assert listed.labels is not None
    assert listed.labels["test.b"] == name
    assert [each.id for each in api.containers("test.a", f"test.b={name}")] == [made]
    assert api.containers("test.a=2", f"test.b={name}") == []
    assert api.state(made).status == "created"


def test_a_container_that_is_not_there_has_no_state_and_is_removed_without_ado(
    api: PodmanApi,
) -> None:
    with pytest.raises(SupervisorError, match="no such container") as caught:
        api.state("no-such-container")
    assert caught.value.code is ErrorCode.AGENT_START_FAILED
    api.remove("no-such-container")


def test_an_image_is_there_or_not(api: PodmanApi) -> None:
    found = api.image(IMAGE)
    assert found is not None
    assert (len(found.id), found.os) == (64, "linux")
    assert found.architecture in ("amd64", "arm64")
    assert api.image("localhost/no-such-image:1") is None
    assert api.image("../containers/json?x=") is None


def test_events_tell_of_a_container_that_is_gone(podman: Podman, api: PodmanApi, name: str) -> None:
    labels = ["--label", f"test.of={name}", "--label", "test.x=1"]
    made = create(podman, name, *labels, IMAGE, "sh", "-c", "exit 7")
    podman.ask("start", "--attach=false", made)
    podman.ask("wait", made)
    # podman cleans up after a container in a process of its own.
    api.remove(made)
    found = api.events("10m", f"test.of={name}", "test.x")
    said = [event.what for event in found]
    assert [said[0], said[-1]] == ["create", "remove"]
    assert [event.exit_code for event in found if event.what == "died"] == [7]
    assert {event.id for event in found} == {made}
    assert api.events("10m", f"test.of={name}", "test.x=2") == []
    # So its end is known, though a kernel before 6.15 would not tell either.
    assert exit_of(podman, made, -1, False).code == 7


# -- when it runs


def test_it_is_started_once_for_any_number_who_ask_at_once_and_found_by_a_successor(
    api: PodmanApi, variables: Mapping[str, str], tmp_path: Path
) -> None:
    together = threading.Barrier(6)

    def ask(_: int) -> None:
        together.wait()
        api.containers()

    with ThreadPoolExecutor(6) as threads:
        list(threads.map(ask, range(6)))
    (first,) = services()
    successor = PodmanApi(PodmanService(variables, tmp_path / "service"))
    successor.containers()
    assert services() == [first]
    socket = tmp_path / "service" / SOCKET
    assert socket.is_socket()
    assert socket.stat().st_mode & 0o777 == 0o600
    assert socket.parent.stat().st_mode & 0o777 == 0o700
    assert first.environ()["CONTAINERS_CONF"] == variables["CONTAINERS_CONF"]
    assert os.getsid(first.pid) == first.pid
    successor.close()
    assert services() == []


async def test_it_ends_itself_when_nobody_asks(
    variables: Mapping[str, str], tmp_path: Path
) -> None:
    service = PodmanService(variables, tmp_path / "service", idle_seconds=2)
    PodmanApi(service).containers()
    (running,) = services()
    await until(lambda: not running.is_running())
    assert list((tmp_path / "service").iterdir()) == []
    service.close()


def test_a_directory_of_any_length_will_do(variables: Mapping[str, str], tmp_path: Path) -> None:
    service = PodmanService(variables, tmp_path / ("d" * 100) / ("e" * 100))
    PodmanApi(service).containers()
    service.close()
    assert services() == []


def test_a_directory_that_others_may_enter_is_refused(api: PodmanApi, tmp_path: Path) -> None:
    (tmp_path / "service").mkdir(mode=0o755)
    with pytest.raises(SupervisorError, match="mode 0700") as caught:
        api.containers()
    assert caught.value.code is ErrorCode.STATE_DIRECTORY_UNSAFE
    (tmp_path / "service").chmod(0o700)


# -- what it may do wrong


def test_one_that_was_killed_is_replaced(api: PodmanApi) -> None:
    api.containers()
    (first,) = services()
    first.kill()
    api.containers()
    assert services() != [first]


def test_one_that_hangs_is_ended_and_the_next_call_has_a_fresh_one(
    variables: Mapping[str, str], tmp_path: Path, api: PodmanApi
) -> None:
    api.containers()
    (first,) = services()
    first.suspend()
    # As the supervisor after the one that started it.
    impatient = PodmanService(variables, tmp_path / "service", patience=0.5)
    with pytest.raises(SupervisorError, match="did not answer within") as caught:
        PodmanApi(impatient).containers()
    assert caught.value.code is ErrorCode.AGENT_START_FAILED
    assert first not in services()
    api.containers()


@pytest.mark.parametrize(
    ("does", "message"),
    [
        (answering(200, '[{"Id":'), "not understood"),
        (answering(200, '[{"Id":', length=100), "broke off"),
        (answering(200, "{}"), "not understood"),
        (answering(500, '{"message":"the disk is full","response":500}'), "the disk is full"),
        (answering(500, "<html>"), "HTTP status 500"),
        (answering(404, ""), "HTTP status 404"),
        ("connection.close()", "broke off"),
        ("connection.sendall(b'220 mail.example\\r\\n'); connection.close()", "broke off"),
        ("connection.sendall(b'HTTP/1.1 200 OK\\r\\n\\r\\n[]'); connection.close()", "not podman"),
    ],
    ids=[
        *("half-json", "half-answer", "another-shape", "refuses", "fails", "knows-nothing"),
        *("hangs-up", "no-http", "not-podman"),
    ],
)
def test_an_answer_of_no_use_has_a_name_and_the_next_call_has_a_fresh_service(
    variables: Mapping[str, str], tmp_path: Path, does: str, message: str
) -> None:
    service = PodmanService(variables, tmp_path / "service", program=fake(tmp_path, does))
    api = PodmanApi(service)
    with pytest.raises(SupervisorError, match=message) as caught:
        api.containers()
    assert caught.value.code is ErrorCode.AGENT_START_FAILED
    if message == "HTTP status 404":
        service.kill()  # a refusal is an answer
    assert isinstance(api.containers(), list)
    service.close()
    assert services() == []


def test_a_list_in_which_something_has_just_ended_is_asked_for_again(
    variables: Mapping[str, str], tmp_path: Path
) -> None:
    words = "determining buildah container for container 99: container not known"
    program = fake(tmp_path, answering(500, f'{{"message":"{words}","response":500}}'))
    service = PodmanService(variables, tmp_path / "service", program=program)
    assert isinstance(PodmanApi(service).containers(), list)
    service.close()
    assert services() == []


@pytest.mark.parametrize(
    "does",
    [
        "pass",
        f"connection.sendall({HEAD.format(status=200, length=10)!r}.encode())",
        f"connection.sendall({HEAD.format(status=200, length=1 << 30)!r}.encode())\n"
        "        while True: connection.sendall(b' '); time.sleep(0.05)",
    ],
    ids=["no-answer", "no-body", "no-end"],
)
def test_an_answer_that_takes_for_ever_is_an_error_in_time(
    variables: Mapping[str, str], tmp_path: Path, does: str
) -> None:
    program = fake(tmp_path, does)
    service = PodmanService(variables, tmp_path / "service", program=program, patience=1)
    with pytest.raises(SupervisorError, match="did not answer within 1 s"):
        PodmanApi(service).containers()
    assert services() == []


def test_one_that_listens_and_does_not_take_a_signal_is_ended_all_the_same(
    variables: Mapping[str, str], tmp_path: Path
) -> None:
    deaf = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n        "
    program = fake(tmp_path, deaf + answering(500, ""))
    service = PodmanService(variables, tmp_path / "service", program=program)
    with pytest.raises(SupervisorError, match="HTTP status 500"):
        PodmanApi(service).containers()
    (running,) = services()
    assert running.status() != psutil.STATUS_STOPPED
    service.kill()
    assert running.wait(30) in (None, -signal.SIGKILL)


def fake(directory: Path, does: str) -> str:
    """A program whose first service is a false one, and the next ones are podman's."""
    program, played = directory / "bin" / "podman", directory / "bin" / "fake.py"
    program.parent.mkdir()
    played.write_text(FAKE.format(does=does))
    program.write_text(
        f'#!/bin/sh\nmkdir "{directory}/once" 2>/dev/null || exec podman "$@"\n'
        f'exec "{sys.executable}" -I -S "{played}" "$@"\n'
    )
    program.chmod(0o755)
    return str(program)
