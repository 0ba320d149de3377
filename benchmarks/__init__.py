"""Measurements, side by side in one run; each ends with one JSON line."""
