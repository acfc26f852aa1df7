"""Plans: which form carries out a program, and with which sizes."""

from scandsl.plan.plan import Plan, PlanError, make_plan

__all__ = ["Plan", "PlanError", "make_plan"]
