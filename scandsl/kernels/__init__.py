"""Tile programs: what one chunk of tokens does, its adjoint, and its cut into kernels."""
