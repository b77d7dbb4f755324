"""``portico ziti``: prepares a Ziti network for a server, and for the clients that dial it."""
