"""The listener process: loads an identity, binds services, and hands accepted connections over to the server.

It is a program of its own, which imports nothing of Portico but this package and `portico.ziti`. Its parent gives it
one end of a socket pair (`control`), and sends its `Task` through it.
"""
