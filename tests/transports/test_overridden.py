"""Every name inside of uvicorn, websockets and httptools that this program overrides or uses is there.

These are no public names: a release may take any of them away, and an override that nobody calls any more fails
silently. So both have a ceiling in pyproject.toml; when it is raised, this says first what is gone.
"""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
import tomllib
from collections.abc import Mapping
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

import portico.gateway.model_gateway
import portico.http1.embedded
from portico.gateway.agent_connection import AgentConnection
from portico.plugins.demo.model_server import _Server as DemoServer
from portico.transports.http_connection import HttpConnection
from portico.transports.server import _Server
from portico.transports.websocket_connection import WebSocketConnection

ROOT = Path(__file__).parents[2]

OVERRIDDEN: Mapping[str, str] = {
    "uvicorn.protocols.http.httptools_impl:HttpToolsProtocol": """
        __init__ connection_made connection_lost data_received eof_received
        on_message_begin on_url on_header on_headers_complete on_body on_message_complete on_response_complete
        handle_websocket_upgrade send_400_response _should_upgrade _unsupported_upgrade_warning
    """,
    "uvicorn.protocols.websockets.websockets_sansio_impl:WebSocketsSansIOProtocol": """
        __init__ connection_made connection_lost data_received resume_writing shutdown
        handle_connect handle_text handle_bytes handle_cont handle_ping handle_parser_exception
        send_receive_event_to_app send_keepalive_ping keepalive_timeout receive send
    """,
    "uvicorn.server:Server": "__init__ capture_signals startup serve",
}
"""By the class in which they are overridden."""

USED: Mapping[str, str] = {
    "uvicorn.protocols.http.httptools_impl:HttpToolsProtocol": """
        app_state connections cycle headers logger loop parser pipeline scope transport url
    """,
    "uvicorn.protocols.http.httptools_impl:RequestResponseCycle": """
        disconnected keep_alive message_event more_body response_complete response_started
    """,
    "uvicorn.protocols.websockets.websockets_sansio_impl:WebSocketsSansIOProtocol": """
        close_sent close_timeout close_timer config conn curr_msg_data_type disconnected frames handshake_complete
        logger loop pause_writing ping_interval ping_timeout ping_timer pong_timer queue read_paused schedule_ping scope
        stop_keepalive transport writable
    """,
    "uvicorn.protocols.utils:ClientDisconnected": "",
    "uvicorn.server:Server": "config lifespan server_state should_exit",
    "uvicorn.server:ServerState": "connections tasks",
    "uvicorn.config:Config": "http_protocol_class load ws_max_size",
    "uvicorn.lifespan.off:LifespanOff": "state",
    "httptools:HttpRequestParser": "get_http_version get_method should_upgrade",
    "websockets.server:ServerProtocol": """
        accept close_sent data_to_send debug fail handshake_exc logger max_message_size send_close state
    """,
    "websockets.protocol:State": "OPEN",
    "websockets.frames:Frame": "data fin serialize",
    "websockets.frames:Opcode": "TEXT",
    "websockets.frames:Close": "code",
    "websockets.http11:Request": "",
    "websockets.http11:Response": "status_code",
}

OURS = {
    HttpConnection: "uvicorn.protocols.http.httptools_impl:HttpToolsProtocol",
    AgentConnection: "uvicorn.protocols.http.httptools_impl:HttpToolsProtocol",
    WebSocketConnection: "uvicorn.protocols.websockets.websockets_sansio_impl:WebSocketsSansIOProtocol",
    _Server: "uvicorn.server:Server",
    DemoServer: "uvicorn.server:Server",
}


def found(name: str) -> type[Any]:
    module, _, attribute = name.partition(":")
    cls: type[Any] | None = getattr(import_module(module), attribute, None)
    assert cls is not None, f"{release(name)} has no {name} any more"
    return cls


def release(name: str) -> str:
    package = name.partition(":")[0].partition(".")[0]
    return f"{package} {version(package)}"


