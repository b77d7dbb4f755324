"""Time limits for the library, in seconds. When all is well, it takes a tenth of a second."""

LOAD_SECONDS = 15.0
DIAL_SECONDS = 15.0
"""If no router is online, libziti itself gives up after 10."""
ANSWER_SECONDS = 10.0
"""The time for a server that was dialled to answer a probe."""
ENROLL_SECONDS = 30.0
MARGIN = 1.0
"""The extra time for the child to start, and to report that a limit of the library itself has passed."""
