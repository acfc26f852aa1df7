"""Plans: which form carries out a program, and with which sizes."""

from scandsl.plan.plan import CHUNK, Plan, PlanError, make_plan

__all__ = ["CHUNK", "Plan", "PlanError", "make_plan"]
