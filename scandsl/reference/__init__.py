"""The reference interpreter: the naive loop that judges everything else."""

from scandsl.reference.interpret import Interpretation, interpret

__all__ = ["Interpretation", "interpret"]
