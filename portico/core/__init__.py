"""The session engine. It knows no network, no plugin manager and no settings, and imports nothing else of ours."""
