"""The client half of the command line. It speaks HTTP to a running server; of ours it imports the room `ziti` only."""
