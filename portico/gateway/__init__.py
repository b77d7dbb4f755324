"""The gateway to the model API. Agents go through it, so that none of them ever holds the server's credential."""
