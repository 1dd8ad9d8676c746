"""Constraints: hard languages that an output must belong to, compiled to masks of tokens.

`compiler.ConstraintCompiler` turns a `Constraint` into a `Program`; `slots.ConstraintSlots` holds
the states of a running batch.
"""

from bosal_decoding.constraints.constraint import BACKENDS, KINDS, Constraint, read_constraint

__all__ = ["BACKENDS", "KINDS", "Constraint", "read_constraint"]
