"""Preset ``paper``: ADED as published (arXiv 2407.12021)."""
