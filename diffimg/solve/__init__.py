"""Problems, solvers, the driver ``run``, the gradient rules, and the choice of the weight (``tuning``)."""

from diffimg.solve import tuning
from diffimg.solve.algebraic import CGLS, SART, SIRT
from diffimg.solve.descent import ConjugateGradient, GradientDescent
from diffimg.solve.em import MLEM, OSEM
from diffimg.solve.gradients import Checkpoint, GradientRule, Implicit, JacobianFree, Truncated, Unroll
from diffimg.solve.levenberg_marquardt import LevenbergMarquardt
from diffimg.solve.problem import Problem
from diffimg.solve.proximal import FISTA, ProximalGradient
from diffimg.solve.quasi_newton import LBFGS, Adam
from diffimg.solve.result import Result, Status
from diffimg.solve.run import run
from diffimg.solve.solver import Solver
from diffimg.solve.splitting import ADMM, HalfQuadraticSplitting, PrimalDual
from diffimg.solve.surrogates import SQS

__all__ = [
    "ADMM",
    "CGLS",
    "FISTA",
    "LBFGS",
    "MLEM",
    "OSEM",
    "SART",
    "SIRT",
    "SQS",
    "Adam",
    "Checkpoint",
    "ConjugateGradient",
    "GradientDescent",
    "GradientRule",
    "HalfQuadraticSplitting",
    "Implicit",
    "JacobianFree",
    "LevenbergMarquardt",
    "PrimalDual",
    "Problem",
    "ProximalGradient",
    "Result",
    "Solver",
    "Status",
    "Truncated",
    "Unroll",
    "run",
    "tuning",
]
