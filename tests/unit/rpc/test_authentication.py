import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.api.authentication import Gate, host_name, is_loopback
from supervisor.errors import ErrorCode, SupervisorError

TOKEN = "0123456789abcdef-token"
GATE = Gate(token=TOKEN, origins=frozenset({"https://ide.example.org"}))


def code(call: object, *arguments: object) -> ErrorCode:
    with pytest.raises(SupervisorError) as caught:
        call(*arguments)  # type: ignore[operator]
    assert TOKEN not in str(caught.value.as_dict())
    return caught.value.code


def test_the_right_token_makes_a_principal() -> None:
    headers = {"Authorization": f"Bearer {TOKEN}", "User-Agent": "me\x07/1"}
    principal = GATE.admit(headers, "127.0.0.1")
    assert (principal.account, principal.principal) == ("local", "token")
    assert (principal.source, principal.client) == ("127.0.0.1", "me/1")


@pytest.mark.parametrize(
    "given_",
    [
        "",
        "Bearer",
        "Bearer ",
        f"Basic {TOKEN}",
        TOKEN,
        f"Bearer {TOKEN}x",
        f"Bearer {TOKEN[:-1]}",
        f"Bearer {TOKEN.upper()}",
        "Bearer �",
        "Bearer é",
    ],
)
def test_any_other_token_is_unauthenticated(given_: str) -> None:
    assert code(GATE.admit, {"Authorization": given_}, "x") is ErrorCode.UNAUTHENTICATED


def test_no_token_is_unauthenticated() -> None:
    assert code(GATE.admit, {}, "x") is ErrorCode.UNAUTHENTICATED


@pytest.mark.parametrize("token", ["", "short"])
def test_a_token_that_can_be_guessed_is_no_setting(token: str) -> None:
    with pytest.raises(SupervisorError) as caught:
        Gate(token=token)
    assert caught.value.code is ErrorCode.SETTINGS_INVALID


def test_a_gate_does_not_show_its_token() -> None:
    assert TOKEN not in repr(GATE)


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:80", "127.0.0.1:7878", "[::1]:7878"])
def test_this_computers_names_are_ours(host: str) -> None:
    GATE.check_host({"Host": host})


@pytest.mark.parametrize(
    "host",
    [
        "",
        "evil.example",
        "localhost.evil.example",
        "127.0.0.1.evil.example:80",
        "[::1",
        "::1",
        "localhost:80:80",
        "[::1]x",
        "127.0.0.2",
    ],
)
def test_a_rebound_name_is_refused(host: str) -> None:
    assert code(GATE.check_host, {"Host": host}) is ErrorCode.FORBIDDEN


def test_a_request_without_host_is_refused() -> None:
    assert code(GATE.check_host, {}) is ErrorCode.FORBIDDEN


def test_only_allowed_web_pages_may_connect_and_programs_send_no_origin() -> None:
    GATE.check_origin({})
    GATE.check_origin({"Origin": "https://ide.example.org"})
    for origin in ("null", "", "https://evil.example", "http://ide.example.org"):
        assert code(GATE.check_origin, {"Origin": origin}) is ErrorCode.FORBIDDEN


@given(st.text(max_size=40))
def test_any_host_header_has_a_name_or_none(header: str) -> None:
    assert ":" not in host_name(header) or header.startswith("[")


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("192.0.2.1", False),
        ("example.org", False),
    ],
)
def test_loopback_is_what_others_cannot_reach(host: str, loopback: bool) -> None:
    assert is_loopback(host) is loopback
