"""The sources of settings' values, and the messages about wrong ones."""

import os
import traceback
from collections.abc import Callable, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, Field, SecretStr

from portico.config.load import Loaded, SettingsError, agent_environment, data_dir, describe, load, plugin_choice
from portico.config.origins import BARE_NAMES
from portico.config.settings import Settings, accepts

ONCE = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]

SECRET = "s3cret-VALUE-0815"
Load = Callable[..., Loaded]
Refused = Callable[..., list[str]]


@pytest.fixture
def loaded(tmp_path: Path) -> Load:
    """Loads from (environment, options, text of .env), with a data folder of the test's own."""

    def call(
        environ: Mapping[str, str] | None = None,
        options: Mapping[str, Any] | None = None,
        dotenv: str | bytes | None = None,
    ) -> Loaded:
        if dotenv is not None:
            (tmp_path / ".env").write_bytes(dotenv.encode() if isinstance(dotenv, str) else dotenv)
        return load(options or {}, environ or {}, tmp_path)

    return call


@pytest.fixture
def refused(loaded: Load) -> Refused:
    """The lines of the SettingsError that such settings raise."""

    def call(*args: Any, **kwargs: Any) -> list[str]:
        with pytest.raises(SettingsError) as caught:
            loaded(*args, **kwargs)
        assert str(caught.value) == "\n".join(caught.value.lines)
        assert all(line.isprintable() for line in caught.value.lines)
        return caught.value.lines

    return call


# Where a value comes from


def test_with_nothing_given_every_setting_has_its_default(loaded: Load) -> None:
    result = loaded()
    assert set(result.sources) == set(Settings.model_fields)
    assert set(result.sources.values()) == {"default"}
    assert result.warnings == []


def test_the_data_folder_is_the_platforms(loaded: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "xdg"))
    assert loaded().settings.data_dir == tmp_path / "xdg/portico"
    assert loaded().settings.workspace_roots == (tmp_path / "xdg/portico/workspaces",)


def test_each_place_beats_the_ones_after_it(loaded: Load) -> None:
    everywhere: list[tuple[str, str, int]] = [
        ("option --max-sessions", "option", 11),
        ("environment PORTICO_MAX_SESSIONS", "PORTICO_MAX_SESSIONS", 12),
        (".env PORTICO_MAX_SESSIONS", "PORTICO_MAX_SESSIONS", 13),
        ("environment MAX_SESSIONS", "MAX_SESSIONS", 14),
        (".env MAX_SESSIONS", "MAX_SESSIONS", 15),
    ]
    for first in range(len(everywhere)):
        places = everywhere[first:]
        result = loaded(
            environ={name: str(value) for source, name, value in places if source.startswith("environment")},
            options={"max_sessions": "11"} if places[0][1] == "option" else {},
            dotenv="".join(f"{name}={value}\n" for source, name, value in places if source.startswith(".env")),
        )
        assert result.settings.max_sessions == places[0][2]
        assert result.sources["max_sessions"] == places[0][0]


def test_a_loser_is_not_even_checked(loaded: Load) -> None:
    environ = {"MAX_SESSIONS": "many", "PORTICO_AUTH_TOKENS": "@missing"}
    result = loaded(environ, {"auth_tokens": "a:b"}, dotenv="PORTICO_MAX_SESSIONS=3")
    assert result.settings.max_sessions == 3


def test_the_seeds_names_are_read_bare_and_no_others(loaded: Load) -> None:
    bare = {
        "ANTHROPIC_API_KEY": SECRET,
        "ANTHROPIC_BASE_URL": "http://127.0.0.1:1",
        "CLAUDE_CODE_OAUTH_TOKEN": SECRET,
        "CLAUDE_MODEL": "sonnet",
        "MAX_TOKENS": "7",
        "MAX_SESSIONS": "8",
        "NETWORKING_MODE": "http,other",
        "SESSION_TIMEOUT": "9",
        "ZITI_IDENTITY_FILE": "identity.json",
        "ZITI_SERVICE_NAME": "portico",
    }
    assert {name.lower() for name in bare} == BARE_NAMES
    others = {name.upper(): "nonsense" for name in Settings.model_fields if name not in BARE_NAMES}
    result = loaded({**bare, **others, "UNRELATED": "x"})
    assert {name: source for name, source in result.sources.items() if source != "default"} == {
        name.lower(): f"environment {name}" for name in bare
    }


