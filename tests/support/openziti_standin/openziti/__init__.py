"""A stand-in for the package ``openziti``, for tests: what is known of it from outside, on a network that is none.

``ZITI_STANDIN_SHAPE`` says as which one it behaves: "0.6" (0.6.0) or "1.x" (1.7.1, on libziti 1.18.0). Modules and
names are the real one's, those that begin with an underscore too, as far as somebody may use them to bind, accept and
dial. ``ZITI_STANDIN_NETWORK`` names the folder of the network, see `tests.support.ziti`.
"""

from . import context, zitilib, zitisock

__version__ = "0.6.0" if zitilib.EARLY else "1.7.1"

enroll = zitilib.enroll
version = zitilib.version
shutdown = zitilib.shutdown
load = context.load_early if zitilib.EARLY else context.load_later
socket = zitisock.ZitiSocket

if not zitilib.EARLY:
    ZitiContext = context.ZitiContext
    strerror = zitilib.errorstr
