"""The form in which the values of settings are written: text in, checked values out. No I/O.

Every function raises ValueError for what it refuses. Its message never quotes a value: it may be a secret.
"""

import grp
import ipaddress
import json
import os
import re
import sys
from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from pydantic import SecretStr

# As `portico.core.tool_rule` has it; `tests/core/test_tool_rule.py` compares the two.
_TOOL_RULE = (
    r"(?:[A-Za-z_][A-Za-z0-9_-]*"
    r"(?:\*|\((?! *\))[^()\x00-\x1f\x7f-\x9f\u2028\u2029]*[^()\\\x00-\x1f\x7f-\x9f\u2028\u2029]\))?|\*)"
)
# What breaks a session's isolation when it comes from outside: its own folders, and the server's settings.
_OWN_TO_A_SESSION = frozenset({"HOME", "CLAUDE_CONFIG_DIR", "XDG_RUNTIME_DIR", "TMPDIR", "CLAUDE_CODE_TMPDIR"})
_OWN_TO_THE_SERVER = "PORTICO_"
_HASHED = "sha256$"  # no secret has a $ in it
_FIXED_PATHS = ("/healthz", "/readyz", "/metrics", "/docs", "/openapi.json")
_HIGHEST_GROUP = 2**32 - 2  # one more is -1, which means no group to chown(2)
_SOCKET_PATH_BYTES = 107 if sys.platform == "linux" else 103  # sun_path in unix(7) and on the BSDs, less its NUL

T = TypeVar("T", bound=Hashable)


def is_secret_type(annotation: object) -> bool:
    """Tell from its type whether a setting must not be shown: it holds a `SecretStr`."""
    return "Secret" in str(annotation)


@dataclass(frozen=True)
class Token:
    """A caller's credential: `name` is the principal that it stands for. `secret` may be hashed: `sha256$HEX`."""

    name: str
    secret: SecretStr
    admin: bool = False

    @property
    def hashed(self) -> bool:
        return self.secret.get_secret_value().startswith(_HASHED)

    @property
    def digest(self) -> bytes:
        """SHA-256 of the secret."""
        text = self.secret.get_secret_value()
        return bytes.fromhex(text.removeprefix(_HASHED)) if self.hashed else sha256(text.encode()).digest()

    def line(self) -> str:
        """As it stands in a file, hashed."""
        # A fast hash without salt is enough: secrets are random, 256 bits of them, and not somebody's password.
        return f"{self.name}:{_HASHED}{self.digest.hex()}" + (":admin" if self.admin else "")


@dataclass(frozen=True)
class AgentVariable:
    """A variable in the agents' environment; without a `value` it is the server's own of that name."""

    name: str
    value: SecretStr | None = None


@dataclass(frozen=True)
class ZitiService:
    """A service on a Ziti network; `principal` is who may dial it, None where callers bring tokens."""

    name: str
    principal: str | None = None
    admin: bool = False


def split(value: Any) -> Any:
    """`a, b` → `["a", "b"]`; what is not text passes as it is."""
    if not isinstance(value, str):
        return value
    if not (entries := [entry.strip() for entry in value.split(",") if entry.strip()]):
        raise ValueError("the list is empty")
    return entries


def distinct(entries: tuple[T, ...]) -> tuple[T, ...]:
    """Refuses an entry that stands there twice."""
    _refuse_twins(entries, "are the same")
    return entries


def token(value: Any) -> Any:
    """`name:secret` or `name:secret:admin`, the secret plain or as `sha256$HEX` → Token."""
    if not isinstance(value, str):
        return value
    form = r"([A-Za-z0-9][A-Za-z0-9._@-]{0,63}):(sha256\$[0-9a-f]{64}|[A-Za-z0-9._~+/=-]{1,512})(:admin)?"
    if not (match := re.fullmatch(form, value)):
        raise ValueError("it has another form")
    return Token(match[1], SecretStr(match[2]), admin=bool(match[3]))


def tool_rule(value: str) -> str:
    """A tool's name such as `Read`, or one with its content such as `Bash(git log:*)`."""
    if len(value) > 512 or not re.fullmatch(_TOOL_RULE, value):
        raise ValueError("it is not exactly one rule: brackets stand only around a content, at the end")
    return value


