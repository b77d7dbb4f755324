"""Speed and size, as ratios to something bare in the same run: `python -m benchmarks` (or `make bench`)."""
