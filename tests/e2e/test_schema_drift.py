"""The committed method table is that of the installed codex: drift fails here first."""

import difflib
import json
from pathlib import Path

import pytest

from supervisor.protocol.generate import TABLE, build, bundled_binary, digest, generate

pytestmark = pytest.mark.codex


def test_the_table_is_what_the_installed_codex_generates() -> None:
    """On failure: docs/protocol.md, "A new codex version"."""
    changed = difflib.unified_diff(
        TABLE.read_text().splitlines(), generate(bundled_binary()).splitlines(), "committed", "real"
    )
    assert list(changed) == []


def schema(folder: Path, *methods: str) -> Path:
    folder.mkdir()
    one_of = [{"properties": {"method": {"enum": [m]}, "params": {}}} for m in methods]
    for name in ("ClientRequest", "ServerRequest", "ServerNotification", "ClientNotification"):
        (folder / f"{name}.json").write_text(json.dumps({"oneOf": one_of}))
    return folder


def test_a_new_method_and_a_changed_shape_both_show(tmp_path: Path) -> None:
    """The comparison itself can fail: else it would prove nothing."""
    old = schema(tmp_path / "old", "a")
    new = schema(tmp_path / "new", "a", "b")
    assert build("1", old, old)["client_requests"].keys() == {"a"}
    assert build("1", old, new)["client_requests"]["b"]["experimental"] is True
    before = digest(old)
    (old / "Other.json").write_text('{"type": "object"}')
    assert digest(old) != before
