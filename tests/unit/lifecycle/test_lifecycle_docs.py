"""docs/lifecycle.md shows the tables as they are."""

from pathlib import Path

import pytest

from supervisor.lifecycle import agent
from supervisor.lifecycle.diagram import mermaid, render
from supervisor.lifecycle.restart import ExitKind

DOCUMENT = Path(__file__).parents[3] / "docs" / "lifecycle.md"


def test_the_documented_diagrams_are_those_of_the_tables() -> None:
    text = DOCUMENT.read_text("utf-8")
    assert text == render(text), "run: python -m supervisor.lifecycle.diagram docs/lifecycle.md"


def test_every_exit_kind_is_documented() -> None:
    text = DOCUMENT.read_text("utf-8")
    assert [kind.value for kind in ExitKind if f"`{kind.value}`" not in text] == []


def test_a_diagram_has_one_edge_for_events_of_one_source_and_target() -> None:
    table = {
        (agent.AgentState.STOPPED, agent.AgentEvent.START): agent.AgentState.STARTING,
        (agent.AgentState.STOPPED, agent.AgentEvent.ADOPTED): agent.AgentState.STARTING,
        (agent.AgentState.STARTING, agent.AgentEvent.EXITED): agent.AgentState.LOST,
    }
    made = mermaid(table, agent.AgentState.STOPPED, frozenset({agent.AgentState.LOST}))
    assert made.splitlines() == [
        "```mermaid",
        "stateDiagram-v2",
        "    [*] --> stopped",
        "    stopped --> starting: start, adopted",
        "    starting --> lost: exited",
        "    lost --> [*]",
        "```",
    ]


def test_a_document_without_a_place_for_a_diagram_is_refused() -> None:
    with pytest.raises(ValueError, match="no place for the agent diagram"):
        render("# Lifecycles\n")
