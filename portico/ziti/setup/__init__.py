"""``portico ziti``: what has to be done on a Ziti network before a server can be on it, and for those who dial it."""
