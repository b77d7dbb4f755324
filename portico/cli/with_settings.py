"""Commands that take the settings as options, and what they load with them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Coroutine, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import anyio
import click

from portico.cli.exit_status import STOPPED
from portico.config.load import Loaded, SettingsError, data_dir, here, load, plugin_choice, secret_options
from portico.config.origins import option
from portico.config.settings import Settings, accepts
from portico.plugins.manager import Plugins, load_plugins
from portico.plugins.registry import PluginError, Registry
from portico.server.hardening import blank_arguments


class WithSettings(click.Command):
    """A command with one option for each setting, those of plugins too; the values arrive unchecked, as ``options``."""

    def parse_args(self, context: click.Context, args: list[str]) -> list[str]:
        blank_arguments(secret_options())  # ``args`` is a copy
        early = {name: _early(args, option(name)) for name in ("plugins", "disabled_plugins")}
        context.obj = find_plugins(early, own_commands(context))
        if isinstance(context.obj, Plugins):
            blank_arguments(secret_options(context.obj.registry.settings))
        return super().parse_args(context, args)

    def get_params(self, context: click.Context) -> list[click.Parameter]:
        registry = context.obj.registry if isinstance(context.obj, Plugins) else Registry()
        texts = {name: f"{field.description} [{accepts(name)}]" for name, field in Settings.model_fields.items()}
        for prefix, model in registry.settings.items():
            texts |= {f"{prefix}_{name}": field.description or "" for name, field in model.model_fields.items()}
        options = [click.Option([option(name), name], metavar="VALUE", help=text) for name, text in texts.items()]
        return [*options, *super().get_params(context)]


def _early(args: Sequence[str], name: str) -> str | None:
    """Return the value of an option that is needed before all options are known."""
    values = [value for before, value in pairwise(args) if before == name]
    values += [arg.partition("=")[2] for arg in args if arg.startswith(f"{name}=")]
    return values[-1] if values else None


def own_commands(context: click.Context) -> Collection[str]:
    """Return the names of the commands that are not plugins'."""
    root = context.find_root().command
    return root.commands if isinstance(root, click.Group) else ()


def find_plugins(options: Mapping[str, Any], commands: Collection[str]) -> Plugins:
    """Load the plugins that the settings choose. ``commands`` are our own, whose names are taken."""
    environ, folder = here()
    modules, disabled = plugin_choice(options, environ, folder)
    reserved = {"setting": set(Settings.model_fields), "command": set(commands)}
    try:
        return load_plugins(modules, disabled, folder=folder, reserved=reserved)
    except PluginError as error:
        raise SettingsError([f"disabled_plugins: {error}"]) from None


def load_settings(plugins: Plugins, options: Mapping[str, Any], **defaults: Any) -> Loaded:
    """Load the settings that the options of a command and this process's environment give, else ``defaults``."""
    environ, folder = here()
    known = plugins.registry.settings
    return load(options, environ, folder, plugins=known, lenient=not plugins.complete, defaults=defaults)


def data_folder(given: str | None) -> Path | None:
    """Return the data folder that an option names, or else the settings; None for a user without a home folder."""
    return data_dir({"data_dir": given}, *here())


def run_async(function: Callable[[], Coroutine[Any, Any, int | None]]) -> int | None:
    """Run a command's coroutine, and return its exit status."""
    try:
        return anyio.run(function, backend_options={"use_uvloop": sys.platform != "win32"})
    except KeyboardInterrupt:
        return STOPPED