def test_every_setting_is_read_with_the_prefix_and_as_an_option(loaded: Load, tmp_path: Path) -> None:
    values = {name: OTHER_VALUES.get(name, str(tmp_path / name)) for name in Settings.model_fields}
    plain = dict((name, shown) for name, shown, _ in describe(loaded()))
    apart = {"key_gateway": values.pop("key_gateway")}  # a budget needs it as it is
    for changed in (values, apart):
        for result in (
            loaded({f"PORTICO_{name.upper()}": value for name, value in changed.items()}),
            loaded({}, changed),
        ):
            for name, shown, source in describe(result):
                if name in changed:
                    assert shown != plain[name], name
                    spelled = "--" + name.replace("_", "-")
                    assert source in (f"environment PORTICO_{name.upper()}", f"option {spelled}")


OTHER_VALUES = {
    "uds_mode": "600",
    "uds_group": str(os.getegid()),
    "anthropic_api_key": "k",
    "claude_code_oauth_token": "k",
    "anthropic_base_url": "http://127.0.0.1:1",
    "key_gateway": "off",
    "budget_usd_per_day": "0.5",
    "agent_env": "X=1",
    "claude_model": "sonnet",
    "max_tokens": "1",
    "subagents": "off",
    "model_prices": '{"a": {"input": 1, "output": 2, "cache_read": 0.5}}',
    "max_sessions": "1",
    "max_sessions_per_principal": "1",
    "max_turns_per_minute": "1",
    "turn_timeout": "0.5",
    "permission_timeout": "0",
    "question_timeout": "1",
    "max_queued_turns": "0",
    "write_timeout": "1",
    "session_timeout": "1",
    "background_timeout": "2",
    "setting_sources": "project",
    "allowed_tools": "Read",
    "disallowed_tools": "Bash(rm:*)",
    "max_processes": "1",
    "pool_size": "1",
    "process_wait": "1",
    "drain_timeout": "1",
    "store": "other",
    "store_sync": "full",
    "max_frame": "1MiB",
    "max_streams_per_principal": "1",
    "heartbeat": "1",
    "max_connections": "1",
    "tls_cert": "cert.pem",
    "tls_key": "key.pem",
    "proxy_headers": "true",
    "trusted_proxies": "10.0.0.0/8",
    "retention_days": "1.5",
    "retention_mb": "100",
    "max_body": "1MiB",
    "sandbox": "none",
    "mcp_servers": '{"a": {"command": "b"}}',
    "allow_client_mcp": "true",
    "allow_client_agents": "true",
    "networking_mode": "http,other",
    "driver": "other",
    "plugins": "my.plugin",
    "disabled_plugins": "echo",
    "ziti_identity_file": "identity.json",
    "ziti_service_name": "portico",
    "ziti_trust_caller": "true",
    "ziti_required": "true",
    "host": "::1",
    "allowed_hosts": "portico.example",
    "allowed_origins": "https://app.example",
    "port": "0",
    "permission_modes": "plan",
    "auth": "none",
    "auth_tokens": "a:b",
    "api_prefix": "/v1",
    "prefix_everything": "true",
    "root_path": "/agents",
    "log_level": "debug",
    "log_format": "json",
}


@pytest.mark.parametrize("empty", ["", None])
def test_an_empty_value_is_unset(loaded: Load, empty: str | None) -> None:
    environ = {} if empty is None else {"PORTICO_MAX_SESSIONS": "", "PORTICO_NONSENSE": "", "ZITI_IDENTITY_FILE": ""}
    result = loaded({**environ, "MAX_SESSIONS": "3"}, {"max_sessions": empty, "nonsense": empty})
    assert (result.settings.max_sessions, result.sources["max_sessions"]) == (3, "environment MAX_SESSIONS")


def test_names_are_upper_case_exactly(loaded: Load, refused: Refused) -> None:
    assert loaded({"max_sessions": "3", "Max_Sessions": "3"}).settings.max_sessions == 10
    lines = refused({"PORTICO_max_sessions": "3"})
    assert lines == ["PORTICO_max_sessions: unknown setting, did you mean PORTICO_MAX_SESSIONS?"]


