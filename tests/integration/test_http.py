"""The HTTP side over a real port: health, metrics, and who is let in."""

import asyncio
import json
from typing import Any

import aiohttp
import pytest
from prometheus_client import CollectorRegistry

from supervisor.api.authentication import Gate
from supervisor.api.connection import Limits
from supervisor.api.http import HttpServer, Readiness
from supervisor.api.websocket import WebSocketPeers
from supervisor.errors import ErrorCode, SupervisorError
from supervisor.metrics import CONTENT_TYPE, Metrics
from tests.integration.serving import TOKEN, Serving, http_server
from tests.unit.rpc.fakes import CountingMeter

BEARER = {"Authorization": f"Bearer {TOKEN}"}
UPGRADE = {
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
}


async def get(url: str, headers: dict[str, str] | None = None) -> tuple[int, str, str]:
    async with aiohttp.ClientSession() as session, session.get(url, headers=headers) as answer:
        return answer.status, answer.headers.get("Content-Type", ""), await answer.text()


def error_code(body: str) -> str:
    shown: Any = json.loads(body)["error"]
    assert {"code", "message", "hint", "retryable"} <= shown.keys()
    return str(shown["code"])


def another(port: int, *, host: str = "127.0.0.1") -> HttpServer:
    serving = Serving()
    return HttpServer(
        host=host,
        port=port,
        gate=Gate(token=TOKEN),
        peers=WebSocketPeers(serving.service, Limits(), CountingMeter(), version="1"),
        readiness=lambda: Readiness(ready=True),
        exposition=Metrics(CollectorRegistry()).exposition,
        meter=CountingMeter(),
    )


async def test_port_zero_is_a_port_of_the_systems_choice() -> None:
    async with http_server() as serving:
        assert serving.address[0] == "127.0.0.1"
        assert serving.address[1] > 0
        assert (await get(serving.url + "/livez"))[0] == 200


async def test_a_taken_port_is_address_in_use() -> None:
    async with http_server() as serving:
        with pytest.raises(SupervisorError) as caught:
            another(serving.address[1]).bind()
        assert caught.value.code is ErrorCode.ADDRESS_IN_USE


@pytest.mark.parametrize("host", ["192.0.2.1", "no such host"])
def test_an_address_of_another_computer_is_a_bad_setting(host: str) -> None:
    with pytest.raises(SupervisorError) as caught:
        another(0, host=host).bind()
    assert caught.value.code is ErrorCode.SETTINGS_INVALID


async def test_readyz_tells_the_reasons() -> None:
    async with http_server() as serving:
        status, _, body = await get(serving.url + "/readyz")
        assert (status, json.loads(body)) == (200, {"ready": True, "reasons": []})
        serving.readiness = Readiness(ready=False, reasons=["the store is away"])
        status, _, body = await get(serving.url + "/readyz")
        assert status == 503
        assert json.loads(body)["reasons"] == ["the store is away"]


async def test_metrics_are_prometheus_text_and_need_no_token_on_loopback() -> None:
    async with http_server() as serving:
        status, kind, body = await get(serving.url + "/metrics")
        assert status == 200
        assert kind == CONTENT_TYPE
        assert "codex_supervisor_connections" in body


async def test_metrics_need_the_token_where_others_can_reach_them() -> None:
    async with http_server(host="0.0.0.0") as serving:
        url = f"http://127.0.0.1:{serving.address[1]}/metrics"
        status, _, body = await get(url)
        assert (status, error_code(body)) == (401, "unauthenticated")
        assert (await get(url, BEARER))[0] == 200


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/metrics", "/v1/rpc"])
async def test_a_rebound_name_is_refused_everywhere(path: str) -> None:
    async with http_server() as serving:
        status, _, body = await get(serving.url + path, {"Host": "evil.example"} | BEARER)
        assert (status, error_code(body)) == (403, "forbidden")
        assert serving.meter.refusals == {("http", "forbidden"): 1}


async def test_an_unknown_path_is_a_json_error() -> None:
    async with http_server() as serving:
        status, _, body = await get(serving.url + "/v2/rpc")
        assert (status, error_code(body)) == (404, "method_unknown")


@pytest.mark.parametrize("headers", [{}, {"Authorization": "Bearer wrong-token-of-some-length"}])
async def test_a_wrong_token_is_401_with_a_body_and_is_counted(headers: dict[str, str]) -> None:
    async with http_server() as serving:
        status, _, body = await get(serving.url + "/v1/rpc", UPGRADE | headers)
        assert (status, error_code(body)) == (401, "unauthenticated")
        assert TOKEN not in body
        assert serving.meter.refusals == {("http", "unauthenticated"): 1}


async def test_a_web_page_is_refused_even_with_the_token() -> None:
    async with http_server() as serving:
        headers = UPGRADE | BEARER | {"Origin": "https://evil.example"}
        status, _, body = await get(serving.url + "/v1/rpc", headers)
        assert (status, error_code(body)) == (403, "forbidden")


async def test_a_request_that_is_no_upgrade_is_a_json_error() -> None:
    async with http_server() as serving:
        status, _, body = await get(serving.url + "/v1/rpc", BEARER)
        assert status == 400
        assert error_code(body)
        assert serving.meter.open["websocket"] == 0


async def test_bytes_that_are_no_http_harm_nobody() -> None:
    async with http_server() as serving:
        reader, writer = await asyncio.open_connection(*serving.address)
        writer.write(b"\xff\xfe\x00junk\r\n\r\n")
        await reader.read()
        writer.close()
        assert (await get(serving.url + "/livez"))[0] == 200
