import subprocess
import sys
from typing import Any

import pytest

from portico import hookimpl
from portico.plugins.manager import PluginError, collect, create_manager, load_registry


def test_the_built_ins_are_there() -> None:
    registry = load_registry()
    assert set(registry.transports) == {"http", "websocket"}
    assert set(registry.drivers) == {"claude-code"}
    assert set(registry.stores) == {"memory", "sqlite"}
    assert set(registry.authenticators) == {"token", "none"}


def test_an_outsiders_plugin_uses_the_same_hooks() -> None:
    manager = create_manager()

    class Outsider:
        @hookimpl
        def portico_transports(self) -> dict[str, Any]:
            return {"pigeon": lambda context: "a pigeon"}

    manager.register(Outsider(), "outsider")
    assert collect(manager).transport("pigeon")(None) == "a pigeon"  # type: ignore[arg-type, comparison-overlap]


def test_two_plugins_of_one_name_are_both_named() -> None:
    manager = create_manager()

    class Outsider:
        @hookimpl
        def portico_stores(self) -> dict[str, Any]:
            return {"memory": None}

    manager.register(Outsider(), "outsider")
    with pytest.raises(PluginError) as caught:
        collect(manager)
    assert "outsider" in caught.value.detail
    assert "portico.plugins.memory_store" in caught.value.detail
    assert "'memory'" in caught.value.detail


def test_an_unknown_name_lists_those_there_are() -> None:
    with pytest.raises(PluginError, match="there is no authenticator 'ldap'; there are: none, token"):
        load_registry().authenticator("ldap")


def test_a_misspelt_hook_is_noticed() -> None:
    manager = create_manager()

    class Outsider:
        @hookimpl
        def portico_transport(self) -> dict[str, Any]:
            return {}

    manager.register(Outsider(), "outsider")
    with pytest.raises(Exception, match="portico_transport"):
        collect(manager)


def test_registering_imports_nothing_heavy() -> None:
    script = (
        "import sys; from portico.plugins.manager import load_registry; load_registry();"
        "print(*sorted({'starlette', 'uvicorn', 'sse_starlette', 'pydantic', 'portico.transports.http',"
        " 'portico.plugins.memory_store.store', 'portico.plugins.token_auth.authenticator'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