def test_a_value_in_dotenv_stands_as_it_is_written(loaded: Load) -> None:
    dotenv = f"# mine\nexport MAX_TOKENS='5'\nANTHROPIC_API_KEY={SECRET}${{HOME}}\nHOST=x\nMAX_SESSIONS\n"
    result = loaded({"HOME": "/x"}, dotenv=b"\xef\xbb\xbf" + dotenv.encode())
    assert result.settings.max_tokens == 5
    assert result.settings.anthropic_api_key is not None
    assert result.settings.anthropic_api_key.get_secret_value() == f"{SECRET}${{HOME}}"


def test_paths_start_at_the_working_directory(loaded: Load, tmp_path: Path) -> None:
    environ = {"PORTICO_DATA_DIR": "d", "PORTICO_UDS": "./s", "PORTICO_CLAUDE_CLI_PATH": "bin/../claude"}
    result = loaded(environ).settings
    assert result.data_dir == tmp_path / "d"
    assert result.workspace_roots == (tmp_path / "d/workspaces",)
    assert result.uds == tmp_path / "s"
    assert result.claude_cli_path == tmp_path / "claude"


# Mistakes


def test_all_mistakes_are_told_at_once_each_in_one_line(refused: Refused) -> None:
    lines = refused(
        {"PORTICO_MAX_SESION": "3", "MAX_TOKENS": "x\ny", "PORTICO_AUTH": "none", "PORTICO_HOST": "0.0.0.0"},  # noqa: S104
        {"port": "99999", "colour": "red"},
        "garbage here\nPORTICO_LOG_LEVEL=loud\nZITI_SERVICE_NAME=a=\nPORTICO_DATA_DIRS=/x\n",
    )
    assert sorted(lines) == sorted(
        [
            "PORTICO_MAX_SESION: unknown setting, did you mean PORTICO_MAX_SESSIONS?",
            r"MAX_TOKENS='x\ny': accepted: a whole number from 1 to 1000000",
            "PORTICO_AUTH=none: anybody who reaches host 0.0.0.0 could use it; "
            "accepted: names of authenticators, comma-separated, or with a loopback host or a Unix socket none",
            "--port=99999: accepted: a whole number from 0 to 65535",
            "--colour: unknown setting",
            ".env: line 1 is not NAME=value",
            ".env: PORTICO_LOG_LEVEL=loud: accepted: debug, info, warning, error",
            ".env: ZITI_SERVICE_NAME=a=: it has another form; "
            "accepted: name, name=principal or name=principal:admin, comma-separated",
            ".env: PORTICO_DATA_DIRS: unknown setting, did you mean PORTICO_DATA_DIR?",
        ]
    )


def test_each_wrong_entry_of_a_list_has_a_line(refused: Refused) -> None:
    accepted = "accepted: absolute folders, comma-separated"
    assert refused({"PORTICO_WORKSPACE_ROOTS": "work,/srv,~/x"}) == [
        f"PORTICO_WORKSPACE_ROOTS=work: it is relative; {accepted}",
        f"PORTICO_WORKSPACE_ROOTS=~/x: it is relative; {accepted}",
    ]


def test_a_wrong_data_folder_is_one_mistake(refused: Refused) -> None:
    assert len(refused(dotenv="PORTICO_DATA_DIR='/a\0b'")) == 1


@pytest.mark.parametrize("given", [{}, {"ZITI_IDENTITY_FILE": "x"}, {"ZITI_SERVICE_NAME": "x"}])
def test_the_mode_ziti_says_what_it_needs(refused: Refused, given: dict[str, str]) -> None:
    needed = {"ZITI_IDENTITY_FILE", "ZITI_SERVICE_NAME"} - given.keys()
    lines = refused({"NETWORKING_MODE": "http,ziti", **given})
    assert {line.partition(";")[0] for line in lines} == {f"PORTICO_{name}: the mode ziti needs it" for name in needed}


def test_a_url_is_shown_without_what_may_be_secret_in_it(refused: Refused) -> None:
    (line,) = refused({"ANTHROPIC_BASE_URL": "https://user:secret1@h.example/p?k=secret2"})
    assert "h.example/p?" in line and "secret" not in line


@pytest.mark.parametrize("name", ["KEY_GATEWAYS", "SANDBOXES"])
def test_what_is_no_setting_is_refused(refused: Refused, name: str) -> None:
    assert refused({f"PORTICO_{name}": "5"})[0].startswith(f"PORTICO_{name}: unknown setting")


