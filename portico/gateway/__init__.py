"""The gateway: agents reach the model API through it, so that none of them ever holds the server's credential."""
