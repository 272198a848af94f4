"""The state directory: who may use it, and how the last one left it."""

import json
import os
import signal
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from supervisor.agents.state_dir import StateDirectory
from supervisor.errors import ErrorCode, SupervisorError
from supervisor.ids import ProjectId

ROOT = Path(__file__).parents[2]


class Noon:
    """A clock that stands still."""

    def now(self) -> datetime:
        return datetime(2026, 1, 2, 12, tzinfo=UTC)

    def monotonic(self) -> float:
        return 0.0

    async def sleep(self, seconds: float) -> None:
        raise AssertionError("nothing here waits")


def opened(path: Path, boot_id: str = "boot-1") -> StateDirectory:
    return StateDirectory(path, boot_id=boot_id, clock=Noon())


def refusal(path: Path) -> SupervisorError:
    with pytest.raises(SupervisorError) as caught:
        opened(path)
    return caught.value


def test_a_new_one_is_nobody_elses(tmp_path: Path) -> None:
    state = opened(tmp_path / "a" / "state")
    assert state.path.stat().st_mode & 0o777 == 0o700
    project = state.project_dir(ProjectId("p-1"))
    assert project.is_relative_to(state.path)
    assert project.stat().st_mode & 0o777 == 0o700
    assert project.parent.stat().st_mode & 0o777 == 0o700
    assert state.project_dir(ProjectId("p-1")) == project


def test_its_files_have_their_places(tmp_path: Path) -> None:
    state = opened(tmp_path / "state")
    assert state.socket == tmp_path / "state" / "api.sock"
    assert len({state.socket, state.database, state.token, state.path / "lock"}) == 4


@pytest.mark.parametrize("mode", [0o755, 0o750, 0o701, 0o720])
def test_one_that_is_open_to_others_is_refused(tmp_path: Path, mode: int) -> None:
    state = tmp_path / "state"
    state.mkdir()
    state.chmod(mode)
    error = refusal(state)
    assert error.code is ErrorCode.STATE_DIRECTORY_UNSAFE
    assert f"{mode:04o}" in error.message


def test_a_symbolic_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir(mode=0o700)
    (tmp_path / "state").symlink_to(tmp_path / "real")
    error = refusal(tmp_path / "state")
    assert error.code is ErrorCode.STATE_DIRECTORY_UNSAFE
    assert "symbolic link" in error.message


def test_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "state").touch(mode=0o600)
    assert refusal(tmp_path / "state").code is ErrorCode.STATE_DIRECTORY_UNSAFE


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory away")
def test_another_users_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir(mode=0o700)
    os.chown(tmp_path / "state", 12345, 12345)
    error = refusal(tmp_path / "state")
    assert error.code is ErrorCode.STATE_DIRECTORY_UNSAFE
    assert "12345" in error.message


@pytest.mark.parametrize("project", ["", ".", "..", "../x", "a/b", "a\0b", ".hidden", "x" * 129])
def test_what_is_no_project_id_names_no_directory(tmp_path: Path, project: str) -> None:
    with pytest.raises(SupervisorError) as caught:
        opened(tmp_path / "state").project_dir(ProjectId(project))
    assert caught.value.code is ErrorCode.BAD_REQUEST


def test_a_project_directory_that_became_a_link_is_refused(tmp_path: Path) -> None:
    state = opened(tmp_path / "state")
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    state.project_dir(ProjectId("first"))
    (state.path / "projects" / "p").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(SupervisorError) as caught:
        state.project_dir(ProjectId("p"))
    assert caught.value.code is ErrorCode.STATE_DIRECTORY_UNSAFE


def test_a_second_supervisor_learns_who_the_first_is(tmp_path: Path) -> None:
    first = opened(tmp_path / "state")
    first.lock()
    with pytest.raises(SupervisorError) as caught:
        opened(tmp_path / "state").lock()
    assert caught.value.code is ErrorCode.STATE_DIRECTORY_BUSY
    assert f"pid {os.getpid()}" in caught.value.message
    assert "2026-01-02T12:00:00" in caught.value.message
    assert caught.value.details == {"pid": os.getpid(), "socket": str(first.socket)}
    first.unlock()
    first.unlock()


def test_one_that_holds_the_lock_and_has_not_said_who_it_is_keeps_it(tmp_path: Path) -> None:
    first = opened(tmp_path / "state")
    first.lock()
    (tmp_path / "state" / "lock").write_bytes(b'{"pid": ')
    with pytest.raises(SupervisorError) as caught:
        opened(tmp_path / "state").lock()
    assert caught.value.code is ErrorCode.STATE_DIRECTORY_BUSY
    assert caught.value.details == {}
    first.unlock()


def test_the_next_one_may_lock_after_the_first_let_go(tmp_path: Path) -> None:
    first = opened(tmp_path / "state")
    first.lock()
    first.unlock()
    second = opened(tmp_path / "state")
    second.lock()
    owner = json.loads((tmp_path / "state" / "lock").read_bytes())
    assert owner["pid"] == os.getpid()
    assert (tmp_path / "state" / "lock").stat().st_mode & 0o777 == 0o600
    second.unlock()


HOLDER = """
import sys
from pathlib import Path
from supervisor.agents.state_dir import StateDirectory
from supervisor.clock import SystemClock
state = StateDirectory(Path(sys.argv[1]), boot_id="boot-1", clock=SystemClock())
state.lock()
print("locked", flush=True)
sys.stdin.read()
"""


def test_a_killed_supervisor_holds_nothing_and_was_not_clean(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path / "state")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=ROOT,
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"locked\n"
        with pytest.raises(SupervisorError) as caught:
            opened(tmp_path / "state").lock()
        assert caught.value.details["pid"] == holder.pid
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    successor = opened(tmp_path / "state")
    successor.lock()
    assert not successor.was_clean()
    assert successor.is_continuous()
    successor.unlock()


@pytest.mark.parametrize(
    ("clean", "second_boot", "was_clean", "continuous"),
    [
        (True, "boot-1", True, True),
        (True, "boot-2", True, True),
        (False, "boot-1", False, True),
        (False, "boot-2", False, False),
    ],
)
def test_the_next_run_learns_how_the_last_one_ended(
    tmp_path: Path, clean: bool, second_boot: str, was_clean: bool, continuous: bool
) -> None:
    first = opened(tmp_path / "state")
    first.lock()
    if clean:
        first.mark_clean()
    first.unlock()
    second = opened(tmp_path / "state", second_boot)
    second.lock()
    assert (second.was_clean(), second.is_continuous()) == (was_clean, continuous)
    second.unlock()


@pytest.mark.parametrize("content", [None, b"", b"{", b"\xff", b'{"clean": true}', b"[]"])
def test_an_unreadable_or_missing_note_proves_nothing(
    tmp_path: Path, content: bytes | None
) -> None:
    state = opened(tmp_path / "state")
    if content is not None:
        (state.path / "last-run").write_bytes(content)
    state.lock()
    assert (state.was_clean(), state.is_continuous()) == (False, False)
    state.unlock()


def test_a_clean_end_is_good_for_one_start_only(tmp_path: Path) -> None:
    first = opened(tmp_path / "state")
    first.lock()
    first.mark_clean()
    first.unlock()
    second = opened(tmp_path / "state")
    second.lock()
    second.unlock()
    third = opened(tmp_path / "state")
    third.lock()
    assert not third.was_clean()
    third.unlock()