def test_what_clients_read_does_not_stop_a_server(loaded: Load) -> None:
    loaded({"PORTICO_URL": "http://127.0.0.1:1", "PORTICO_TOKEN": SECRET})


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (b"MAX_TOKENS=\xff", ".env: it can't be read: it is not UTF-8 text"),
        (b"#" * (1024 * 1024 + 1), ".env: it can't be read: it is larger than 1048576 bytes"),
        ("A='open\nPORTICO_PORT=1", ".env: line 1 is not NAME=value"),
    ],
)
def test_garbage_in_dotenv_is_a_mistake(refused: Refused, content: str | bytes, line: str) -> None:
    assert refused(dotenv=content) == [line]


def test_a_dotenv_that_is_no_file_is_a_mistake(refused: Refused, tmp_path: Path) -> None:
    (tmp_path / ".env").mkdir()
    assert refused() == [".env: it can't be read: it is not a regular file"]
    (tmp_path / ".env").rmdir()
    os.mkfifo(tmp_path / ".env")
    assert refused() == [".env: it can't be read: it is not a regular file"]


# Secrets

WRONG_SECRETS = [
    ("ANTHROPIC_API_KEY", f"{SECRET} blank"),
    ("ANTHROPIC_API_KEY", f"{SECRET}\udc80"),
    ("CLAUDE_CODE_OAUTH_TOKEN", f"{SECRET}\n"),
    ("ANTHROPIC_BASE_URL", f"http://me:{SECRET}@host"),
    ("ANTHROPIC_BASE_URL", f"http://me:{SECRET}\N{DOUBLE EXCLAMATION MARK}@host"),
    ("PORTICO_AUTH_TOKENS", SECRET),
    ("PORTICO_AUTH_TOKENS", f"a:b,c:{SECRET}:root"),
    ("PORTICO_AUTH_TOKENS", f"a:{SECRET},b:{SECRET}"),
    ("PORTICO_AUTH_TOKENS", f"a:x,a:{SECRET}"),
    ("PORTICO_AUTH_TOKENS", f"@{SECRET}"),
    ("PORTICO_AGENT_ENV", f"HOME={SECRET}"),
    ("PORTICO_AGENT_ENV", f"A={SECRET},A={SECRET}"),
    ("PORTICO_AGENT_ENV", f"1={SECRET}"),
    ("PORTICO_ANTHROPIC_KEY", SECRET),
    ("PORTICO_MCP_SERVERS", f'{{"{SECRET}": '),
    ("PORTICO_MCP_SERVERS", f'["{SECRET}"]'),
    ("PORTICO_MCP_SERVERS", f'{{"a": {{"env": {{"KEY": "{SECRET}"}}}}}}'),
    ("PORTICO_MCP_SERVERS", f"@{SECRET}"),
]


@pytest.mark.parametrize(("variable", "value"), WRONG_SECRETS)
def test_no_line_holds_a_secret(tmp_path: Path, variable: str, value: str) -> None:
    with pytest.raises(SettingsError) as caught:
        load({}, {variable: value}, tmp_path)
    assert len(caught.value.lines) == 1
    assert caught.value.lines[0].startswith(variable)
    assert SECRET not in str(caught.value)
    assert SECRET not in "".join(traceback.format_exception(caught.value))


def test_a_line_of_a_token_says_which_one(refused: Refused) -> None:
    (line,) = refused({"PORTICO_AUTH_TOKENS": f"a:b,{SECRET}"})
    assert line == f"PORTICO_AUTH_TOKENS entry 2: it has another form; accepted: {accepts('auth_tokens')}"


def test_nothing_that_is_shown_holds_a_secret(loaded: Load) -> None:
    result = loaded(
        {
            "ANTHROPIC_API_KEY": SECRET,
            "CLAUDE_CODE_OAUTH_TOKEN": SECRET,
            "PORTICO_AUTH_TOKENS": f"ops:{SECRET}1:admin,alice:{SECRET}2",
            "PORTICO_AGENT_ENV": f"AWS_REGION,AWS_SECRET={SECRET}",
            "PORTICO_MCP_SERVERS": f'{{"a": {{"url": "{SECRET}"}}, "b": {{"url": "{SECRET}"}}}}',
        }
    )
    assert SECRET not in repr(result) + str(result.settings) + repr(describe(result))
    shown = {name: value for name, value, _ in describe(result)}
    assert shown["anthropic_api_key"] == "********"
    assert shown["auth_tokens"] == "ops:********:admin,alice:********"
    assert shown["agent_env"] == "AWS_REGION,AWS_SECRET=********"
    assert shown["mcp_servers"] == "a=********,b=********"


