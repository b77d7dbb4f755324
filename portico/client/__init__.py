"""The client half of the command line. It speaks HTTP to a running server, and imports nothing else of ours."""
