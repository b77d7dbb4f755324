"""The client half of the command line. It speaks HTTP to a running server; of our rooms it imports only `ziti`."""
