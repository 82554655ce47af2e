"""Recorded answers replayed against ways of drafting, modelled or really decoded."""
