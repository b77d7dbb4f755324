"""The scripted model, which the `claude` CLI can be given in place of the API: see `portico.plugins.demo.model`."""

from portico.plugins.demo.model_server import ServedModel, serve_model

__all__ = ["ServedModel", "serve_model"]
