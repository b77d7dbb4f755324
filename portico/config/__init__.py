"""The settings: what they are (`settings`, `values`), and where they come from (`load`)."""
