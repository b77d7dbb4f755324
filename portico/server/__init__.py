"""The server: putting the parts together, starting and stopping them."""
