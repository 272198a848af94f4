"""`make bench`: what was promised, measured side by side in one run."""

import argparse
import sys
import tempfile
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from pathlib import Path

import msgspec
import uvloop

from tests.bench import containers, lifetimes, parsing, report, requests, streams
from tests.bench.rows import Row
from tests.bench.sizes import QUICK, Size
from tests.bench.stage import Stage, staged

Part = Callable[[Stage, Size], Awaitable[list[Row]]]
PARTS: dict[str, Part] = {
    "reads": requests.reads,
    "acts": requests.acts,
    "streams": streams.streams,
    "parsing": parsing.parsing,
    "kills": lifetimes.kills,
    "starts": lifetimes.starts,
    "agents": lifetimes.agents,
    "containers": containers.containers,
}


async def measure(names: Sequence[str], size: Size) -> list[Row]:
    """The rows of these parts, in the order of the table. Leaves nothing behind."""
    rows: list[Row] = []
    async with AsyncExitStack() as stack:
        root = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        stage = await stack.enter_async_context(staged(root))
        for name in [part for part in PARTS if part in names]:
            print(f"{name} ...", file=sys.stderr, flush=True)
            rows += await PARTS[name](stage, size)
    return rows


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small counts: whether it runs")
    parser.add_argument("--only", action="append", choices=list(PARTS), help="these parts")
    parser.add_argument("--agents", type=int, help="how many agents to adopt (50)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows there, too")
    parser.add_argument("--write-docs", action="store_true", help="put it in docs/performance.md")
    options = parser.parse_args(arguments)
    if options.write_docs and (options.quick or options.only):
        parser.error("--write-docs wants a whole run")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    options = _options(arguments)
    size = QUICK if options.quick else Size()
    if options.agents is not None:
        size = msgspec.structs.replace(size, agents=options.agents)
    rows = uvloop.run(measure(options.only or list(PARTS), size))
    done = report.Report(machine=report.machine(), quick=options.quick, rows=rows)
    report.show(done)
    if options.json is not None:
        options.json.write_bytes(report.as_json(done))
    if options.write_docs:
        report.write_docs(done)
    return 0


if __name__ == "__main__":
    sys.exit(main())
