"""Writes `report.html`: the settings, metrics and results of a run in one self-contained file."""
