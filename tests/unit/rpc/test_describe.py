"""The description of the methods, and the page that shows them to people."""

import json
import re
from pathlib import Path

import pytest
from pydantic import BaseModel

from supervisor.rpc.describe import REGISTRY, describe, json_schema
from supervisor.rpc.methods import Method, Params, Scope

PAGE = (Path(__file__).parents[3] / "docs/rpc.md").read_text()
METHODS = sorted(REGISTRY)


def section(name: str) -> str:
    """The page's section of a method."""
    found = re.search(rf"^### `{name}`$(.*?)(?=^##|\Z)", PAGE, re.MULTILINE | re.DOTALL)
    assert found, f"docs/rpc.md has no section on {name}"
    return found[1]


def fields(model: type[BaseModel]) -> set[str]:
    return {field.alias or name for name, field in model.model_fields.items()}


def test_the_page_has_every_method_and_no_other() -> None:
    assert sorted(re.findall(r"^### `(\w+)`$", PAGE, re.MULTILINE)) == METHODS


@pytest.mark.parametrize("name", METHODS)
def test_the_page_has_every_param_and_no_other(name: str) -> None:
    shown = set(re.findall(r"^\| `(\w+)` ", section(name), re.MULTILINE))
    assert shown == fields(REGISTRY[name].params)


@pytest.mark.parametrize("name", METHODS)
def test_the_page_says_where_a_method_is_asked(name: str) -> None:
    method = REGISTRY[name]
    first = section(name).strip().splitlines()[0]
    assert ("host" in first) is (method.scope is Scope.HOST)
    assert ("streams" in first) is method.streaming
    assert ("acts" in first) is method.acts


@pytest.mark.parametrize("name", METHODS)
def test_a_method_is_camel_case_documented_and_carried_out_by_one_function(name: str) -> None:
    method: Method = REGISTRY[name]
    assert re.fullmatch(r"[a-z]+([A-Z][a-z]+)*", name)
    assert method.doc.endswith(".")
    functions = (method.host, method.project, method.stream)
    assert sum(one is not None for one in functions) == 1


@pytest.mark.parametrize("name", METHODS)
def test_params_refuse_what_they_do_not_know_and_bound_what_they_do(name: str) -> None:
    schema = REGISTRY[name].params.model_json_schema()
    assert schema["additionalProperties"] is False
    unbounded = [where for where, part in strings(schema, name) if not bounded(part)]
    assert unbounded == []


def strings(part: object, where: str) -> list[tuple[str, dict[str, object]]]:
    """Every schema of a string or list in `part`."""
    found = []
    if isinstance(part, dict):
        if part.get("type") in ("string", "array") and "const" not in part and "enum" not in part:
            found.append((where, part))
        for key, value in part.items():
            found += strings(value, f"{where}.{key}")
    elif isinstance(part, list):
        for value in part:
            found += strings(value, where)
    return found


def bounded(part: dict[str, object]) -> bool:
    pattern = str(part.get("pattern", ""))
    return (
        "maxLength" in part or "maxItems" in part or re.search(r"\{\d+,\d+\}", pattern) is not None
    )


def test_the_schema_is_json_and_describes_every_method() -> None:
    schema = json_schema()
    assert json.loads(json.dumps(schema)) == schema
    assert sorted(schema["methods"]) == METHODS
    sent = schema["methods"]["sendMessage"]
    assert sent["acts"] is True
    assert "threadId" in sent["params"]["properties"]
    assert "turnId" in json.dumps(sent["result"])


def test_an_events_payload_is_left_open() -> None:
    described = describe(REGISTRY["subscribe"])
    assert described.streaming
    assert described.result == {}


def test_every_params_model_is_strict() -> None:
    for method in REGISTRY.values():
        assert issubclass(method.params, Params)
        assert method.params.model_config.get("strict") is True
