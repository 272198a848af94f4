"""The pictures of docs/lifecycle.md, made from the tables.

`python -m supervisor.lifecycle.diagram docs/lifecycle.md` renews them.
"""

from supervisor.lifecycle import agent, approval, disk, turn
from supervisor.lifecycle.table import E, S, Table


def mermaid(table: Table[S, E], initial: S, terminal: frozenset[S] = frozenset()) -> str:
    """A Mermaid state diagram, edges in the table's order; same target, same source: one edge."""
    edges: dict[tuple[S, S], list[str]] = {}
    for (state, event), following in table.items():
        edges.setdefault((state, following), []).append(event.value)
    lines = ["```mermaid", "stateDiagram-v2", f"    [*] --> {initial.value}"]
    lines += [
        f"    {state.value} --> {following.value}: {', '.join(events)}"
        for (state, following), events in edges.items()
    ]
    lines += [f"    {state.value} --> [*]" for state in sorted(terminal)]
    return "\n".join([*lines, "```"])


def blocks() -> dict[str, str]:
    """Each lifecycle's name and its diagram."""
    return {
        "agent": mermaid(agent.TRANSITIONS, agent.INITIAL),
        "turn": mermaid(turn.TRANSITIONS, turn.INITIAL, turn.TERMINAL),
        "approval": mermaid(approval.TRANSITIONS, approval.INITIAL, approval.TERMINAL),
        "disk": mermaid(disk.TRANSITIONS, disk.INITIAL, disk.TERMINAL),
    }


def render(document: str) -> str:
    """`document` with all between each `<!-- name -->` and `<!-- end name -->` renewed.

    Raises `ValueError` where a pair is missing.
    """
    for name, block in blocks().items():
        start, end = f"<!-- {name} -->", f"<!-- end {name} -->"
        head, found, rest = document.partition(start)
        _, ended, tail = rest.partition(end)
        if not found or not ended:
            raise ValueError(f"the document has no place for the {name} diagram")
        document = f"{head}{start}\n{block}\n{end}{tail}"
    return document


def main(path: str) -> None:
    """Renew the diagrams in the file `path`."""
    from pathlib import Path

    document = Path(path)
    document.write_text(render(document.read_text("utf-8")), "utf-8")


if __name__ == "__main__":
    import sys

    main(sys.argv[1])
