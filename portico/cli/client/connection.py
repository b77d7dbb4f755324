"""The address of the server, and the token for it."""

from __future__ import annotations

import ipaddress
import json
import os
import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx

from portico.cli.client.errors import EndpointError
from portico.config.load import needed
from portico.ziti.overlay import Overlay

API_PREFIX = "/claude"
NO_SERVER = "no server is running here: start one with `portico serve`, or give --server"

ONLY_ZITI = "the server here is on a Ziti network only: give --ziti-identity and --ziti-service"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A server's address. ``url`` has no path; ``uds`` is the path of a Unix socket to connect to instead of the URL's
    host.

    ``overlay`` is a service on a Ziti network to dial instead. For TLS, ``cafile`` names the authorities to trust
    instead of this machine's; ``pinned`` is the server's own certificate if it is known, which is then trusted whoever
    signed it and for any host name. ``source`` and ``token_source`` say, for people, where the address and the token
    come from.
    """

    url: str
    uds: str | None = None
    api_prefix: str = API_PREFIX
    token: str | None = field(default=None, repr=False)
    source: str = "--server"
    token_source: str | None = None
    overlay: Overlay | None = None
    cafile: Path | None = None
    pinned: Path | None = None

    @property
    def address(self) -> str:
        if self.overlay:
            return f"the Ziti service {self.overlay.service}"
        return f"unix:{self.uds}" if self.uds else self.url

    def trust(self) -> ssl.SSLContext | None:
        """Return what a client must trust as proof of the server's identity; None means this machine's authorities.

        Raises `EndpointError`.
        """
        if not self.url.startswith("https:") or not (file := self.cafile or self.pinned):
            return None
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        if self.cafile is None:
            context.check_hostname = False
            context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        try:
            context.load_verify_locations(file)
        except OSError as error:
            raise EndpointError(f"the certificates in {file} can't be read: {error.strerror or error}") from None
        return context

    @property
    def option(self) -> str:
        """The value of --server that leads here again."""
        return self.address if self.uds or self.api_prefix == API_PREFIX else self.url + self.api_prefix

    @property
    def local(self) -> bool:
        """Tell whether it is on this machine."""
        if self.overlay:
            return False
        host = httpx.URL(self.url).host
        try:
            return self.uds is not None or ipaddress.ip_address(host).is_loopback
        except ValueError:
            return host == "localhost"


def find_endpoint(
    environ: Mapping[str, str],
    data_dir: Path | None,
    *,
    server: str | None = None,
    token: str | None = None,
    overlay: Overlay | None = None,
    cafile: Path | None = None,
) -> Endpoint:
    """Find the server. The address is ``overlay``, else ``server``, else PORTICO_URL, else the one that the running
    server wrote into ``data_dir/server.json``.

    The token is ``token``, else PORTICO_TOKEN, else the one in ``data_dir/token``, which is only for servers on this
    machine. An address is ``http://HOST:PORT``, ``https://...`` or ``unix:/PATH``; a path after the port is the API's
    prefix. ``cafile``, else PORTICO_CAFILE, is for ``https:``. Raises `EndpointError`, and `SettingsError` if the data
    folder is needed and there is none.
    """
    if overlay:
        endpoint = Endpoint(f"http://{_host(overlay.service)}", source="--ziti-service", overlay=overlay)
    elif server:
        endpoint = _parse(server, "--server")
    elif url := environ.get("PORTICO_URL"):
        endpoint = _parse(url, "PORTICO_URL")
    else:
        endpoint = _local(needed(data_dir) / "server.json")
    secret, source = _token(environ, data_dir, token, local=endpoint.local)
    if cafile is None and (named := environ.get("PORTICO_CAFILE")):
        cafile = Path(named)
    return replace(endpoint, token=secret, token_source=source, cafile=cafile)


def explain(error: httpx.RequestError, endpoint: Endpoint) -> str:
    """Say in words why a request to ``endpoint`` got no answer."""
    where, cause = endpoint.address, _root(error)
    if endpoint.overlay and isinstance(error, httpx.ConnectError):
        return f"can't reach {where}: {error}"
    if isinstance(cause, ssl.SSLCertVerificationError):
        reason = cause.verify_message.rstrip(".")
        fix = "use a name that it holds" if "mismatch" in reason else "--cafile names whom to trust"
        return f"{where} can't prove who it is: {reason}; {fix}"
    if isinstance(cause, ssl.SSLError):
        return f"{where} does not speak TLS properly ({cause.reason or cause}): is it an http:// address?"
    if isinstance(error, httpx.ConnectTimeout):
        return f"{where} does not answer"
    if isinstance(error, httpx.ReadTimeout):
        return f"{where} has gone silent"
    if isinstance(error, httpx.ConnectError):
        number = cause.errno if isinstance(cause, OSError) else None
        reason = os.strerror(number) if number and number > 0 else str(cause)  # a failed look-up has a negative one
        found = f" (the address is from {endpoint.source})"
        return f"can't connect to {where}: {reason}{found}. Is the server running? `portico serve` starts one"
    return f"the connection to {where} broke: {str(error) or type(error).__name__}"


def _parse(text: str, source: str) -> Endpoint:
    text = text.strip()
    if text.startswith("unix:"):
        path = text.removeprefix("unix:").removeprefix("//")
        if not path.startswith("/"):
            raise EndpointError(f"{source}: {text!r} does not name a socket; write unix:/PATH")
        return Endpoint("http://localhost", uds=path, source=source)
    try:
        url = httpx.URL(text)
    except httpx.InvalidURL as error:
        raise EndpointError(f"{source}: {error}") from None
    if url.userinfo:
        raise EndpointError(f"{source}: a token has no place in the address; give it with PORTICO_TOKEN or --token")
    if url.scheme not in ("http", "https") or not url.host or url.query or url.fragment:
        raise EndpointError(f"{source}: {text!r} is not an address; write http://HOST:PORT, https://HOST or unix:/PATH")
    return Endpoint(str(url.copy_with(path="/")).rstrip("/"), None, url.path.rstrip("/") or API_PREFIX, source=source)


def _host(service: str) -> str:
    """Return the service's name for the Host header, which the server accepts, or else "localhost" if it can't be
    there.
    """
    return service if re.fullmatch(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*", service) else "localhost"


def _local(path: Path) -> Endpoint:
    try:
        entry: Any = json.loads(path.read_bytes())
        if str(entry["url"]).startswith("ziti:"):
            raise EndpointError(f"{ONLY_ZITI} ({entry['url']})")
        found = _parse(str(entry["url"]), str(path))
        mount = "" if found.uds else httpx.URL(str(entry["url"])).path.rstrip("/")
        prefix, pid = mount + str(entry["api_prefix"]), int(entry["pid"])
        pinned = Path(entry["tls_cert"]) if "tls_cert" in entry else None
    except FileNotFoundError:
        raise EndpointError(NO_SERVER) from None
    except OSError as error:
        raise EndpointError(f"{path} can't be read: {error.strerror}; give --server") from None
    except (ValueError, KeyError, TypeError):
        raise EndpointError(f"{path} is damaged; restart the server, or give --server") from None
    if not _alive(pid):
        raise EndpointError(f"{NO_SERVER} (the last one, process {pid}, did not shut down cleanly)")
    return Endpoint(found.url, found.uds, prefix, source=str(path), pinned=pinned)


def _token(
    environ: Mapping[str, str], data_dir: Path | None, token: str | None, *, local: bool
) -> tuple[str | None, str | None]:
    if token:
        return _checked(token, "--token"), "--token"
    if secret := environ.get("PORTICO_TOKEN"):
        return _checked(secret, "PORTICO_TOKEN"), "PORTICO_TOKEN"
    if not local or data_dir is None:  # a remote server must not get this machine's secret
        return None, None
    path = data_dir / "token"
    try:
        return _checked(path.read_text(), str(path)), str(path)
    except FileNotFoundError:
        return None, None
    except (OSError, UnicodeError) as error:
        raise EndpointError(f"{path} can't be read: {error}; give --token") from None


def _checked(token: str, source: str) -> str:
    token = token.strip()
    if not (token and token.isascii() and token.isprintable()) or " " in token:
        raise EndpointError(f"{source} does not hold a token: one is printable ASCII without blanks")
    return token


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)  # signal 0 only checks
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass
    return pid > 0


def _root(error: BaseException) -> BaseException:
    while inner := error.__cause__ or error.__context__:
        error = inner.exceptions[0] if isinstance(inner, BaseExceptionGroup) else inner
    return error
