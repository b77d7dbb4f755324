"""The marker that makes a function a hook implementation. Outsiders import it from `portico`."""

import pluggy

hookimpl = pluggy.HookimplMarker("portico")
