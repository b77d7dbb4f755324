import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from portico import __version__
from portico.plugins.manager import BUILT_INS, PluginError, Plugins, load_plugins

Load = Callable[..., Plugins]


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Load:
    """Loads modules of the given source, by the given names, beside the built-ins."""
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])

    def load(disabled: tuple[str, ...] = (), reserved: Any = None, **sources: str) -> Plugins:
        for name, source in sources.items():
            sys.modules.pop(name, None)
            (tmp_path / f"{name}.py").write_text("from portico import hookimpl\n" + textwrap.dedent(source))
        return load_plugins(tuple(sources), disabled, reserved=reserved)

    return load


def failure(plugins: Plugins, name: str) -> str:
    """Why a plugin failed, where all others work."""
    failed = {plugin.name: plugin.failure for plugin in plugins.found if plugin.failure is not None}
    assert list(failed) == [name]
    assert plugins.registry.failures == failed
    assert {"http", "websocket"} <= set(plugins.registry.transports)
    reason = failed[name]
    assert reason is not None and "\n" not in reason
    return reason


def offering(hook: str, value: str) -> str:
    return f"""
        @hookimpl
        def {hook}():
            return {value}
    """


def test_the_built_ins_are_there() -> None:
    plugins = load_plugins()
    assert not plugins.registry.failures
    assert set(plugins.registry.transports) == {"http", "websocket", "ziti"}
    assert set(plugins.registry.drivers) == {"claude-code", "echo"}
    assert set(plugins.registry.stores) == {"memory", "sqlite"}
    assert set(plugins.registry.authenticators) == {"token", "none", "jwt"}
    assert {plugin.source for plugin in plugins.found if plugin.name in BUILT_INS} == {"portico-server"}


@pytest.mark.parametrize("name", BUILT_INS)
def test_a_built_in_may_as_well_come_from_outside(name: str) -> None:
    module = BUILT_INS[name]
    inside, outside = load_plugins(), load_plugins((module,), (name,))
    (gone,) = [plugin for plugin in outside.found if plugin.name == name]
    (come,) = [plugin for plugin in outside.found if plugin.name == module]
    (was,) = [plugin for plugin in inside.found if plugin.name == name]
    assert gone.disabled and not gone.offers
    assert come.offers == was.offers and was.offers
    for kind in ("transports", "drivers", "stores", "authenticators"):
        assert getattr(outside.registry, kind) == getattr(inside.registry, kind)


@pytest.mark.parametrize("name", BUILT_INS)
def test_a_built_in_that_is_disabled_is_gone(name: str) -> None:
    everything, without = load_plugins(), load_plugins((), (name,))
    (plugin,) = [plugin for plugin in everything.found if plugin.name == name]
    for kind, names in plugin.offers.items():
        assert not set(names) & set(getattr(without.registry, kind if kind in ("routes", "settings") else f"{kind}s"))


def test_an_outsider_offers_all_kinds(load: Load) -> None:
    registry = load(
        pigeon="""
        import click
        from pydantic import BaseModel

        class Feed(BaseModel):
            grains: int = 3

        def make(context): return "a pigeon"

        @hookimpl
        def portico_transports(): return {"pigeon": make}
        @hookimpl
        def portico_routes(): return {"pigeon": make}
        @hookimpl
        def portico_drivers(): return {"pigeon": make}
        @hookimpl
        def portico_stores(): return {"pigeon": make}
        @hookimpl
        def portico_authenticators(): return {"pigeon": make}
        @hookimpl
        def portico_observers(): return {"pigeon": make}
        @hookimpl
        def portico_settings(): return {"pigeon": Feed}
        @hookimpl
        def portico_commands(): return {"pigeon": click.Command("pigeon")}
        """
    ).registry
    assert not registry.failures
    context: Any = None
    made: list[Any] = [registry.transport, registry.driver, registry.store, registry.authenticator]
    assert [find("pigeon")(context) for find in made] == ["a pigeon"] * 4
    assert set(registry.observers) == set(registry.commands) == {"pigeon"}
    assert set(registry.routes) == {"metrics", "pigeon"}
    assert registry.settings["pigeon"]().grains == 3  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("import there_is_no_such_module", "ModuleNotFoundError: No module named 'there_is_no_such_module'"),
        ("raise SystemExit(3)", "SystemExit: 3"),
        ("def broken(:", "SyntaxError"),
        ("", "it implements no hook of Portico: are its functions marked with portico.hookimpl?"),
        ("portico_requires = '>=99'", f"it needs portico-server >=99, and this is portico-server {__version__}"),
        (offering("portico_transport", "{}"), "there is no hook portico_transport, did you mean portico_transports?"),
        (offering("startup", "{}"), "there is no hook startup; there are: portico_transports"),
        (offering("portico_stores", "1 / 0"), "ZeroDivisionError"),
        (offering("portico_stores", "None"), "portico_stores must return a mapping of names, not NoneType"),
        (offering("portico_stores", "['s3']"), "portico_stores must return a mapping of names, not list"),
        (offering("portico_stores", "{'a b': print}"), "'a b' is no name of the form"),
        (offering("portico_stores", "{'s3': 'make'}"), "'s3' is not a factory but str"),
        (offering("portico_stores", "{'memory': print}"), "store 'memory' is registered by the plugin memory-store"),
        (offering("portico_settings", "{'odd': dict}"), "'odd' is not a pydantic model"),
        (
            "@hookimpl\nasync def portico_stores(): return {}",
            "portico_stores is async; hooks are called without await, and return their factories",
        ),
        (
            "@hookimpl\ndef portico_stores(context): return {}",
            "portico_stores",  # pluggy says what is wrong with its arguments
        ),
        ("@hookimpl(wrapper=True)\ndef portico_stores():\n    yield", "portico_stores must not be a wrapper"),
    ],
)
def test_a_broken_plugin_is_left_out_with_its_reason(load: Load, source: str, reason: str) -> None:
    assert reason in failure(load(odd=source), "odd")


