"""The places of a server in tests: alone, or mounted in another app. The guards must hold in both."""

import pytest

from tests.support.mounted import MOUNTED

PLACES = pytest.mark.parametrize("place", [{}, MOUNTED], ids=["alone", "mounted"], scope="module")
"""``place`` are settings for `running_server`."""
