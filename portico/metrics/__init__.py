"""The metrics of a server. This package imports nothing else of ours."""
