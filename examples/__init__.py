"""Sounds of known tempo, made by rule: for the demo and for the tests."""
