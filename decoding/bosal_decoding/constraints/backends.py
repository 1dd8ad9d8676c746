"""What every backend offers: a way to compile a constraint for one vocabulary."""

from typing import Protocol

from bosal_decoding.constraints.constraint import Constraint
from bosal_decoding.constraints.program import Program
from bosal_decoding.constraints.spelling import Spelling


class Compiler(Protocol):
    """Compiles constraints with one library; used by one thread."""

    def compile(self, key: str, constraint: Constraint, spelling: Spelling, lead: str) -> Program:
        """Compile a constraint for texts that stand behind `lead`.

        Raises:
            InvalidConstraint: of the kind that says why not.
        """
        ...

    def close(self) -> None:
        """End the processes it holds."""
        ...
