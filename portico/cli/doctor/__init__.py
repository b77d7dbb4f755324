"""What `portico doctor` looks at: what would stop `portico serve` from working here, and how to mend it."""
