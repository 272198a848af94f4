"""Where settings come from: each source as a mapping with a name, checked before it is merged.

Knows no setting by name; `supervisor.settings` owns them. Everything here raises
`settings_invalid` only, and says which key in which place is wrong and what may have been meant.
"""

import difflib
import json
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_settings import BaseSettings, EnvSettingsSource
from pydantic_settings.exceptions import SettingsError

from supervisor.errors import ErrorCode, SupervisorError

RESERVED_VARIABLES = frozenset({"CODEX_SUPERVISOR_GENERATION"})
"""Ours, yet no settings: the marker of a generation's processes, which may call us themselves."""

_FILE_LIMIT_BYTES = 1024 * 1024
_SHOWN_MISTAKES = 10

S = TypeVar("S", bound=BaseSettings)


@dataclass(frozen=True, slots=True)
class Source:
    """One place settings come from, as a tree; `name` is how messages call it."""

    name: str
    values: Mapping[str, object]


def invalid(mistakes: Sequence[str]) -> SupervisorError:
    """The one error of this module."""
    shown = list(mistakes[:_SHOWN_MISTAKES])
    if len(mistakes) > len(shown):
        shown.append(f"and {len(mistakes) - len(shown)} more")
    return SupervisorError(
        ErrorCode.SETTINGS_INVALID, "; ".join(shown), details={"mistakes": shown}
    )


def from_flags(flags: Mapping[str, object]) -> Source:
    """The command line: without what was not given."""
    return Source("the command line", _given(flags))


def _given(flags: Mapping[str, object]) -> dict[str, object]:
    return {key: _plain(value) for key, value in flags.items() if value is not None}


def _plain(value: object) -> object:
    match value:
        case Path():
            return value.expanduser().absolute()
        case list() | tuple():
            return [_plain(part) for part in value]
        case Mapping():
            return _given(value)
    return value


def from_file(path: Path, *, must_exist: bool = False) -> Source:
    """A TOML file; nothing, if it is missing and may be."""
    try:
        with path.open("rb") as file:
            content = file.read(_FILE_LIMIT_BYTES + 1)
    except (FileNotFoundError, NotADirectoryError) as missing:
        if must_exist:
            raise invalid([f"{path}: there is no such file"]) from missing
        return Source(str(path), {})
    except OSError as error:
        raise invalid([f"{path}: {error.strerror}"]) from error
    if len(content) > _FILE_LIMIT_BYTES:
        raise invalid([f"{path}: is larger than {_FILE_LIMIT_BYTES} bytes"])
    try:
        return Source(str(path), tomllib.loads(content.decode()))
    except UnicodeDecodeError as error:
        raise invalid([f"{path}: is not UTF-8 at byte {error.start}"]) from error
    except tomllib.TOMLDecodeError as error:
        raise invalid([f"{path}: {error}"]) from error
    except RecursionError as error:
        raise invalid([f"{path}: is nested too deeply"]) from error


class _Variables(EnvSettingsSource):
    """pydantic-settings' own reading of variables, from a mapping that is passed."""

    def __init__(self, settings: type[BaseSettings], variables: Mapping[str, str]) -> None:
        self._variables = variables
        super().__init__(settings)

    def _load_env_vars(self) -> Mapping[str, str | None]:
        return {name.lower(): value for name, value in self._variables.items()}


def from_environment(settings: type[BaseSettings], env: Mapping[str, str]) -> Source:
    """The variables with our prefix. Lists are JSON: `["a", "b"]`."""
    prefix = settings.model_config.get("env_prefix", "")
    known = set(_variables(settings, prefix))
    ours = {
        name: value
        for name, value in env.items()
        if name.startswith(prefix) and name not in RESERVED_VARIABLES
    }
    unknown = sorted(ours.keys() - known)
    if unknown:
        raise invalid([_unknown(name, "the environment", known) for name in unknown])
    try:
        read = _Variables(settings, {name: value for name, value in ours.items() if value})()
    except SettingsError as error:
        raise invalid([f"{_field_of(error, prefix)} in the environment: is not JSON"]) from error
    return Source("the environment", read)


