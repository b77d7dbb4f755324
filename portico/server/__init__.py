"""The server: puts the parts together, starts and stops them."""
