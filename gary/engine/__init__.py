"""The engine: (prompt, description, parameters, seed) in, audio out.

Shapes are written in one alphabet: B batch rows, K codebooks, T frames, S sequence steps,
C channels, N samples, D width, L layers.
"""
