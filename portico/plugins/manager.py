"""Finding plugins and asking each what it offers. A plugin that fails is left out, and the reason is kept."""

from __future__ import annotations

import difflib
import importlib
import inspect
import re
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import pluggy

from portico.plugins import hookspecs
from portico.plugins.registry import KINDS, PluginError, Registry

__all__ = ["BUILT_INS", "DISTRIBUTION", "GROUP", "Plugin", "PluginError", "Plugins", "load_plugins"]

DISTRIBUTION = "portico-server"
"""The name of Portico in pip: `portico` belongs to another project."""

GROUP = "portico"
"""The group of entry points in which plugins are found, and the name of the pluggy project."""

BUILT_INS: Mapping[str, str] = {
    "http": "portico.transports",
    "ziti": "portico.ziti.transport",
    "claude-code": "portico.plugins.claude_code",
    "echo": "portico.plugins.echo",
    "memory-store": "portico.plugins.memory_store",
    "metrics": "portico.plugins.metrics",
    "sqlite-store": "portico.plugins.sqlite_store",
    "token-auth": "portico.plugins.token_auth",
    "jwt-auth": "portico.plugins.jwt_auth",
}
"""Names and modules of the built-in plugins. Importing them is cheap; their factories import the rest."""

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9._-]{0,63}")
_PREFIX = re.compile(r"[a-z][a-z0-9_]{0,31}")


@dataclass(slots=True)
class Plugin:
    """A plugin that was found: ``source`` is its distribution or other origin; ``offers`` are names by kind.

    ``failure`` says why it is left out; ``disabled`` means that the operator asked for that.
    """

    name: str
    module: str
    source: str
    version: str | None = None
    offers: dict[str, tuple[str, ...]] = field(default_factory=dict)
    failure: str | None = None
    disabled: bool = False
    requires: tuple[str, ...] = ()


@dataclass(slots=True)
class Plugins:
    """All plugins that were found, and the offers of those that work."""

    found: list[Plugin]
    registry: Registry

    @property
    def complete(self) -> bool:
        """Tell whether no plugin is left out, so that a setting that is not known belongs to no plugin."""
        return not any(plugin.failure or plugin.disabled for plugin in self.found)


class _PluginRefused(Exception):
    """The reason why a plugin cannot be used, in words."""


def load_plugins(
    modules: Sequence[str] = (),
    disabled: Collection[str] = (),
    *,
    folder: Path | None = None,
    reserved: Mapping[str, Collection[str]] | None = None,
) -> Plugins:
    """Load the built-ins, the installed plugins (entry points of the group ``portico``), and ``modules``, in this
    order.

    ``folder`` is searched for modules in addition to the usual folders. ``reserved`` are names, by kind, that no plugin
    may offer. Raises `PluginError` if ``disabled`` names a plugin that does not exist.
    """
    found = [*_built_in(), *_installed(), *(Plugin(name, name, "setting plugins") for name in modules)]
    names = {plugin.name for plugin in found}
    if unknown := sorted(set(disabled) - names):
        raise PluginError(f"there is no plugin {unknown[0]!r}; there are: {', '.join(sorted(names))}")
    if folder is not None and modules and str(folder) not in sys.path:
        sys.path.append(str(folder))
    loader = _Loader(reserved or {})
    for plugin in found:
        plugin.disabled = plugin.name in disabled
        if not plugin.disabled:
            loader.load(plugin)
    return Plugins(found, loader.registry)


def _built_in() -> Iterator[Plugin]:
    from portico import __version__

    for name, module in BUILT_INS.items():
        yield Plugin(name, module, DISTRIBUTION, __version__)


def _installed() -> Iterator[Plugin]:
    for point in sorted(set(metadata.entry_points(group=GROUP)), key=lambda point: (point.name, point.value)):
        dist = point.dist
        yield Plugin(
            point.name,
            point.value,
            dist.name if dist else "an entry point",
            dist.version if dist else None,
            requires=tuple(dist.requires or ()) if dist else (),
        )


