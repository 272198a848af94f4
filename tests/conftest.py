"""What every test may rely on: a home of its own, a deadline, and nothing left running after it.

A test that needs something of the machine calls `require`: a laptop skips it, CI fails it.
"""

import contextlib
import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import codex_cli_bin
import hypothesis
import psutil
import pytest

CI = os.environ.get("CI") == "true"
MARKER = "CODEX_SUPERVISOR_GENERATION"
SESSION = "SUPERVISOR_TEST_SESSION"
"""In the environment of every process of this run, so that another run's are left alone."""

_LEFT_BEHIND: pytest.StashKey[list[str]] = pytest.StashKey()

# No deadline: a shared machine is slow at times, and no test is about time.
hypothesis.settings.register_profile("laptop", deadline=None)
hypothesis.settings.register_profile("ci", deadline=None, derandomize=True, print_blob=True)
hypothesis.settings.load_profile("ci" if CI else "laptop")


def require(condition: object, what: str) -> None:
    """Go on only if `condition` holds; else skip, or in CI fail, for want of `what`."""
    if condition:
        return
    if CI:
        pytest.fail(f"this machine lacks {what}", pytrace=False)
    pytest.skip(f"needs {what}")


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("chaos")
    group.addoption("--chaos-kills", type=int, default=0, help="at least so many; 0: one a place")
    group.addoption("--chaos-seed", type=int, default=20261120, help="what is killed, and when")


def pytest_configure(config: pytest.Config) -> None:
    for name in [name for name in os.environ if name.startswith("CODEX_SUPERVISOR_")]:
        del os.environ[name]
    os.environ[SESSION] = uuid.uuid4().hex


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("codex") is not None:
        require(_codex(), "the codex binary of the wheel openai-codex-cli-bin")


def _codex() -> bool:
    try:
        return os.access(codex_cli_bin.bundled_codex_path(), os.X_OK)
    except FileNotFoundError:
        return False


@pytest.fixture(scope="session", autouse=True)
def _home_of_its_own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """No test reads or writes the person's own configuration, state or Codex login."""
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(home))
        for name in ("XDG_CONFIG_HOME", "XDG_STATE_HOME", "XDG_RUNTIME_DIR", "CODEX_HOME"):
            patch.delenv(name, raising=False)
        yield home


@pytest.fixture(scope="session", autouse=True)
def _nothing_is_left(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No container, mount, socket, namespace, control group or process, after the last test."""
    from tests.leftovers import nothing_left  # which needs this module

    with nothing_left(tmp_path_factory.getbasetemp()):
        yield


def pytest_sessionfinish(session: pytest.Session) -> None:
    """End what tests left running, and fail the run for it."""
    left = _left_behind(os.environ[SESSION], _temporary(session.config))
    _, left = psutil.wait_procs(left, timeout=5)
    session.config.stash[_LEFT_BEHIND] = [_described(process) for process in left]
    for process in left:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    if left:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    for description in config.stash.get(_LEFT_BEHIND, []):
        terminalreporter.write_line(f"LEFT BEHIND by a test: {description}", red=True)


def _temporary(config: pytest.Config) -> Path | None:
    """Where this run's `tmp_path`s are, if any test used one."""
    factory: pytest.TempPathFactory = config._tmp_path_factory  # type: ignore[attr-defined]
    return factory._basetemp


def _left_behind(session: str, temporary: Path | None) -> list[psutil.Process]:
    return [each for each in psutil.process_iter() if _is_ours(each, session, temporary)]


def _is_ours(process: psutil.Process, session: str, temporary: Path | None) -> bool:
    """An agent's process of this run: by its environment, or by the directory it works in."""
    try:
        variables = process.environ()
        if MARKER not in variables:
            return False
        if variables.get(SESSION) == session:
            return True
        return temporary is not None and Path(process.cwd()).is_relative_to(temporary)
    except (psutil.Error, OSError):
        return False  # ended meanwhile, or another uid's


def _described(process: psutil.Process) -> str:
    try:
        return f"{process.pid} {' '.join(process.cmdline())[:200]}"
    except psutil.Error:
        return str(process.pid)