def test_values_are_shown_as_they_are_written(loaded: Load) -> None:
    environ = {"PORTICO_MAX_BODY": "1048577", "PORTICO_TURN_TIMEOUT": "1.5", "NETWORKING_MODE": "http, other"}
    rows = describe(loaded(environ))
    assert [name for name, _, _ in rows] == list(Settings.model_fields)
    assert ("max_body", "1048577", "environment PORTICO_MAX_BODY") in rows
    assert ("turn_timeout", "1.5", "environment PORTICO_TURN_TIMEOUT") in rows
    assert ("networking_mode", "http,other", "environment NETWORKING_MODE") in rows
    assert ("permission_timeout", "300", "default") in rows
    assert ("uds", "none", "default") in rows
    assert {name: shown for name, shown, _ in describe(loaded())}["max_body"] == "32MiB"


# Tokens in a file


def test_tokens_from_a_file(loaded: Load, tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    hashed = sha256(f"{SECRET}2".encode()).hexdigest()
    file.write_text(f"# people\nalice:{SECRET}1  # on holiday\n\n  ops:sha256${hashed}:admin\r\n")
    file.chmod(0o600)
    result = loaded({"PORTICO_AUTH_TOKENS": "@tokens"})
    assert [(token.name, token.admin) for token in result.settings.auth_tokens] == [("alice", False), ("ops", True)]
    digests = [sha256(f"{SECRET}{number}".encode()).digest() for number in (1, 2)]
    assert [token.digest for token in result.settings.auth_tokens] == digests
    assert all(token.hashed for token in result.settings.auth_tokens), "none stays in memory as it is"
    assert result.sources["auth_tokens"] == "environment PORTICO_AUTH_TOKENS"
    (warning,) = result.warnings
    assert "`portico token hash`" in warning


def test_a_token_file_of_hashes_may_be_read_but_never_written_by_others(loaded: Load, tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    file.write_text(f"alice:sha256${'0' * 64}")
    file.chmod(0o444)
    assert loaded({}, {"auth_tokens": f"@{file}"}).warnings == []
    file.chmod(0o464)
    assert "0464" in loaded({}, {"auth_tokens": f"@{file}"}).warnings[0]
    file.chmod(0o602)
    with pytest.raises(SettingsError, match="could put a token of their own"):
        loaded({}, {"auth_tokens": f"@{file}"})


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620])
def test_a_token_file_that_others_can_get_at_is_warned_of(loaded: Load, tmp_path: Path, mode: int) -> None:
    file = tmp_path / "tokens"
    file.write_text(f"alice:{SECRET}")
    file.chmod(mode)
    result = loaded({}, {"auth_tokens": f"@{file}"})
    warning, _ = result.warnings
    assert str(file) in warning
    assert f"{mode:04o}" in warning
    assert SECRET not in warning


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (None, "No such file or directory"),
        (b"# none\n", "there is no token in it"),
        (b"a:\xff", "it is not UTF-8 text"),
    ],
)
def test_a_token_file_that_is_of_no_use(refused: Refused, tmp_path: Path, content: bytes | None, why: str) -> None:
    if content is not None:
        (tmp_path / "tokens").write_bytes(content)
    (line,) = refused({}, {"auth_tokens": "@tokens"})
    assert line == f"--auth-tokens: the file after @ can't be used: {why}"


def test_a_wrong_line_in_a_token_file(refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "tokens").write_text(f"a:b\n{SECRET}\n")
    (line,) = refused({"PORTICO_AUTH_TOKENS": "@tokens"})
    assert line.startswith("PORTICO_AUTH_TOKENS entry 2: ")
    assert SECRET not in line


# MCP servers in a file


