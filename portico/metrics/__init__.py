"""What a server counts of itself. Imports nothing else of ours."""
