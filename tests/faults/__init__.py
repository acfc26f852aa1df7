"""Planted faults and mutants of the compiler: a check of what checks it."""