def test_mcp_servers_from_a_file(loaded: Load, tmp_path: Path) -> None:
    (tmp_path / "mcp.json").write_text('{"mcpServers": {"a": {"command": "b"}}}')
    result = loaded({"PORTICO_MCP_SERVERS": "@mcp.json"})
    assert result.settings.mcp_servers == {"a": {"command": "b"}}
    assert result.sources["mcp_servers"] == "environment PORTICO_MCP_SERVERS"
    assert result.files == (tmp_path / ".env", tmp_path / "mcp.json")


# The agents' environment

SERVERS = {
    "PATH": "/bin",
    "LANG": "C",
    "LC_ALL": "C.UTF-8",
    "TZ": "UTC",
    "HOME": "/home/me",
    "TERM": "xterm",
    "ANTHROPIC_API_KEY": SECRET,
    "AWS_REGION": "eu",
    "https_proxy": "http://proxy",
    "NODE_EXTRA_CA_CERTS": "/ca.pem",
}
ALWAYS = {"PATH": "/bin", "LANG": "C", "LC_ALL": "C.UTF-8", "TZ": "UTC"}


def test_agents_get_the_proxy_and_ca_variables_and_nothing_else(loaded: Load) -> None:
    passed = agent_environment(loaded(SERVERS).settings, SERVERS)
    assert passed == {**ALWAYS, "https_proxy": "http://proxy", "NODE_EXTRA_CA_CERTS": "/ca.pem"}


def test_a_list_of_the_operators_replaces_the_default(loaded: Load) -> None:
    result = loaded({**SERVERS, "PORTICO_AGENT_ENV": "AWS_REGION, NOT_SET,MODE=a=b,EMPTY="})
    assert agent_environment(result.settings, SERVERS) == {**ALWAYS, "AWS_REGION": "eu", "MODE": "a=b", "EMPTY": ""}


# Anything at all

VARIABLES = st.sampled_from(
    [f"PORTICO_{name.upper()}" for name in Settings.model_fields] + [name.upper() for name in BARE_NAMES]
)
PIECES = st.sampled_from(
    ["@", "/", ":", "a", ",", "=", "http://", "9" * 400, "1e999", "-1", "nan", ":admin", "[", "::1", "\n"]
)
ANYTHING = st.text() | st.lists(PIECES, max_size=6).map("".join) | st.text(st.characters(categories=["Cs", "Nd", "Cc"]))


@settings(max_examples=300, deadline=None, suppress_health_check=ONCE)
@example({"PORTICO_MAX_BODY": "9" * 400 + "KiB"}, {}, "")
@example({"PORTICO_AUTH_TOKENS": "@a\0b"}, {}, "")
@example({"PORTICO_UDS": "\ud800"}, {}, "")
@given(
    st.dictionaries(VARIABLES | st.text(), ANYTHING, max_size=8),
    st.dictionaries(st.sampled_from(list(Settings.model_fields)), ANYTHING | st.integers(), max_size=4),
    st.text(st.characters(codec="utf-8")),
)
def test_arbitrary_text_loads_or_is_a_settings_error(
    tmp_path: Path, environ: dict[str, str], options: dict[str, Any], dotenv: str
) -> None:
    (tmp_path / ".env").write_bytes(dotenv.encode())
    try:
        describe(load(options, environ, tmp_path))
    except SettingsError as error:
        assert error.lines
        assert all(line.isprintable() for line in error.lines)


@settings(max_examples=200, deadline=None, suppress_health_check=ONCE)
@given(
    st.sampled_from(["ANTHROPIC_API_KEY", "CLAUDE_CODE_OAUTH_TOKEN", "PORTICO_AUTH_TOKENS", "PORTICO_AGENT_ENV"]),
    ANYTHING,
    ANYTHING,
)
def test_no_secret_is_shown_whatever_stands_around_it(tmp_path: Path, variable: str, before: str, after: str) -> None:
    value = f"{before}{SECRET}{after}"
    try:
        result = load({}, {variable: value, "PORTICO_PORT": "x"}, tmp_path)
    except SettingsError as error:
        assert SECRET not in str(error)
    else:
        pytest.fail(f"the wrong port went unnoticed: {result.sources}")


