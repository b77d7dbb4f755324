"""Where a server of a test is: alone, or mounted in another app. What keeps strangers out must hold in both places."""

import pytest

from tests.support.mounted import MOUNTED

PLACES = pytest.mark.parametrize("place", [{}, MOUNTED], ids=["alone", "mounted"])
"""``place`` are settings for `running_server`."""