def test_nothing_of_a_broken_plugin_is_used(load: Load) -> None:
    plugins = load(odd=offering("portico_drivers", "{'odd': print}") + offering("portico_stores", "{'memory': print}"))
    assert "memory" in failure(plugins, "odd")
    assert "odd" not in plugins.registry.drivers


def test_the_first_of_two_that_offer_the_same_name_has_it(load: Load) -> None:
    plugins = load(one=offering("portico_stores", "{'s3': print}"), two=offering("portico_stores", "{'s3': print}"))
    assert failure(plugins, "two") == "store 's3' is registered by the plugin one already"
    assert "s3" in plugins.registry.stores


def test_a_reserved_name_is_refused(load: Load) -> None:
    model = "__import__('pydantic').create_model('M', body=(int, 1))"
    plugins = load(reserved={"setting": {"max_body"}}, odd=offering("portico_settings", f"{{'max': {model}}}"))
    assert failure(plugins, "odd") == "there is a setting max_body already"


def test_who_needs_a_version_that_this_is_gets_on(load: Load) -> None:
    plugins = load(
        fine="portico_requires = '>=0.1,<99'\n" + textwrap.dedent(offering("portico_stores", "{'s3': print}"))
    )
    assert "s3" in plugins.registry.stores


@pytest.mark.parametrize(
    ("requirement", "met"),
    [
        ("portico-server>=99", False),
        ("Portico_Server[ziti] (>=99)", False),
        ("portico-server>=99; python_version < '3'", True),
        ("portico-server>=0.2", True),
        ("portico>=99", True),  # another project's
        ("portico-server-extras>=99", True),
    ],
)
def test_an_installed_plugin_needs_the_server_by_the_name_that_pip_knows(
    load: Load, tmp_path: Path, requirement: str, met: bool
) -> None:
    (tmp_path / "pigeon.py").write_text(
        "from portico import hookimpl\n" + textwrap.dedent(offering("portico_stores", "{'pigeon': print}"))
    )
    info = tmp_path / "pigeon-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: pigeon\nVersion: 1\nRequires-Dist: {requirement}\n")
    (info / "entry_points.txt").write_text("[portico]\npigeon = pigeon\n")
    sys.modules.pop("pigeon", None)
    plugins = load()
    assert ("pigeon" in plugins.registry.stores) is met
    if not met:
        reason = f"it needs portico-server >=99, and this is portico-server {__version__}"
        assert failure(plugins, "pigeon") == reason


def test_disabled_is_not_even_imported(load: Load) -> None:
    plugins = load(disabled=("odd",), odd="raise SystemExit(1)")
    assert not plugins.registry.failures
    assert [plugin.disabled for plugin in plugins.found if plugin.name == "odd"] == [True]


def test_disabling_what_is_not_there_lists_what_is() -> None:
    with pytest.raises(PluginError, match="there is no plugin 'sqlite'; there are: claude-code, echo"):
        load_plugins((), ("sqlite",))


def test_an_unknown_name_lists_those_there_are_and_what_failed(load: Load) -> None:
    with pytest.raises(PluginError, match=r"there is no authenticator 'ldap'; there are: jwt, none, token$"):
        load_plugins().registry.authenticator("ldap")
    with pytest.raises(
        PluginError, match="there are: jwt, none, token; the plugin ldap failed: ModuleNotFoundError: No"
    ):
        load(ldap="import there_is_no_such_module").registry.authenticator("ldap")


def test_registering_imports_nothing_heavy() -> None:
    script = (
        "import sys; from portico.plugins.manager import load_plugins; load_plugins();"
        "print(*sorted({'starlette', 'uvicorn', 'sse_starlette', 'jwt', 'portico.transports.http',"
        " 'portico.plugins.memory_store.store', 'portico.plugins.token_auth.authenticator', 'claude_agent_sdk'}"
        " & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
