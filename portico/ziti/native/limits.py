"""How long the library may take. When all is well, it takes a tenth of a second."""

LOAD_SECONDS = 15.0
DIAL_SECONDS = 15.0
"""Where no router is online, libziti itself gives up after 10."""
ENROLL_SECONDS = 30.0
MARGIN = 1.0
"""For the child to start, and to say that a time limit of the library's own has passed."""
