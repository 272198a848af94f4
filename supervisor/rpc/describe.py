"""All methods, and their description as JSON Schema."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import msgspec

from supervisor.rpc import approvals, audit, events, execs, host, projects, threads, turns
from supervisor.rpc.host import Described, Description
from supervisor.rpc.methods import HostCall, Method, NoParams

DIALECT = "https://json-schema.org/draft/2020-12/schema"


def describe(method: Method) -> Described:
    """One method, with the schemas of its params and result."""
    return Described(
        name=method.name,
        scope=method.scope.value,
        doc=method.doc,
        streaming=method.streaming,
        acts=method.acts,
        params=method.params.model_json_schema(),
        result=_result_schema(method.result),
    )


def _result_schema(result: Any) -> dict[str, Any]:
    if result is msgspec.Raw:
        return {}
    return msgspec.json.schema(result)


def json_schema() -> dict[str, Any]:
    """One document for all methods: `methods.<name>` has `params`, `result` and the flags."""
    described = {
        name: msgspec.to_builtins(describe(method)) for name, method in sorted(REGISTRY.items())
    }
    return {"$schema": DIALECT, "title": "codex-supervisor RPC", "methods": described}


async def describe_methods(call: HostCall, params: NoParams) -> Description:  # noqa: ARG001
    return Description(
        version=call.host.version,
        methods=[describe(REGISTRY[name]) for name in sorted(REGISTRY)],
    )


METHODS = (
    Method(
        name="describeMethods",
        doc="Every method, with the JSON Schema of its params and result.",
        params=NoParams,
        result=Description,
        host=describe_methods,
    ),
)


def _registry() -> Mapping[str, Method]:
    nouns = (host, projects, threads, turns, approvals, events, audit, execs)
    every = [method for noun in nouns for method in noun.METHODS]
    every += METHODS
    registry = {method.name: method for method in every}
    if len(registry) != len(every):
        raise ValueError("two methods of one name")
    return MappingProxyType(registry)


REGISTRY = _registry()
"""By name."""
