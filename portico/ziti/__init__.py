"""OpenZiti's library, kept at arm's length: it is loaded only in children of ours. Imports nothing else of ours."""
