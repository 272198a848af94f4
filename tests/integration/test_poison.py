"""A line that is JSON and beyond what decoders hold: whoever follows is shown it, and goes on."""

import asyncio
import json
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

from supervisor.api.dialing import connect_unix
from supervisor.api.following import Patience, follow
from tests.integration.hosted import hosted


@pytest.mark.parametrize("number", ["1e999", "-1e999", "9" * 400])
async def test_a_number_beyond_a_double_stops_no_follower(number: str, tmp_path: Path) -> None:
    async with hosted(tmp_path) as host:
        project = await host.open("p")
        await host.call(project, "pingProject")
        stream = follow(lambda: connect_unix(host.socket), project, patience=Patience(seconds=5))
        found: list[Any] = []
        async with asyncio.timeout(30), aclosing(stream) as payloads:
            assert (await anext(payloads))["type"] == "snapshot"  # type: ignore[index]
            with host.spool(project).open("ab") as spool:
                spool.write(b'{"method":"x/y","params":{"v":%b}}\n' % number.encode())
                spool.write(b'{"method":"x/z","params":{}}\n')
            while len(found) < 2:
                payload: Any = await anext(payloads)
                message = payload.get("message", {})
                if message.get("method", "").startswith("x/"):
                    found.append(message)
        assert found[1]["method"] == "x/z"
        assert found[0]["params"]["v"] == json.loads(number)
