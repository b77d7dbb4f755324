"""What the transport ``ziti`` and the clients have in common: OpenZiti's library, kept at arm's length.

It is loaded only in children of ours. What these import (`control`, `library`, `descriptors`, `limits`) needs nothing
but the standard library, so that they start fast. Imports nothing else of ours.
"""
