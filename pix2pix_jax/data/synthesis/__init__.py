"""Scenes drawn by code: `draw(seed, index, size)` of each module returns one example as a dict of arrays."""
