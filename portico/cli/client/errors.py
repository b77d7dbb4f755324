"""The errors of a client, each with a text that says what to do.

ClientError
├── EndpointError   no server, or no usable address of one
├── Unreachable     nothing answers there, or something that is no Portico server
│   └── Stranger    the latter
├── HistoryLost     events that are needed were deleted on the server
└── ProblemError    the server refuses, as an RFC 9457 problem
"""

from __future__ import annotations


class ClientError(Exception):
    """The base of all errors of this package. Its text is for people."""


class EndpointError(ClientError):
    pass


class Unreachable(ClientError):
    pass


class Stranger(Unreachable):
    pass


class HistoryLost(ClientError):
    pass


class ProblemError(ClientError):
    """A refusal: ``status`` is HTTP's, ``code`` is the API's stable one, ``detail`` is the server's text for people."""

    def __init__(self, status: int, code: str, detail: str) -> None:
        super().__init__(f"{detail} ({code})" if detail else f"the server answered {status} ({code})")
        self.status = status
        self.code = code
        self.detail = detail