def _field_of(error: SettingsError, prefix: str) -> str:
    """The variable pydantic-settings complains of; its message quotes the field's name."""
    quoted = str(error).split('"')
    return prefix + quoted[1].upper() if len(quoted) > 1 else "a variable"


def _variables(model: type[BaseModel], prefix: str) -> Iterator[str]:
    for path in key_paths(model):
        yield prefix + "__".join(path).upper()


def key_paths(model: type[BaseModel]) -> Iterator[tuple[str, ...]]:
    """Every setting, groups by their members: `("restart", "base_seconds")`."""
    for name, field in model.model_fields.items():
        group = _group(field.annotation)
        if group is None:
            yield (name,)
        else:
            yield from ((name, *path) for path in key_paths(group))


def _group(annotation: object) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return None


def _unknown(key: str, place: str, known: set[str]) -> str:
    near = difflib.get_close_matches(key, known, n=1)
    guess = f", did you mean {near[0]}?" if near else ""
    return f"{key} in {place}: there is no such setting{guess}"


def _unknown_keys(source: Source, model: type[BaseModel]) -> Iterator[str]:
    known = {".".join(path) for path in key_paths(model)}
    for path in _leaves(source.values, model):
        if ".".join(path) not in known:
            yield _unknown(".".join(path), source.name, known)


def _leaves(values: Mapping[str, object], model: type[BaseModel]) -> Iterator[tuple[str, ...]]:
    """The paths of `values`, descending where the model has a group and a table is given."""
    for key, value in values.items():
        field = model.model_fields.get(key)
        group = None if field is None else _group(field.annotation)
        if group is not None and isinstance(value, Mapping):
            yield from ((key, *path) for path in _leaves(value, group))
        elif group is None:
            yield (key,)


def settle(settings: type[S], told: Sequence[Source]) -> S:
    """The settings from sources, strongest first."""
    mistakes = [mistake for source in told for mistake in _unknown_keys(source, settings)]
    if mistakes:
        raise invalid(mistakes)
    merged: dict[str, Any] = {}
    for source in reversed(told):
        _lay_over(merged, source.values, settings)
    try:
        return settings(**merged)
    except ValidationError as error:
        raise invalid(list(_explained(error, told))) from error


def _lay_over(below: dict[str, Any], above: Mapping[str, object], model: type[BaseModel]) -> None:
    """Group by group, so that one key of a group does not hide the rest of it below."""
    for key, value in above.items():
        group = _group(model.model_fields[key].annotation)
        if group is not None and isinstance(value, Mapping):
            under = below.get(key)
            members = dict(under) if isinstance(under, Mapping) else {}
            _lay_over(members, value, group)
            below[key] = members
        else:
            below[key] = value


def _explained(error: ValidationError, told: Sequence[Source]) -> Iterator[str]:
    """Each mistake with its key and place, never with the value: it may hold a password."""
    for mistake in error.errors(include_url=False, include_input=False):
        if mistake["type"] == "default_factory_not_called":
            continue  # follows from another mistake
        words = mistake["msg"].removeprefix("Value error, ")
        path = [part for part in mistake["loc"] if isinstance(part, str)]
        place = next((source.name for source in told if _holds(source.values, path)), None)
        where = f" in {place}" if path and place else ""
        yield f"{'.'.join(path)}{where}: {words}" if path else words


def _holds(values: object, path: Sequence[str]) -> bool:
    for key in path:
        if not isinstance(values, Mapping) or key not in values:
            return False
        values = values[key]
    return True


def to_toml(values: Mapping[str, object]) -> str:
    """A configuration file of these values, which are JSON's. Tables are written in one line each,
    which spares their order."""
    return "".join(f"{key} = {_toml(value)}\n" for key, value in values.items())


def _toml(value: object) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{json.dumps(k)} = {_toml(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return json.dumps(value)
