"""The listener process: loads an identity, binds services, and hands accepted connections over to the server.

A program of its own, which imports nothing of Portico but what is in here and in `portico.ziti`. Who starts it gives it
one end of a socket pair (`control`), and says there what it is to do (`Task`).
"""