def test_the_data_folder_is_found_whatever_else_is_wrong(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("PORTICO_PORT=nonsense\ngarbage here\nPORTICO_DATA_DIR=from-file\n")
    assert data_dir({}, {}, tmp_path) == tmp_path / "from-file"
    assert data_dir({}, {"PORTICO_DATA_DIR": "/env", "PORTICO_NONSENSE": "1"}, tmp_path) == Path("/env")
    assert data_dir({"data_dir": "/option"}, {"PORTICO_DATA_DIR": "/env"}, tmp_path) == Path("/option")


def test_a_tilde_is_the_home_folder(loaded: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert loaded({"PORTICO_DATA_DIR": "~/data"}).settings.data_dir == tmp_path / "data"
    assert data_dir({}, {"PORTICO_DATA_DIR": "~/data"}, Path("/elsewhere")) == tmp_path / "data"


class Webhook(BaseModel):
    url: str | None = Field(None, description="Where events are posted to.")
    secret: SecretStr | None = None
    retries: int = Field(3, ge=0, description="Tries after one that failed.")
    types: tuple[str, ...] = ()


def test_a_plugins_settings_are_read_like_all_others(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("PORTICO_WEBHOOK_RETRIES=5\nPORTICO_WEBHOOK_URL=http://dotenv\n")
    environ = {"PORTICO_WEBHOOK_URL": "http://environment", "PORTICO_WEBHOOK_SECRET": SECRET}
    result = load(
        {"webhook_types": "query, complete", "max_body": "1MiB"}, environ, tmp_path, plugins={"webhook": Webhook}
    )
    found = result.plugin_settings["webhook"]
    assert isinstance(found, Webhook)
    assert (found.url, found.retries, found.types) == ("http://environment", 5, ("query", "complete"))
    shown = {name: (value, source) for name, value, source in describe(result)}
    assert shown["webhook_url"] == ("http://environment", "environment PORTICO_WEBHOOK_URL")
    assert shown["webhook_secret"] == ("********", "environment PORTICO_WEBHOOK_SECRET")
    assert shown["webhook_retries"] == ("5", ".env PORTICO_WEBHOOK_RETRIES")
    assert shown["webhook_types"] == ("query,complete", "option --webhook-types")
    assert result.plugin_settings.keys() == {"webhook"} and "webhook_url" not in type(result.settings).model_fields


def test_a_plugins_setting_has_no_bare_name(tmp_path: Path) -> None:
    result = load({}, {"WEBHOOK_RETRIES": "5"}, tmp_path, plugins={"webhook": Webhook})
    assert result.plugin_settings["webhook"] == Webhook.model_validate({})


def test_mistakes_in_a_plugins_settings_are_told_with_all_others(tmp_path: Path) -> None:
    class Needy(BaseModel):
        token: SecretStr = Field(min_length=8)
        port: int

    environ = {
        "PORTICO_PORT": "x",
        "PORTICO_WEBHOOK_RETRIES": "-1",
        "PORTICO_WEBHOOK_URI": "http://x",
        "PORTICO_NEEDY_TOKEN": "short",
    }
    with pytest.raises(SettingsError) as caught:
        load({}, environ, tmp_path, plugins={"webhook": Webhook, "needy": Needy})
    told = "\n".join(caught.value.lines)
    assert "PORTICO_WEBHOOK_URI: unknown setting, did you mean PORTICO_WEBHOOK_URL?" in caught.value.lines
    assert "PORTICO_WEBHOOK_RETRIES=-1: Input should be greater than or equal to 0" in caught.value.lines
    assert "PORTICO_NEEDY_PORT: Field required" in caught.value.lines
    assert "PORTICO_NEEDY_TOKEN: " in told and "short" not in told.replace("too_short", "")
    assert "PORTICO_PORT=x: accepted: a whole number" in told
    assert len(caught.value.lines) == 5


def test_what_may_be_a_left_out_plugins_is_only_warned_of(tmp_path: Path) -> None:
    result = load({}, {"PORTICO_WEBHOOK_URL": "http://x"}, tmp_path, lenient=True)
    (warning,) = result.warnings
    assert warning.startswith("PORTICO_WEBHOOK_URL: unknown setting")


def test_the_choice_of_plugins_is_known_before_all_else(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("PORTICO_PLUGINS=a, b\nPORTICO_NONSENSE=x\n")
    assert plugin_choice({}, {"PORTICO_DISABLED_PLUGINS": "echo"}, tmp_path) == (("a", "b"), ("echo",))
    assert plugin_choice({"plugins": "c"}, {"PORTICO_MAX_SESSIONS": "x"}, tmp_path) == (("c",), ())
