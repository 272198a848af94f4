"""The same settings, as arguments and as a file."""

import tomllib
from pathlib import Path

import pytest

from supervisor.testing.codex_config import codex_environment, codex_overrides, config_toml


@pytest.mark.parametrize("auth", [False, True])
@pytest.mark.parametrize("retries", [None, 0])
def test_arguments_and_file_say_the_same(auth: bool, retries: int | None) -> None:
    arguments = codex_overrides("http://127.0.0.1:1/v1", auth=auth, retries=retries)
    assert arguments[::2] == ["-c"] * (len(arguments) // 2)
    file = tomllib.loads(config_toml("http://127.0.0.1:1/v1", auth=auth, retries=retries))
    assert tomllib.loads("\n".join(arguments[1::2])) == file
    provider = file["model_providers"]["mock"]
    assert provider["base_url"] == "http://127.0.0.1:1/v1"
    assert provider["requires_openai_auth"] is auth
    assert provider.get("stream_max_retries") == retries
    assert file["check_for_update_on_startup"] is False


def test_the_environment_holds_nothing_of_the_callers() -> None:
    assert set(codex_environment(Path("/h"))) == {"PATH", "HOME", "CODEX_HOME"}
