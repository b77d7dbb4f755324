"""uvicorn's protocol with a limit on the bytes that a client sends around the bodies of its messages."""

from __future__ import annotations

from abc import abstractmethod

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEAD_BYTES = 64 * 1024
"""The parser, llhttp, has no limit of its own. This one may be exceeded by up to one read (256 KiB)."""
OVERHEAD = 8
"""Bytes allowed beside each byte of a body, apart from the head: a chunk of one byte has five."""


class Measured(HttpToolsProtocol):
    """Calls `too_large` if a message has too many bytes around its body. Drops trailers (RFC 9110, 6.5.1)."""

    in_message = False
    in_head = False
    _chunk = _message_bytes = _body_bytes = 0

    @abstractmethod
    def too_large(self) -> None:
        """End the connection: a message has more than `HEAD_BYTES` around its body."""

    def data_received(self, data: bytes) -> None:
        self._chunk = len(data)
        super().data_received(data)
        if self.in_message:
            self._message_bytes += len(data)
            # The difference is the head, the sizes and extensions of chunks, and trailers.
            if self._message_bytes - self._body_bytes > HEAD_BYTES + OVERHEAD * self._body_bytes:
                self.too_large()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.in_message = self.in_head = True
        self._message_bytes = -self._chunk  # bytes of the same read may belong to the previous message
        self._body_bytes = 0

    def on_header(self, name: bytes, value: bytes) -> None:
        if self.in_head:  # trailers arrive here too, without limit, after the headers have been used
            self.on_head_field(name, value)

    def on_head_field(self, name: bytes, value: bytes) -> None:
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self.in_head = False
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._body_bytes += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        self.in_message = False
        super().on_message_complete()
