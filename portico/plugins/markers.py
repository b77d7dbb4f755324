"""The marker that makes a function a hook implementation. Plugins import it from `portico`."""

import pluggy

hookimpl = pluggy.HookimplMarker("portico")