class _Loader:
    def __init__(self, reserved: Mapping[str, Collection[str]]) -> None:
        self.registry = Registry()
        self._reserved = reserved
        self._origin: dict[tuple[str, str], str] = {}
        self._manager = pluggy.PluginManager(GROUP)
        self._manager.add_hookspecs(hookspecs)

    def load(self, plugin: Plugin) -> None:
        try:
            offers = self._offers(plugin)
        except _PluginRefused as refusal:
            self._fail(plugin, str(refusal))
            return
        except (Exception, SystemExit) as error:  # a foreign module may raise anything while it is imported
            self._fail(plugin, f"{type(error).__name__}: {error}")
            return
        for hook, by_name in offers.items():
            self.registry.add(hook, by_name)
            self._origin.update({(hook, name): plugin.name for name in by_name})
        plugin.offers = {KINDS[hook]: tuple(sorted(by_name)) for hook, by_name in offers.items()}

    def _fail(self, plugin: Plugin, reason: str) -> None:
        plugin.failure = self.registry.failures[plugin.name] = " ".join(reason.split())
        if self._manager.has_plugin(plugin.name):
            self._manager.unregister(name=plugin.name)

    def _offers(self, plugin: Plugin) -> dict[str, dict[str, Any]]:
        _check_requirements(plugin.requires)
        thing = _imported(plugin.module)
        if (wanted := getattr(thing, "portico_requires", None)) is not None:
            _check_requirements([f"{DISTRIBUTION} {wanted}"])
        if self._manager.has_plugin(plugin.name):
            raise _PluginRefused(f"there is another plugin {plugin.name!r}")
        if (other := self._manager.get_name(thing)) is not None:
            raise _PluginRefused(f"it is loaded already, as the plugin {other}")
        if self._manager.register(thing, plugin.name) is None:
            raise _PluginRefused("it is blocked")
        callers = self._manager.get_hookcallers(thing) or []
        for caller in callers:
            _check_hook(thing, caller)
        if not callers:
            raise _PluginRefused("it implements no hook of Portico: are its functions marked with portico.hookimpl?")
        offers: dict[str, dict[str, Any]] = {}
        for caller in callers:
            for implementation in caller.get_hookimpls():
                if implementation.plugin is thing:
                    offers[caller.name] = self._checked(caller.name, implementation.function)
        return offers

    def _checked(self, hook: str, function: Callable[..., object]) -> dict[str, Any]:
        kind = KINDS[hook]
        offered = function()
        if not isinstance(offered, Mapping):
            raise _PluginRefused(f"{hook} must return a mapping of names, not {type(offered).__name__}")
        for name, value in offered.items():
            form = _PREFIX if kind == "settings" else _NAME
            if not isinstance(name, str) or not form.fullmatch(name):
                raise _PluginRefused(f"{hook}: {name!r} is no name of the form {form.pattern}")
            if kind == "command" and not hasattr(value, "make_context"):
                raise _PluginRefused(f"{hook}: {name!r} is not a click command but {type(value).__name__}")
            if kind != "command" and not callable(value):
                raise _PluginRefused(f"{hook}: {name!r} is not a factory but {type(value).__name__}")
            if (owner := self._origin.get((hook, name))) is not None:
                raise _PluginRefused(f"{kind} {name!r} is registered by the plugin {owner} already")
            if name in self._reserved.get(kind, ()):
                raise _PluginRefused(f"{kind} {name!r} is Portico's own")
            if kind == "settings":
                self._check_settings(name, value)
        return dict(offered)

    def _check_settings(self, prefix: str, model: Any) -> None:
        fields = getattr(model, "model_fields", None)
        if not isinstance(fields, Mapping):
            raise _PluginRefused(f"portico_settings: {prefix!r} is not a pydantic model")
        taken = set(self._reserved.get("setting", ()))
        for other, offered in self.registry.settings.items():
            taken |= {f"{other}_{name}" for name in offered.model_fields}
        if clash := sorted(taken & {f"{prefix}_{name}" for name in fields}):
            raise _PluginRefused(f"there is a setting {clash[0]} already")


def _imported(value: str) -> Any:
    """Return a module, or the object that an entry point's ``module:attribute`` names."""
    module, _, attributes = value.partition(":")
    thing: Any = importlib.import_module(module.strip())
    for attribute in filter(None, attributes.strip().split(".")):
        thing = getattr(thing, attribute)
    return thing


def _check_requirements(requirements: Sequence[str]) -> None:
    if not any(re.match(r"portico[-_.]+server\b", requirement, re.IGNORECASE) for requirement in requirements):
        return  # so that nothing is imported for it
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    from portico import __version__

    for text in requirements:
        requirement = Requirement(text)
        if canonicalize_name(requirement.name) != DISTRIBUTION or (
            requirement.marker and not requirement.marker.evaluate()
        ):
            continue
        if not requirement.specifier.contains(__version__, prereleases=True):
            raise _PluginRefused(
                f"it needs {DISTRIBUTION} {requirement.specifier}, and this is {DISTRIBUTION} {__version__}"
            )


def _check_hook(plugin: object, caller: pluggy.HookCaller) -> None:
    if not caller.has_spec():
        near = difflib.get_close_matches(caller.name, KINDS, n=1)
        hint = f", did you mean {near[0]}?" if near else f"; there are: {', '.join(KINDS)}"
        raise _PluginRefused(f"there is no hook {caller.name}{hint}")
    for implementation in caller.get_hookimpls():
        if implementation.plugin is not plugin:
            continue
        if implementation.hookwrapper or implementation.wrapper:
            raise _PluginRefused(f"{caller.name} must not be a wrapper")
        function = implementation.function
        if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
            raise _PluginRefused(f"{caller.name} is async; hooks are called without await, and return their factories")
