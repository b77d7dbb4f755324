"""Settings of the model API: credentials, the gateway, and what agents get to reach it."""

from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, SecretStr, ValidationInfo, field_validator

from . import values
from .fields import SettingsGroup, number, setting, whole_number
from .values import AgentVariable

HeaderSecret = Annotated[SecretStr, AfterValidator(values.header_secret)]

_PROXY_AND_CA = (
    *("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY"),
    *("http_proxy", "https_proxy", "no_proxy", "all_proxy"),
    *("SSL_CERT_FILE", "SSL_CERT_DIR", "NODE_EXTRA_CA_CERTS", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"),
)


class ModelSettings(SettingsGroup):
    """Settings of the model API: credentials, the gateway, and what agents get to reach it."""

    anthropic_api_key: HeaderSecret | None = setting(
        "API key for the model API. With `key_gateway` no agent gets to see it; it is never logged.",
        "printable ASCII without blanks",
        None,
        secret=True,
        bare=True,
    )
    claude_code_oauth_token: HeaderSecret | None = setting(
        "OAuth token for the model API, from `claude setup-token`; never logged.",
        "printable ASCII without blanks",
        None,
        secret=True,
        bare=True,
    )
    key_gateway: bool = setting(
        "Agents reach the model API through the server, which adds the credential: a Unix socket for each, no port. "
        "Off: the credential is in the agents' environment, for each of their tools to read.",
        "on or off",
        True,
    )
    anthropic_base_url: Annotated[str, AfterValidator(values.base_url)] | None = setting(
        "Base URL of the model API: where the gateway sends to, or, without it, the agents. Default: the API's own.",
        "an http:// or https:// URL without credentials, query and fragment",
        None,
        bare=True,
    )
    agent_env: Annotated[
        tuple[Annotated[AgentVariable, BeforeValidator(values.agent_variable)], ...],
        BeforeValidator(values.split),
        AfterValidator(values.distinct_variables),
    ] = setting(
        "Variables that agents get: a NAME of the server's environment, or NAME=value (which can't hold a "
        "comma). Default: the proxy and CA variables; a list given here replaces them.",
        "NAME or NAME=value, comma-separated, and none that is a session's or the server's own",
        tuple(AgentVariable(name) for name in _PROXY_AND_CA),
        secret=True,
    )
    budget_usd_per_day: float | None = number(
        "US dollars that the model may cost each principal a day (UTC), by list prices; then turns end with "
        "`budget_exceeded`. Default: any number. Needs `key_gateway` and a credential.",
        None,
        "US dollars",
        1_000_000,
        validate_default=True,
    )
    model_prices: Annotated[dict[str, dict[str, float]], BeforeValidator(values.model_prices)] = setting(
        "Prices of models in US dollars per million tokens, by the beginning of a model's name; they come before the "
        "server's own table. Default: none.",
        'a JSON object such as {"claude-opus-5": {"input": 5, "output": 25, "cache_read": 0.5}}, '
        "or @FILE that holds one",
        default_factory=dict,
        from_file=True,
    )
    claude_model: str | None = setting(
        "Model of new sessions, e.g. `sonnet` or `claude-opus-5-5`. Default: the CLI's own.",
        "a model's name, such as sonnet",
        None,
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._:/@\[\]-]{0,255}$",
        bare=True,
    )
    max_tokens: int | None = whole_number(
        "Output tokens of one model reply. Default: the CLI's own limit, which is 32,000 or more; an agent can't write "
        "a file that is longer than this.",
        None,
        1,
        1_000_000,
        bare=True,
    )

    @field_validator("budget_usd_per_day")
    @classmethod
    def _counted_by_the_gateway(cls, budget: float | None, info: ValidationInfo) -> float | None:
        found = info.data
        if budget is None or not {"key_gateway", "anthropic_api_key", "claude_code_oauth_token"} <= found.keys():
            return budget
        if not found["key_gateway"]:
            raise ValueError("with key_gateway=off nobody counts what the model costs")
        if found["anthropic_api_key"] is None and found["claude_code_oauth_token"] is None:
            raise ValueError("without anthropic_api_key or claude_code_oauth_token there is no gateway to count")
        if values.another_provider(found.get("agent_env", ())):
            raise ValueError("agents that agent_env sends to another provider are not counted")
        return budget
