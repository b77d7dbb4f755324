"""The code shared by the transport ``ziti`` and the clients: OpenZiti's library, kept at arm's length.

The library is loaded only in child processes. The modules that these import (`control`, `library`, `descriptors`,
`limits`) need nothing but the standard library, so that the children start fast. Imports nothing else of ours.
"""