def ziti_service(value: Any) -> Any:
    """`name`, `name=principal` or `name=principal:admin` → ZitiService."""
    if not isinstance(value, str):
        return value
    form = r"([^=,\s][^=,]{0,255}?)(?:=([A-Za-z0-9][A-Za-z0-9._@-]{0,63})(:admin)?)?"
    if not (match := re.fullmatch(form, value)):
        raise ValueError("it has another form")
    return ZitiService(match[1], match[2], admin=bool(match[3]))


def distinct_services(services: tuple[ZitiService, ...]) -> tuple[ZitiService, ...]:
    _refuse_twins((service.name for service in services), "are the same service")
    return services


def distinct_tokens(tokens: tuple[Token, ...]) -> tuple[Token, ...]:
    """One name is one token, and one secret is one principal."""
    _refuse_twins((token.name for token in tokens), "have the same name")
    _refuse_twins((token.digest for token in tokens), "have the same secret")
    return tokens


def agent_variable(value: Any) -> Any:
    """`NAME` or `NAME=value` → AgentVariable."""
    if not isinstance(value, str):
        return value
    name, equals, given = value.partition("=")
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name) or "\0" in given:
        raise ValueError("it has another form")
    if name in _OWN_TO_A_SESSION:
        raise ValueError(f"{name} is each session's own")
    if name.startswith(_OWN_TO_THE_SERVER):
        raise ValueError(f"{_OWN_TO_THE_SERVER}* variables are the server's own")
    return AgentVariable(name, SecretStr(given) if equals else None)


def distinct_variables(variables: tuple[AgentVariable, ...]) -> tuple[AgentVariable, ...]:
    _refuse_twins((variable.name for variable in variables), "have the same name")
    return variables


def another_provider(variables: tuple[AgentVariable, ...]) -> bool:
    """Tell whether agents use the model API of another cloud, with its own credentials (Bedrock, Vertex ...)."""
    return any(variable.name.startswith("CLAUDE_CODE_USE_") for variable in variables)


def mcp_servers(value: Any) -> Any:
    """JSON text → name → configuration; also of the form of a file ``.mcp.json``, with all under ``mcpServers``."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            raise ValueError("it is not JSON") from None
    if isinstance(value, dict) and value.keys() == {"mcpServers"}:
        value = value["mcpServers"]
    if not isinstance(value, dict):
        raise ValueError("it is not a JSON object")
    for place, (name, server) in enumerate(value.items(), start=1):
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", name):
            raise ValueError(f"the name of server {place} has another form")
        program = server.get("command", server.get("url")) if isinstance(server, dict) else None
        if not isinstance(program, str) or not program:
            raise ValueError(f"server {place} names neither a command nor a url")
    return value


PRICE = frozenset({"input", "output", "cache_read"})


def model_prices(value: Any) -> Any:
    """JSON text → beginning of a model's name → US dollars per million tokens of each kind."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            raise ValueError("it is not JSON") from None
    if not isinstance(value, dict):
        raise ValueError("it is not a JSON object")
    for place, (name, price) in enumerate(value.items(), start=1):
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._:/@-]{0,255}", name):
            raise ValueError(f"the name of model {place} has another form")
        if not isinstance(price, dict) or price.keys() != PRICE:
            raise ValueError(f"model {place} needs input, output and cache_read, and nothing else")
        if not all(type(usd) in (int, float) and 0 <= usd <= 1_000_000 for usd in price.values()):
            raise ValueError(f"a price of model {place} is no number from 0 to 1000000")
    return value


def header_secret(value: SecretStr) -> SecretStr:
    """A credential that can be sent in an HTTP header."""
    if not re.fullmatch(r"[!-~]+", value.get_secret_value()):
        raise ValueError("it holds blanks, control characters or characters that are not ASCII")
    return value


