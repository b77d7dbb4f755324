"""The demo: a scripted model that answers in place of the real API."""
