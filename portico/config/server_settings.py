"""Settings of the server itself: what it loads, what it keeps, and what it logs."""

from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from . import values
from .fields import AbsolutePath, Name, SettingsGroup, made_of, number, one_of, setting

StoreSync = Literal["normal", "full"]
LogLevel = Literal["debug", "info", "warning", "error"]
LogFormat = Literal["text", "json"]


class ServerSettings(SettingsGroup):
    """Settings of the server itself: what it loads, what it keeps, and what it logs."""

    data_dir: AbsolutePath = setting(
        "Workspaces, agents' state and the made token, mode 0700. Default: the platform's user data folder.",
        "a folder's path",
        path=True,
    )
    workspace_roots: Annotated[
        tuple[AbsolutePath, ...],
        BeforeValidator(values.split),
        AfterValidator(values.distinct),
        Field(min_length=1),
    ] = setting(
        "Folders that a session's `cwd` must lie in. The first one also holds the workspaces that the server makes, in "
        "`.portico-workspaces`. Default: `workspaces` in `data_dir`.",
        "absolute folders, comma-separated",
        default_factory=made_of(lambda known: (known["data_dir"] / "workspaces",)),
    )
    store: Name = setting(
        "Where events are kept: `sqlite`, a file in `data_dir`, or `memory`, which keeps nothing over a restart.",
        "a store's name",
        "sqlite",
    )
    store_sync: StoreSync = one_of(
        "How the store writes: `normal` survives the end of the process, `full` also a loss of power, and is slower.",
        StoreSync,
        "normal",
    )
    retention_days: float | None = number(
        "Days; history that ended longer ago is deleted. Default: none is.", None, "days", 36_500
    )
    retention_mb: float | None = number(
        "Megabytes that the history may take in the store; the oldest beyond that is deleted. Default: any number.",
        None,
        "megabytes",
        1_000_000_000,
    )
    plugins: Annotated[
        tuple[Annotated[str, Field(pattern=r"^[A-Za-z_][\w.]*(:[A-Za-z_][\w.]*)?$", max_length=256)], ...],
        BeforeValidator(values.split),
        AfterValidator(values.distinct),
    ] = setting(
        "Python modules that are plugins, to load beside those that are installed; the working directory is looked "
        "through too. One that can't be loaded is left out, and the log and `portico plugins` say why.",
        "module names such as my_package.my_plugin, comma-separated",
        (),
    )
    disabled_plugins: Annotated[tuple[Name, ...], BeforeValidator(values.split), AfterValidator(values.distinct)] = (
        setting("Plugins not to load.", "names that `portico plugins` lists, comma-separated", ())
    )
    audit_log: Annotated[AbsolutePath | None, BeforeValidator(values.path_or_off)] = setting(
        "File for the audit log: a JSON line for each thing that a caller changes or is refused, without content; mode "
        "0600. Default: `audit.jsonl` in `data_dir`.",
        "a path, or off",
        default_factory=made_of(lambda known: known["data_dir"] / "audit.jsonl"),
        path=True,
        no_path="off",
    )
    log_level: LogLevel = one_of("Least level that is logged.", LogLevel, "info")
    log_format: LogFormat = one_of("Form of a log line.", LogFormat, "text")
