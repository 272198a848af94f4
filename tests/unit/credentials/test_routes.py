"""The closed table of what passes."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.credentials.routes import Denied, downward, upstream_path, upward

PASSING = {
    ("POST", "/v1/responses"): "/responses",
    ("POST", "/v1/responses/compact"): "/responses/compact",
    ("GET", "/v1/models"): "/models",
    ("GET", "/v1/models?client_version=0.163.0"): "/models?client_version=0.163.0",
}
PASSES = r"POST /v1/responses(/compact)?|GET /v1/models(\?client_version=[0-9A-Za-z.+-]{1,64})?"
KEY = "sk-canary-0123456789abcdef"


@pytest.mark.parametrize("asked", PASSING)
def test_what_codex_asks_passes(asked: tuple[str, str]) -> None:
    assert upstream_path(*asked) == PASSING[asked]


@given(
    st.sampled_from(["GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS", "CONNECT"]),
    st.one_of(
        st.text(),
        st.lists(
            st.sampled_from(
                ["/v1", "/responses", "/models", "/", "..", "%2e", "?", "client_version="]
            )
        ).map("".join),
    ),
)
def test_nothing_else_passes(method: str, target: str) -> None:
    if re.fullmatch(PASSES, f"{method} {target}"):
        assert target == "/v1" + upstream_path(method, target)
        return
    with pytest.raises(Denied) as denied:
        upstream_path(method, target)
    assert denied.value.status in (403, 404, 405)
    assert b'"error"' in denied.value.body()


def test_a_header_the_client_calls_its_connections_own_stays() -> None:
    headers = {"Connection": "Accept, close", "Accept": "a", "originator": "o"}
    assert upward(headers, None) == [("originator", "o")]


def test_the_key_goes_up_once_and_never_down() -> None:
    sent = upward({"authorization": "x", "Accept": "a"}, KEY)
    assert sent == [("Accept", "a"), ("Authorization", f"Bearer {KEY}")]
    assert downward({"x-echo": f"it is {KEY}", "x-fine": "f"}, KEY) == [("x-fine", "f")]


def test_a_short_key_takes_no_headers_away() -> None:
    assert downward({"Content-Type": "text/event-stream"}, "text") == [
        ("Content-Type", "text/event-stream")
    ]
