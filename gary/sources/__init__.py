"""Fetching audio from outside: the only code that reaches the outside network, and only in a process of its own."""
