"""The way to the model API: the proxies and CA files that agents would have used."""

from __future__ import annotations

import datetime
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest
from anyio.abc import SocketAttribute, SocketStream
from anyio.streams.tls import TLSListener, TLSStream
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from portico.core.errors import Unavailable
from portico.gateway.upstream import Upstream
from portico.testing.background import background
from tests.support.gateway import KEY, answering, gate

pytestmark = pytest.mark.anyio

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{}"


@pytest.mark.parametrize(
    ("environment", "proxied"),
    [
        ({}, False),
        ({"HTTPS_PROXY": "PROXY"}, False),
        ({"HTTP_PROXY": "PROXY"}, True),
        ({"all_proxy": "PROXY"}, True),
        ({"http_proxy": "PROXY", "HTTP_PROXY": "http://127.0.0.1:1"}, True),
        ({"http_proxy": "PROXY", "NO_PROXY": "elsewhere.example,model.test"}, False),
        ({"http_proxy": "PROXY", "no_proxy": "*"}, False),
    ],
)
async def test_it_goes_through_the_proxy_that_agent_env_names(
    tmp_path: Path, environment: dict[str, str], proxied: bool
) -> None:
    async with answering(OK) as (address, heard):
        given = {name: value.replace("PROXY", f"http://{address}") for name, value in environment.items()}
        async with gate(tmp_path, "http://model.test:1", environment=given) as through:
            answer = await through.ask({"say": "x"})
    assert answer.status_code == (200 if proxied else 502)
    if proxied:
        assert heard[0].startswith(b"POST http://model.test:1/v1/messages?beta=true HTTP/1.1")
        assert KEY.encode() in heard[0]


@asynccontextmanager
async def tls_model(folder: Path) -> AsyncIterator[tuple[str, Path]]:
    """A model behind TLS, and the file that says it may be trusted."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    public, private = folder / "cert.pem", folder / "key.pem"
    public.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    plain = serialization.NoEncryption()
    private.write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain))
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(public, private)

    async def serve(stream: SocketStream | TLSStream) -> None:
        async with stream:
            await stream.receive()
            await stream.send(OK)

    async def refused(error: BaseException, stream: SocketStream) -> None:
        """Of a client that does not trust us."""
        await anyio.aclose_forcefully(stream)

    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    tls = TLSListener(listener, context, standard_compatible=False)
    tls.handle_handshake_error = refused  # type: ignore[method-assign, assignment]
    async with tls, background() as tasks:
        tasks.start_soon(tls.serve, serve)
        yield f"https://localhost:{listener.listeners[0].extra(SocketAttribute.local_port)}", public  # noqa: S610


async def test_it_trusts_the_files_that_agent_env_names_and_nobody_else(tmp_path: Path) -> None:
    async with tls_model(tmp_path) as (url, file):
        for environment, status in (
            ({"NODE_EXTRA_CA_CERTS": str(file)}, 200),
            ({"SSL_CERT_FILE": str(file)}, 200),
            ({}, 502),
        ):
            async with gate(tmp_path, url, environment=environment) as through:
                assert (await through.ask({"say": "x"})).status_code == status, environment


@pytest.mark.parametrize(
    "environment",
    [{"SSL_CERT_FILE": "/nowhere"}, {"NODE_EXTRA_CA_CERTS": "/dev/null"}, {"HTTPS_PROXY": "gopher://x"}],
)
def test_what_can_not_be_used_is_said_at_the_start(environment: dict[str, str]) -> None:
    with pytest.raises(Unavailable, match="agent_env"):
        Upstream(environment=environment).connect()


def test_only_the_api_itself_is_the_api() -> None:
    assert Upstream().is_the_api
    assert not Upstream("https://api.anthropic.com.example").is_the_api
