"""podman's API, through podman-py: what there is, how it is, what happened, and the end of it.

The seam between the API and the command line. The API serves what is asked often and prints
nothing: a list takes 2 ms where the command line takes 22, an inspect 8 for 25. The command line
does what the API cannot: `run` hands its own stdio on to the container (the API has no passthrough,
and would close an agent's stdin with its client), `exec` does so with a person's terminal, and both
apply the limits of containers.conf, which the API does not. `pause` and `unpause` stay with them:
they are rare, and a service would save them nothing.

Blocking, for any number of threads. A connection a call: one that is kept outlives its service.
"""

import json
import time
from collections.abc import Callable
from functools import partial
from typing import Final, TypeVar
from urllib.parse import quote

import msgspec

from supervisor.errors import ErrorCode, SupervisorError
from supervisor.runtimes.podman_child import no_answer
from supervisor.runtimes.podman_records import (
    Complaint,
    Container,
    Event,
    Image,
    Inspected,
    Removed,
    State,
    decoded,
    decoded_lines,
)
from supervisor.runtimes.podman_service import PodmanService

T = TypeVar("T")

_REFUSED: Final = 400
_NOT_FOUND: Final = 404
_FAILED: Final = 500
_VANISHED: Final = b"container not known"
"""podman answers a list so while something half made ends: a step of an image build, say."""
_LOOKS: Final = 5
_SAID: Final = 600
"""Characters of podman's words in an error."""


class PodmanApi:
    """Every call is bounded by the service's patience, twice where it has to be started. All raise
    `agent_start_failed`, with what podman complains of; a service whose answer is of no use is
    ended, so that the next call has a fresh one."""

    def __init__(self, service: PodmanService) -> None:
        self._service = service

    def containers(self, *labels: str) -> list[Container]:
        """Every container, anybody's, whatever its state; half-made ones without label.

        With `labels` (`key` or `key=value`) only those that carry them all, and the half-made.
        """
        params = {"all": "true", "external": "true"}
        if labels:
            params["filters"] = json.dumps({"label": labels})
        for _ in range(_LOOKS):
            status, said = self._asked("GET", "/containers/json", params)
            if status < _FAILED or _VANISHED not in said:
                break
        listed = _without_complaint(status, said)
        return self._understood(listed, partial(decoded, kind=list[Container]))

    def state(self, container: str) -> State:
        """The truth about one container. Raises also if there is none."""
        said = self._good("GET", f"/containers/{_plain(container)}/json", {})
        return self._understood(said, partial(decoded, kind=Inspected)).state

    def image(self, name: str) -> Image | None:
        """None if it is not there."""
        status, said = self._asked("GET", f"/images/{_plain(name)}/json", {})
        if status == _NOT_FOUND:
            return None
        return self._understood(_without_complaint(status, said), partial(decoded, kind=Image))

    def remove(self, container: str) -> None:
        """End it and take it away, whatever its state. Harmless if it is gone."""
        params = {"force": "true", "ignore": "true", "timeout": "0", "v": "true"}
        status, said = self._asked("DELETE", f"/containers/{_plain(container)}", params)
        if status == _NOT_FOUND:
            return
        said = _without_complaint(status, said) or b"[]"  # podman 3 says nothing
        for removed in self._understood(said, partial(decoded, kind=list[Removed])):
            if removed.err:
                raise _refused(removed.err)

    def events(self, since: str, *labels: str) -> list[Event]:
        """What happened to containers that carry all the `labels`, oldest first, up to now.

        `since` is in seconds since 1970, or how long ago (`10m`).
        """
        # Of several labels podman would take any.
        wanted = {"type": ["container"], **({"label": labels[:1]} if labels else {})}
        params = {"stream": "false", "since": since, "filters": json.dumps(wanted)}
        said = self._good("GET", "/events", params)
        found = self._understood(said, partial(decoded_lines, kind=Event))
        return [event for event in found if all(_carries(event, label) for label in labels)]

    def close(self) -> None:
        """End the service, if it runs."""
        self._service.close()

    def _understood(self, said: bytes, decode: Callable[[bytes], T]) -> T:
        try:
            return decode(said)
        except SupervisorError:
            self._service.retire()
            raise

    def _good(self, verb: str, path: str, params: dict[str, str]) -> bytes:
        return _without_complaint(*self._asked(verb, path, params))

    def _asked(self, verb: str, path: str, params: dict[str, str]) -> tuple[int, bytes]:
        """The status and the body. What is asked may be asked twice."""
        began = time.monotonic()
        try:
            status, said = self._exchanged(verb, path, params)
        except OSError as error:
            if time.monotonic() - began >= self._service.patience:
                self._service.kill()
                raise no_answer(self._service.program, self._service.patience) from error
            # It has ended meanwhile, as it does when idle, or was ended.
            status, said = self._asked_again(verb, path, params)
        if status >= _FAILED:
            # As from one that has seen its storage change below it.
            self._service.retire()
        return status, said

    def _asked_again(self, verb: str, path: str, params: dict[str, str]) -> tuple[int, bytes]:
        try:
            return self._exchanged(verb, path, params)
        except OSError as error:
            self._service.kill()
            raise SupervisorError(
                ErrorCode.AGENT_START_FAILED,
                f"podman's service broke off its answer: {error}",
                hint="See whether `podman ps` answers.",
            ) from error

    def _exchanged(self, verb: str, path: str, params: dict[str, str]) -> tuple[int, bytes]:
        # Not for those who use no podman: it is slow to import.
        from supervisor.runtimes import podman_client

        try:
            with self._service.address() as address:
                patience = self._service.patience
                return podman_client.exchanged(address, patience, verb, path, params)
        except podman_client.NotPodmanError:
            self._service.kill()
            raise SupervisorError(
                ErrorCode.AGENT_START_FAILED, "what answers for podman's service is not podman"
            ) from None


def _without_complaint(status: int, said: bytes) -> bytes:
    if status < _REFUSED:
        return said
    try:
        why = msgspec.json.decode(said, type=Complaint).message
    except msgspec.MsgspecError:
        why = f"HTTP status {status} without a word that is understood"
    raise _refused(why)


def _refused(why: str) -> SupervisorError:
    return SupervisorError(ErrorCode.AGENT_START_FAILED, f"podman refused: {why[:_SAID]}")


def _plain(name: str) -> str:
    return quote(name, safe="")


def _carries(event: Event, label: str) -> bool:
    key, given, value = label.partition("=")
    found = event.attributes.get(key)
    return found is not None and (not given or found == value)
