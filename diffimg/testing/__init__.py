"""Checks for operators, energies and solvers: those that the project's own tests run over every registered one. Use them on yours."""

from diffimg.testing.energies import check_energy
from diffimg.testing.operators import (
    PLATFORMS,
    OperatorReport,
    check_lowering,
    check_operator,
    dot_test,
    gradient_error,
    random_like,
    relative_error,
)
from diffimg.testing.solvers import check_solver

__all__ = [
    "PLATFORMS",
    "OperatorReport",
    "check_energy",
    "check_lowering",
    "check_operator",
    "check_solver",
    "dot_test",
    "gradient_error",
    "random_like",
    "relative_error",
]
