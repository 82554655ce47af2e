"""Preset ``auto``: n-grams of several orders and repetitions, mixed and calibrated as it runs."""
