"""Regenerates schema/methods.json from a codex binary: `python -m supervisor.protocol.generate`.

A tool for developers, and for the test that fails when the binary and the committed table differ.
The only module of this package that does I/O; nothing imports it at run time.
"""

import argparse
import hashlib
import importlib
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

TABLE = Path(__file__).parent / "schema" / "methods.json"

KINDS = {
    "client_requests": "ClientRequest",
    "server_requests": "ServerRequest",
    "notifications": "ServerNotification",
    "client_notifications": "ClientNotification",
}
"""Section of the table: the schema file it comes from."""

_TIMEOUT_S = 60
_THREAD = {"threadId", "thread", "conversationId"}
_TURN = {"turnId", "turn", "expectedTurnId"}
_ITEM = {"itemId", "item", "callId"}
_PROCESS = {"processId", "processHandle"}

Json = dict[str, Any]


def bundled_binary() -> Path:
    """The codex binary of the pinned wheel. Raises ImportError or FileNotFoundError."""
    return Path(importlib.import_module("codex_cli_bin").bundled_codex_path())


def generate(binary: Path) -> str:
    """The text of methods.json for `binary`. Raises OSError or subprocess.SubprocessError."""
    with tempfile.TemporaryDirectory() as scratch:
        home, stable, experimental = (Path(scratch, n) for n in ("home", "stable", "experimental"))
        home.mkdir()
        _run(binary, home, "app-server", "generate-json-schema", "--out", str(stable))
        _run(
            binary,
            home,
            *("app-server", "generate-json-schema", "--experimental"),
            *("--out", str(experimental)),
        )
        version = _run(binary, home, "--version").split()[-1]
        return render(build(version, stable, experimental))


def build(version: str, stable: Path, experimental: Path) -> Json:
    """The table, from the two folders of schema files."""
    table: Json = {
        "codex": version,
        "digest": {"stable": digest(stable), "experimental": digest(experimental)},
    }
    for section, file_name in KINDS.items():
        known = set(_methods(stable / f"{file_name}.json"))
        table[section] = {
            name: {
                "scope": scope_of(required | optional),
                "experimental": name not in known,
                "delta": section == "notifications" and name.lower().endswith("delta"),
                "required": sorted(required),
                "optional": sorted(optional),
            }
            for name, (required, optional) in _methods(experimental / f"{file_name}.json").items()
        }
    return table


def scope_of(fields: set[str]) -> str:
    """What a message is about, by the ids its params can carry: the narrowest one wins.

    An item is one of a turn, a turn one of a thread: realtime items, which have no turn, count
    for their thread.
    """
    if fields & _THREAD:
        if fields & _TURN:
            return "item" if fields & _ITEM else "turn"
        return "thread"
    return "process" if fields & _PROCESS else "none"


def digest(folder: Path) -> str:
    """sha256 over every schema file, canonical: tells of a change in any shape."""
    whole = hashlib.sha256()
    for path in sorted(folder.rglob("*.json")):
        content = json.dumps(json.loads(path.read_bytes()), sort_keys=True)
        whole.update(f"{path.relative_to(folder)}\n{content}\n".encode())
    return whole.hexdigest()


def render(table: Json) -> str:
    """The file's text: one method a line, sorted, so that a change reads well in a diff."""
    lines = ["{"]
    for position, (key, value) in enumerate(table.items()):
        comma = "," if position < len(table) - 1 else ""
        if key not in KINDS:
            lines.append(f'"{key}": {json.dumps(value)}{comma}')
            continue
        rows = [f'  "{name}": {json.dumps(row)}' for name, row in sorted(value.items())]
        lines += [f'"{key}": {{', ",\n".join(rows), f"}}{comma}"]
    return "\n".join([*lines, "}", ""])


def _run(binary: Path, home: Path, *arguments: str) -> str:
    done = subprocess.run(
        [str(binary), *arguments],
        env={"CODEX_HOME": str(home), "HOME": str(home), "PATH": "/usr/bin:/bin"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=_TIMEOUT_S,
        check=True,
    )
    return done.stdout


def _methods(path: Path) -> dict[str, tuple[set[str], set[str]]]:
    """Method name to the required and the optional fields of its params."""
    schema = json.loads(path.read_bytes())
    definitions = schema.get("definitions", {})
    return {
        one["properties"]["method"]["enum"][0]: _fields(
            one["properties"].get("params", {}), definitions
        )
        for one in schema["oneOf"]
    }


def _fields(schema: Json, definitions: Json) -> tuple[set[str], set[str]]:
    """Required and optional properties; of alternatives, required is what all of them require."""
    if "$ref" in schema:
        return _fields(definitions[schema["$ref"].rsplit("/", 1)[-1]], definitions)
    properties = set(schema.get("properties", {}))
    required = set(schema.get("required", []))
    alternatives = [
        _fields(one, definitions)
        for key in ("oneOf", "anyOf")
        for one in schema.get(key, [])
        if one.get("type") != "null"
    ]
    for always, _ in alternatives:
        properties |= always
    if alternatives:
        required |= set.intersection(*(always for always, _ in alternatives))
    for one in schema.get("allOf", []):
        always, sometimes = _fields(one, definitions)
        required |= always
        properties |= sometimes
    for _, sometimes in alternatives:
        properties |= sometimes
    return required, properties - required


def main() -> int:
    """Write the table, or with `--check` say whether it is up to date (exit 1 if not)."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--binary", type=Path, help="default: the pinned wheel's codex")
    parser.add_argument("--check", action="store_true", help="change nothing, compare")
    arguments = parser.parse_args()
    text = generate(arguments.binary or bundled_binary())
    if arguments.check:
        same = TABLE.is_file() and TABLE.read_text() == text
        sys.stdout.write("up to date\n" if same else f"{TABLE.name} differs from the binary\n")
        return 0 if same else 1
    TABLE.parent.mkdir(exist_ok=True)
    TABLE.write_text(text)
    sys.stdout.write(f"wrote {TABLE.name}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
