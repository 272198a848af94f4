"""Where the credential is looked for."""

import os
from pathlib import Path

import pytest

from supervisor.credentials.key import Key, key_path
from supervisor.errors import ErrorCode, SupervisorError
from supervisor.settings_groups import ProxySettings


def test_it_is_a_file_a_systemd_credential_or_none() -> None:
    environment = {"CREDENTIALS_DIRECTORY": "/run/credentials/x.service"}
    named = ProxySettings(credential="openai")
    assert key_path(named, environment) == Path("/run/credentials/x.service/openai")
    assert key_path(ProxySettings(key_file=Path("/k")), environment) == Path("/k")
    assert key_path(ProxySettings(), environment) is None


@pytest.mark.parametrize("environment", [{}, {"CREDENTIALS_DIRECTORY": "relative"}])
def test_a_systemd_credential_without_systemd_is_a_mistake(environment: dict[str, str]) -> None:
    with pytest.raises(SupervisorError) as raised:
        key_path(ProxySettings(credential="openai"), environment)
    assert raised.value.code is ErrorCode.SETTINGS_INVALID


def test_what_is_no_regular_file_keeps_nobody_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path / "fifo", tmp_path, tmp_path / "none"):
        key = Key(path)
        assert not key.present()
        with pytest.raises(SupervisorError) as raised:
            key.value()
        assert raised.value.code is ErrorCode.MODEL_UNREACHABLE


def test_one_that_cannot_be_read_any_more_is_not_used_any_more(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text(" sk-one \n")
    key = Key(file)
    assert key.value() == "sk-one"
    file.write_text("")
    assert not key.present()
    file.write_text("sk-two")
    assert key.value() == "sk-two"
    assert "sk-two" not in repr(key)
