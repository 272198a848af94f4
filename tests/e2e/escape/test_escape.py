"""An attacker inside the real container tries everything in the catalogue, and gets nowhere."""

from pathlib import Path

import pytest

from tests.e2e.escape.inside.attempting import ESCAPED, HELD, PLAIN, PRIVILEGED
from tests.e2e.escape.inside.every import CATALOGUE
from tests.e2e.escape.sieges import BESIDE, BY_THE_MODEL, IN_CODEXS_SANDBOX, Siege

pytestmark = pytest.mark.codex

WAYS = (BESIDE, BY_THE_MODEL, IN_CODEXS_SANDBOX)


def test_the_catalogue_is_no_shorter_than_it_was_promised() -> None:
    assert len(CATALOGUE) >= 60


@pytest.mark.parametrize("name", CATALOGUE)
@pytest.mark.parametrize("way", WAYS)
def test_it_is_held(sieged: dict[str, Siege], way: str, name: str) -> None:
    result = sieged[way].results[name]
    assert result["outcome"] == HELD, result["why"]


@pytest.mark.parametrize("way", WAYS)
def test_nobody_outside_was_reached_and_nothing_forged(sieged: dict[str, Siege], way: str) -> None:
    assert sieged[way].reached == []
    assert not sieged[way].forged


@pytest.mark.parametrize("way", [BY_THE_MODEL, IN_CODEXS_SANDBOX])
def test_an_approval_that_waited_meanwhile_was_left_to_people(
    sieged: dict[str, Siege], way: str
) -> None:
    assert sieged[way].answered == "it waited"


def test_a_crash_of_codex_leaves_its_memory_to_nobody(sieged: dict[str, Siege]) -> None:
    assert sieged[BESIDE].cores == []


# -- the attempts can see


def _shown_in(control: str) -> list[str]:
    return [name for name, one in CATALOGUE.items() if one.control == control]


@pytest.mark.parametrize("name", _shown_in(PLAIN))
def test_in_a_plain_container_it_gets_out(in_a_plain_one: Siege, name: str) -> None:
    result = in_a_plain_one.results[name]
    assert result["outcome"] == ESCAPED, result["why"]


@pytest.mark.parametrize("name", _shown_in(PRIVILEGED))
def test_in_a_privileged_container_it_gets_out(in_a_privileged_one: Siege, name: str) -> None:
    result = in_a_privileged_one.results[name]
    assert result["outcome"] == ESCAPED, result["why"]


def test_in_a_plain_container_lines_are_forged(in_a_plain_one: Siege) -> None:
    assert in_a_plain_one.forged


def test_in_a_plain_container_a_crash_shows_the_memory(in_a_plain_one: Siege) -> None:
    pattern = Path("/proc/sys/kernel/core_pattern").read_text()
    if pattern.startswith(("|", "/")):
        pytest.skip("cores go elsewhere on this machine")
    assert in_a_plain_one.cores
