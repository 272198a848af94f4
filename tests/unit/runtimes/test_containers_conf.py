import tomllib
from collections.abc import Callable

import pytest

from supervisor.errors import ErrorCode, SupervisorError
from supervisor.runtimes.containers_conf import (
    MAXIMUM_NOFILE,
    RUNTIMES,
    Facts,
    Limits,
    containers_conf,
    probe,
    text,
)

TIGHT = Limits(hard_nofile=20_000, hard_nproc=None, pid_max=32_768)
ROOMY = Limits(hard_nofile=None, hard_nproc=None, pid_max=4_194_304)


def machine(*, defaults: bool = False, working: str = "") -> Callable[[str], str]:
    """A podman that starts a container as it is (`defaults`), or with that OCI runtime."""

    def start(conf: str) -> str:
        if not conf:
            return "" if defaults else "setrlimit: operation not permitted"
        return "" if tomllib.loads(conf)["engine"]["runtime"] == working else "not supported"

    return start


def test_podman_that_works_is_left_alone() -> None:
    facts = probe(machine(defaults=True, working="crun"), TIGHT)
    assert facts.complaints == {"": ""}
    assert containers_conf(facts) == ""


@pytest.mark.parametrize("working", RUNTIMES)
def test_first_oci_runtime_that_starts_a_container_is_named(working: str) -> None:
    conf = tomllib.loads(containers_conf(probe(machine(working=working), TIGHT)))
    assert conf["engine"] == {"runtime": working}


def test_crun_is_preferred_where_both_work() -> None:
    tried: list[str] = []

    def start(conf: str) -> str:
        tried.append(conf)
        return "" if conf else "no"

    conf = containers_conf(probe(start, TIGHT))
    assert tomllib.loads(conf)["engine"]["runtime"] == "crun"
    assert len(tried) == 2, "nothing is tried after the first that works"


@pytest.mark.parametrize(
    ("limits", "nofile", "nproc"),
    [
        (TIGHT, 20_000, 32_768),
        (ROOMY, MAXIMUM_NOFILE, 4_194_304),
        (Limits(hard_nofile=1_048_576, hard_nproc=500, pid_max=32_768), MAXIMUM_NOFILE, 500),
        (Limits(hard_nofile=1024, hard_nproc=100_000, pid_max=32_768), 1024, 32_768),
    ],
)
def test_limits_are_never_above_what_may_be_handed_on(
    limits: Limits, nofile: int, nproc: int
) -> None:
    asked = tomllib.loads(text(limits, "runc"))["containers"]["default_ulimits"]
    assert asked == [f"nofile={nofile}:{nofile}", f"nproc={nproc}:{nproc}"]


def test_where_nothing_works_podmans_own_words_are_passed_on() -> None:
    with pytest.raises(SupervisorError) as caught:
        containers_conf(probe(machine(), TIGHT))
    assert caught.value.code is ErrorCode.AGENT_START_FAILED
    assert not caught.value.retryable
    assert "as it is: setrlimit: operation not permitted" in caught.value.message
    assert "crun: not supported; runc: not supported" in caught.value.message


def test_nothing_tried_is_nothing_that_works() -> None:
    with pytest.raises(SupervisorError):
        containers_conf(Facts(limits=TIGHT, complaints={}))
