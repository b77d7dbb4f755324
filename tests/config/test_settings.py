"""The values that each setting accepts."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr, ValidationError

from portico.config.settings import Settings, accepts
from portico.config.values import AgentVariable, Token, ZitiService

LONG_SOCKET = "/" + "s" * 110


def made(**values: Any) -> Settings:
    return Settings(**{"data_dir": "/data", **values})


def test_defaults_are_those_of_the_contract() -> None:
    made_ = made()
    assert made_.model_dump(exclude={"agent_env"}) == {
        "anthropic_api_key": None,
        "claude_code_oauth_token": None,
        "anthropic_base_url": None,
        "key_gateway": True,
        "budget_usd_per_day": None,
        "claude_model": None,
        "max_tokens": None,
        "model_prices": {},
        "max_sessions": 10,
        "max_sessions_per_principal": None,
        "max_turns_per_minute": None,
        "turn_timeout": 3600,
        "permission_timeout": 300,
        "question_timeout": 0,
        "max_queued_turns": 8,
        "subagents": True,
        "write_timeout": 30,
        "session_timeout": 3600,
        "background_timeout": 3600,
        "setting_sources": (),
        "allowed_tools": (),
        "disallowed_tools": (),
        "max_processes": None,
        "pool_size": 2,
        "process_wait": 60,
        "drain_timeout": 30,
        "store": "sqlite",
        "store_sync": "normal",
        "retention_days": None,
        "retention_mb": None,
        "max_body": 32 * 1024 * 1024,
        "max_frame": 32 * 1024 * 1024,
        "max_streams_per_principal": 1000,
        "heartbeat": None,
        "max_connections": None,
        "sandbox": "auto",
        "mcp_servers": {},
        "allow_client_mcp": False,
        "allow_client_agents": False,
        "networking_mode": ("http",),
        "driver": ("claude-code",),
        "ziti_identity_file": None,
        "ziti_service_name": (),
        "ziti_trust_caller": False,
        "ziti_required": False,
        "plugins": (),
        "disabled_plugins": (),
        "claude_cli_path": None,
        "host": "127.0.0.1",
        "port": 8787,
        "uds": None,
        "uds_mode": "0660",
        "uds_group": None,
        "tls_cert": None,
        "tls_key": None,
        "proxy_headers": False,
        "trusted_proxies": (),
        "allowed_hosts": (),
        "allowed_origins": (),
        "data_dir": Path("/data"),
        "workspace_roots": (Path("/data/workspaces"),),
        "audit_log": Path("/data/audit.jsonl"),
        "permission_modes": ("default", "acceptEdits", "plan", "dontAsk"),
        "auth": ("token",),
        "auth_tokens": (),
        "api_prefix": "/claude",
        "prefix_everything": False,
        "root_path": None,
        "log_level": "info",
        "log_format": "text",
    }
    assert AgentVariable("HTTPS_PROXY") in made_.agent_env
    assert AgentVariable("NODE_EXTRA_CA_CERTS") in made_.agent_env


def test_every_setting_is_documented() -> None:
    for name, field in Settings.model_fields.items():
        assert field.description, name
        assert accepts(name), name


def test_built_by_hand_it_reads_no_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MAX_SESSIONS", "3")
    monkeypatch.setenv("PORTICO_MAX_SESSIONS", "3")
    (tmp_path / ".env").write_text("MAX_SESSIONS=3")
    monkeypatch.chdir(tmp_path)
    assert made().max_sessions == 10


def test_settings_do_not_change() -> None:
    with pytest.raises(ValidationError):
        made().port = 1


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("key_gateway", "off", False),
        ("max_tokens", "1000000", 1_000_000),
        ("turn_timeout", "0.1", 0.1),
        ("permission_timeout", "0", 0),
        ("question_timeout", "0", 0),
        ("max_queued_turns", "0", 0),
        ("store_sync", "full", "full"),
        ("retention_days", "0.5", 0.5),
        ("retention_mb", "1000", 1000),
        ("max_body", "32MiB", 32 * 1024**2),
        ("max_body", "1048576", 1_048_576),
        ("max_body", "512 KiB", 512 * 1024),
        ("max_frame", "1MiB", 1_048_576),
        ("sandbox", "required", "required"),
        ("mcp_servers", '{"a": {"command": "b"}}', {"a": {"command": "b"}}),
        ("mcp_servers", '{"mcpServers": {"a": {"url": "http://b"}}}', {"a": {"url": "http://b"}}),
        ("networking_mode", "http, other ,", ("http", "other")),
        ("networking_mode", "websocket", ("websocket",)),
        ("networking_mode", "websocket,other,http", ("other", "http")),
        (
            "ziti_service_name",
            "portico, to-alice=alice,ops=ops@x:admin",
            (ZitiService("portico"), ZitiService("to-alice", "alice"), ZitiService("ops", "ops@x", admin=True)),
        ),
        ("allowed_hosts", "Portico.example, [::1],10.0.0.1", ("portico.example", "::1", "10.0.0.1")),
        ("allowed_hosts", "*", ("*",)),
        (
            "allowed_origins",
            "https://app.example,http://localhost:3000,http://[::1]:1",
            ("https://app.example", "http://localhost:3000", "http://[::1]:1"),
        ),
        ("claude_model", "sonnet[1m]", "sonnet[1m]"),
        ("claude_model", "arn:aws:bedrock:eu:1:profile/x", "arn:aws:bedrock:eu:1:profile/x"),
        ("host", "[::1]", "::1"),
        ("host", "portico.example", "portico.example"),
        ("port", "0", 0),
        ("port", "65535", 65535),
        ("anthropic_base_url", "http://127.0.0.1:8080/v", "http://127.0.0.1:8080/v"),
        ("workspace_roots", "/a,/b/../c", (Path("/a"), Path("/c"))),
        ("audit_log", "/var/log/../audit", Path("/var/audit")),
        ("audit_log", "off", None),
        ("permission_modes", "bypassPermissions,plan", ("bypassPermissions", "plan")),
        ("auth_tokens", "a:b==,c:d:admin", (Token("a", SecretStr("b==")), Token("c", SecretStr("d"), admin=True))),
        ("agent_env", "A,B=c", (AgentVariable("A"), AgentVariable("B", SecretStr("c")))),
        ("api_prefix", "/a/b.c", "/a/b.c"),
    ],
)
def test_accepted(name: str, text: str, value: Any) -> None:
    assert getattr(made(**{name: text}), name) == value


@pytest.mark.parametrize(
    ("name", "texts"),
    [
        ("anthropic_api_key", ["a b", "a\n", "k\u00e9y"]),
        (
            "anthropic_base_url",
            ["api", "ftp://x", "http://", "http://x:0", "http://x:y", "http://u:p@x", "http://x?a", "http://[x"],
        ),
        ("agent_env", ["1A", "A B", "=x", ",", "A,A=1", "HOME", "TMPDIR=/x", "CLAUDE_CONFIG_DIR", "XDG_RUNTIME_DIR"]),
        ("agent_env", ["CLAUDE_CODE_TMPDIR", "PORTICO_AUTH_TOKENS", "PORTICO_X=1"]),
        ("key_gateway", ["", "perhaps", "2"]),
        ("budget_usd_per_day", ["0", "-1", "nan", "inf", "1000001", "$5"]),
        ("claude_model", ["-x", "a b", "sonnet\n", "x" * 257]),
        ("model_prices", ["a", "[]", "[" * 100_000, '{"a": 1}', '{"a": {}}', '{"a": {"input": 1, "output": 2}}']),
        ("model_prices", ['{"a": {"input": -1, "output": 2, "cache_read": 0}}', '{" ": {}}', "@nowhere"]),
        ("model_prices", ['{"a": {"input": NaN, "output": 2, "cache_read": true}}']),
        ("max_tokens", ["0", "-1", "1000001", "1.5", "many", "9" * 5000]),
        ("max_sessions", ["0", "100001"]),
        ("max_sessions_per_principal", ["0", "100001", "1.5"]),
        ("max_turns_per_minute", ["0", "100001", "many"]),
        ("turn_timeout", ["0", "-1", "nan", "inf", "1e300", "1h"]),
        ("permission_timeout", ["-0.1", "nan", "inf"]),
        ("question_timeout", ["-0.1", "nan", "inf"]),
        ("max_queued_turns", ["-1", "10001"]),
        ("write_timeout", ["0", "nan"]),
        ("session_timeout", ["0", "nan"]),
        ("background_timeout", ["0", "nan"]),
        ("setting_sources", ["project,nonsense", "project,project", "user", "user,project"]),
        ("allowed_tools", ["Read,9", "Bash(", "Read,Read"]),
        ("disallowed_tools", ["a b"]),
        ("max_processes", ["0", "1.5"]),
        ("pool_size", ["-1", "1.5"]),
        ("process_wait", ["0", "nan"]),
        ("drain_timeout", ["-1", "nan"]),
        ("store", ["a b", "/x", "memory\n"]),
        ("store_sync", ["off", "FULL"]),
        ("retention_days", ["0", "-1", "nan", "inf", "36501", "1d"]),
        ("retention_mb", ["0", "-1", "nan", "inf", "1e10", "1GB"]),
        ("max_body", ["1023", "2GiB", "1 parsec", "-1", "9" * 400, "9" * 400 + "KiB", "MiB"]),
        ("max_streams_per_principal", ["0", "-1", "1.5", "1000001"]),
        ("heartbeat", ["0", "-1", "1.5", "61", "4s", "nan"]),
        ("max_connections", ["0", "-1", "1.5", "1000001"]),
        ("tls_cert", ["relative", "/a\0b"]),
        ("tls_key", ["relative", "/a"]),
        ("proxy_headers", ["", "perhaps"]),
        ("trusted_proxies", ["10.0.0.1", "unix", "10.0.0.1/8", "proxy.example", "*", ","]),
        ("max_frame", ["1023", "2GiB", "1 parsec", "-1", "9" * 400, "9" * 400 + "KiB", "MiB"]),
        ("ziti_service_name", [",", "=a", "a=", "a=b:root", "a=b=c", "a,a=b"]),
        ("ziti_trust_caller", ["", "perhaps"]),
        ("ziti_required", ["", "perhaps"]),
        ("sandbox", ["", "bwrap", "AUTO"]),
        ("mcp_servers", ["a", "[]", "{", "[" * 100_000, '{"a": 1}', '{"a": {}}', '{"a b": {"command": "x"}}']),
        ("mcp_servers", ['{"a": {"command": 1}}', '{"a": {"command": ""}}', '{"a": {"url": null}}']),
        ("allow_client_mcp", ["", "perhaps"]),
        ("allow_client_agents", ["", "perhaps"]),
        ("networking_mode", [",", "http,http", "http;ziti"]),
        ("driver", ["", "../x", "echo,echo"]),
        ("plugins", ["", "my plugin", "../x", "a,a"]),
        ("disabled_plugins", ["", "../x", "a,a"]),
        ("claude_cli_path", ["claude", "/a\0b"]),
        ("host", ["a b", "256.1.1.1", "1.2.3", "http://x", "-x", "x..y", "[::1", "*"]),
        ("port", ["-1", "65536", "http"]),
        ("allowed_hosts", ["a b", "*.example", "x:8787", "http://x", "a,a", ","]),
        ("allowed_origins", ["*", "null", "app.example", "https://app.example/", "https://App.example", "ws://x"]),
        ("allowed_origins", ["https://x:443", "http://x:80", "http://x:0", "http://-x", "https://u@x", "https://*.x"]),
        ("uds", ["relative", LONG_SOCKET]),
        ("uds_mode", ["", "0o660", "66", "1660", "888", "rw-rw----"]),
        ("uds_group", [""]),
        ("data_dir", ["relative", "~/x"]),
        ("workspace_roots", ["relative", "/a,b", "/a,/b/../a", ","]),
        ("audit_log", ["relative", "/a\0b"]),
        ("permission_modes", ["all", "plan,plan", "Plan", ","]),
        ("auth", ["", "../x", "token,token", "none,token"]),
        ("auth_tokens", ["a", "a:", ":b", "a:b:root", "a:b:admin:x", "a:b c", "a:sha256$0", "a:b,a:c", "a:b,c:b", ","]),
        (
            "api_prefix",
            [
                "/",
                "claude",
                "/a/",
                "//a",
                "/a//b",
                "/a b",
                "/a?b",
                "/{x}",
                "/..",
                "/a/./b",
                "/a\n",
                "/docs",
                "/healthz/x",
            ],
        ),
        ("prefix_everything", ["", "perhaps"]),
        ("root_path", ["/", "agents", "/a/", "//a", "/a b", "https://a.example", "/..", "/a\n", "/docs"]),
        ("log_level", ["INFO", "trace"]),
        ("log_format", ["yaml"]),
    ],
)
def test_refused(name: str, texts: list[str]) -> None:
    for text in texts:
        with pytest.raises(ValidationError) as caught:
            made(**{name: text})
        assert {error["loc"][0] for error in caught.value.errors()} - {"workspace_roots", "audit_log"} <= {name}, text


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "[::1]", "localhost"])
def test_auth_none_is_accepted_on_loopback(host: str) -> None:
    assert made(auth="none", host=host).auth == ("none",)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.0.1", "::ffff:0:0", "localhost.example", "0x7f000001"])  # noqa: S104
def test_auth_none_is_refused_where_others_can_reach_it(host: str) -> None:
    with pytest.raises(ValidationError, match="anybody who reaches"):
        made(auth="none", host=host)
    assert made(auth="none", host=host, uds="/run/portico.sock").auth == ("none",)
    assert made(auth="token", host=host).auth == ("token",)


def test_tls_and_proxies_are_whole_or_not_there() -> None:
    pair = {"tls_cert": "/cert", "tls_key": "/key"}
    assert made(**pair).tls_key == Path("/key")
    assert made(proxy_headers=True, trusted_proxies="10.0.0.1,::1, 10.0.0.0/8").trusted_proxies == (
        *("10.0.0.1/32", "::1/128", "10.0.0.0/8"),
    )
    assert made(proxy_headers=True, trusted_proxies="unix", uds="/socket").trusted_proxies == ("unix",)
    for wrong, words in (
        ({"tls_cert": "/cert"}, "nothing without each other"),
        ({"tls_key": "/key"}, "nothing without each other"),
        ({"proxy_headers": True}, "nothing without each other"),
        ({"trusted_proxies": "10.0.0.1"}, "nothing without each other"),
        ({"proxy_headers": True, "trusted_proxies": "unix"}, "unix needs uds"),
    ):
        with pytest.raises(ValidationError, match=words):
            made(**wrong)


def test_auth_none_is_refused_where_any_web_page_can_reach_it() -> None:
    with pytest.raises(ValidationError, match="DNS rebinding"):
        made(auth="none", allowed_hosts="a,*")
    assert made(auth="none", allowed_hosts="a").allowed_hosts == ("a",)


def test_a_budget_needs_somebody_who_counts() -> None:
    counted: dict[str, Any] = {"anthropic_api_key": "k", "budget_usd_per_day": "2.5"}
    assert made(**counted).budget_usd_per_day == 2.5
    for wrong in ({"key_gateway": "off"}, {"anthropic_api_key": None}, {"agent_env": "CLAUDE_CODE_USE_BEDROCK=1"}):
        with pytest.raises(ValidationError, match="count") as caught:
            made(**{**counted, **wrong})
        assert "budget_usd_per_day" in {error["loc"][0] for error in caught.value.errors()}