def own(cls: type[Any], kind: type[ast.expr_context]) -> set[str]:
    """The attributes of ``self`` that the class's own code sets (`ast.Store`) or reads (`ast.Load`)."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(cls)))
    except (OSError, TypeError):  # it is no Python code
        return set()
    return {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and isinstance(node.ctx, kind)
        and isinstance(node.value, ast.Name)
        and node.value.id == "self"
    }


def names(*classes: type[Any]) -> set[str]:
    """The attributes of instances, as far as the code of the classes tells."""
    return set().union(*({*vars(cls), *vars(cls).get("__annotations__", ()), *own(cls, ast.Store)} for cls in classes))


def split(cls: type[Any]) -> tuple[list[type[Any]], list[type[Any]]]:
    """The classes of ours that it is made of, and those of others."""
    ours = [each for each in cls.__mro__ if each.__module__.startswith("portico.")]
    return ours, [each for each in cls.__mro__ if each not in ours and each is not object]


@pytest.mark.parametrize("where", sorted({*OVERRIDDEN, *USED}))
def test_every_name_is_there(where: str) -> None:
    there = names(*found(where).__mro__)
    gone = [name for name in f"{OVERRIDDEN.get(where, '')} {USED.get(where, '')}".split() if name not in there]
    assert not gone, f"{release(where)}: {where} has no {', '.join(gone)} any more, which this program relies on"


@pytest.mark.parametrize(("cls", "where"), OURS.items(), ids=lambda each: getattr(each, "__qualname__", ""))
def test_the_lists_are_complete(cls: type[Any], where: str) -> None:
    """They name all that a class of ours overrides, sets or reads of a class of others."""
    ours, others = split(cls)
    assert found(where) in others
    theirs = names(*others)
    overridden = {name for each in ours for name, value in vars(each).items() if inspect.isfunction(value)} & theirs
    assert overridden - {"__class_getitem__"} <= set(OVERRIDDEN[where].split())
    touched = {name for each in ours for name in own(each, ast.Store) | own(each, ast.Load)}
    made_here = names(*ours) - theirs
    listed = {*OVERRIDDEN[where].split(), *USED[where].split()}
    assert touched - made_here - set(dir(object)) <= listed


@pytest.mark.parametrize(("cls", "where"), OURS.items(), ids=lambda each: getattr(each, "__qualname__", ""))
def test_what_is_overridden_is_called_as_before(cls: type[Any], where: str) -> None:
    base = found(where)
    for name in OVERRIDDEN[where].split():
        ours, theirs = getattr(cls, name, None), getattr(base, name, None)
        if name != "__init__" and ours is not theirs and callable(ours) and callable(theirs):
            parameters = [list(inspect.signature(each).parameters) for each in (ours, theirs)]
            assert parameters[0] == parameters[1], f"{release(where)}: the parameters of {where}.{name} have changed"


def test_every_option_that_uvicorn_is_given_is_known() -> None:
    known = set(inspect.signature(found("uvicorn.config:Config")).parameters)
    given: set[str] = set()
    for module in (
        portico.http1.embedded,
        portico.gateway.model_gateway,
        inspect.getmodule(_Server),
        inspect.getmodule(DemoServer),
    ):
        assert module is not None
        for node in ast.walk(ast.parse(inspect.getsource(module))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("uvicorn.Config", "embedded"):
                given |= {keyword.arg for keyword in node.keywords if keyword.arg is not None}
    assert len(given) > 10
    assert given <= known, f"{release('uvicorn')}: uvicorn.Config knows no {', '.join(given - known)} any more"


def test_what_is_overridden_has_a_ceiling() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = {requirement.name: requirement for requirement in map(Requirement, project["dependencies"])}
    for package in ("uvicorn", "websockets"):
        assert re.search("<[0-9]", str(wanted[package].specifier)), f"{package} has no ceiling"
        assert wanted[package].specifier.contains(version(package))
