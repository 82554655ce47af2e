"""End to end on a real model: speed beside peers, and whether the output is the same."""
