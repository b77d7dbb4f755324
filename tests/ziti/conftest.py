"""The Ziti network that the tests of this folder use."""

from tests.support.typed import home as home
from tests.support.typed import typed as typed
from tests.ziti.network import network as network
from tests.ziti.network import ziti_network as ziti_network