def base_url(value: str) -> str:
    """An http(s) URL that paths can be appended to."""
    # First of all, because the errors of urlsplit quote what they are about.
    if not re.fullmatch(r"[!-~]+", value):
        raise ValueError("it holds blanks, control characters or characters that are not ASCII")
    if "@" in value:
        raise ValueError("credentials don't belong in it")
    try:
        url = urlsplit(value)
        well_formed = url.scheme in ("http", "https") and url.hostname and url.port != 0
    except ValueError:
        well_formed = False
    if not well_formed or "?" in value or "#" in value:
        raise ValueError("it has another form")
    return value


def host(value: str) -> str:
    """A host name or an IP address; an IPv6 address may stand in brackets, and loses them."""
    bare = value[1:-1] if value.startswith("[") and value.endswith("]") else value
    label = r"(?!-)[A-Za-z0-9-]{1,63}"
    if re.fullmatch(rf"(?![0-9.]+$){label}(\.{label})*", bare):
        return bare
    try:
        return str(ipaddress.ip_address(bare))
    except ValueError:
        raise ValueError("it is neither a host name nor an IP address") from None


def host_pattern(value: str) -> str:
    """A host name or an IP address in lower case, or `*`."""
    return value if value == "*" else host(value).lower()


def origin(value: str) -> str:
    """`https://name:port` as browsers send it: in lower case, without a default port, path or slash."""
    match = re.fullmatch(r"(https?)://(\[[0-9a-f:.]+\]|[a-z0-9.-]+)(:[1-9][0-9]{0,4})?", value)
    if not match or match[3] == {"http": ":80", "https": ":443"}[match[1]]:
        raise ValueError("it has another form than browsers send")
    host(match[2])
    return value


def without_covered(transports: tuple[str, ...]) -> tuple[str, ...]:
    """`websocket` beside `http` would listen twice for the same."""
    return tuple(name for name in transports if name != "websocket" or "http" not in transports)


def proxy(value: str) -> str:
    """An IP address, a network such as `10.0.0.0/8`, or `unix`."""
    if value == "unix":
        return value
    try:
        return str(ipaddress.ip_network(value))
    except ValueError:
        raise ValueError("it is no IP address, and no network whose bits behind the mask are 0") from None


def is_loopback(host: str) -> bool:
    """Tell whether only this machine can reach `host`."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def absolute(path: Path) -> Path:
    """An absolute path without `..`, in its shortest spelling."""
    if not path.is_absolute():
        raise ValueError("it is relative")
    if "\0" in str(path):
        raise ValueError("it holds a NUL character")
    return Path(os.path.normpath(path))


def path_or_off(value: Any) -> Any:
    """`off` → None."""
    return None if value == "off" else value


def socket_path(path: Path) -> Path:
    """A path that a Unix socket can be bound to."""
    if len(os.fsencode(path)) > _SOCKET_PATH_BYTES:
        raise ValueError(f"it is longer than {_SOCKET_PATH_BYTES} bytes")
    return path


def file_mode(value: str) -> str:
    """`0660` or `660` → `0660`."""
    if not re.fullmatch("0?[0-7]{3}", value):
        raise ValueError("it has another form")
    return value.zfill(4)


def own_group(value: str) -> str:
    """The name or number of a group that this process may give files to."""
    try:
        number = int(value) if value.isdecimal() else grp.getgrnam(value).gr_gid
    except (KeyError, ValueError):
        raise ValueError("there is no such group") from None
    if number > _HIGHEST_GROUP:
        raise ValueError("there is no such group")
    if os.geteuid() != 0 and number not in (os.getegid(), *os.getgroups()):
        raise ValueError("this process is not in the group")
    return value


def url_prefix(value: str) -> str:
    """`/claude` or `/a/b`, clear of the server's fixed paths."""
    if not re.fullmatch(r"(/(?!\.{1,2}(/|$))[A-Za-z0-9._~-]+)+", value):
        raise ValueError("it has another form")
    if any(value == path or value.startswith(f"{path}/") for path in _FIXED_PATHS):
        raise ValueError("the server has a page of its own there")
    return value


def _refuse_twins(keys: Iterable[Hashable], what: str) -> None:
    first_at: dict[Hashable, int] = {}
    for place, key in enumerate(keys, start=1):
        if (first := first_at.setdefault(key, place)) != place:
            raise ValueError(f"entries {first} and {place} {what}")
