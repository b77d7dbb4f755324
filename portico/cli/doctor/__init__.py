"""The checks of `portico doctor`: what would stop `portico serve` from working here, and how to fix it."""
