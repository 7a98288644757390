"""Gradients through solvers: exactness, the bias of the cheap rules, and memory and time beside unrolling."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.harness import Table, alternate, compiled, difference
from diffimg import energy, forward, learn, solve
from diffimg.energy.ridge import constrained_ridge, ridge_parameters

NOTES = (
    "Exactness in float64, a blurred 12 × 12 image: relative error of the implicit gradient in all parameters (filters, potential, λ) "
    "against central differences along it, and against a long unroll. The assumptions: a converged run, a map that is differentiable at "
    "the solution (no response or dual exactly at a kink), a unique minimiser. Biased rules: error, cosine and norm against the exact "
    "gradient. Memory: temporary bytes of the compiled gradient, float32, 2 images of 32 × 32, 48 filters of 7 × 7."
)


def run(quick: bool = False) -> Table:
    """The table."""
    table = Table("hypergradient", "Gradients of a reconstruction in the parameters of its prior", NOTES)
    with jax.enable_x64(True):
        _exactness(table, ("FISTA, ridge", "ADMM, TV") if quick else tuple(CASES))
        _bias(table, (1, 8) if quick else (1, 2, 4, 8, 16, 32))
    _memory(table, (50,) if quick else (50, 200), 16 if quick else 32)
    return table


def _scene(n=12):
    rng = np.random.default_rng(3)
    truth = np.zeros((n, n))
    truth[3:8, 2:9] = 1.0
    blur = forward.Blur(np.outer([0.25, 0.5, 0.25], [0.25, 0.5, 0.25]), (n, n), "periodic")
    y = np.asarray(blur(truth)) + 0.05 * rng.normal(size=(n, n))
    return truth, blur, y


def _ridge(data, params):
    return solve.Problem(smooth=data + constrained_ridge(params, 0.2) + energy.SquaredL2(0.2))


def _field(data, params):
    scale, weights = jnp.exp(params["log_scales"][0]), jnp.exp(params["log_weight"] + params["log_scales"])
    return solve.Problem(smooth=data + energy.FieldsOfExperts(params["filters"], weights, scale, "charbonnier"))


def _split(data, params):
    gradient = forward.Gradient((12, 12), dtype="float64")
    return solve.Problem(smooth=data, composed=((energy.GroupL1(jnp.exp(params), axis=0), gradient),))


def _proximable(energy_of):
    return lambda data, params: solve.Problem(smooth=data, proximable=energy_of(jnp.exp(params)))


def _wavelet(weight):
    return energy.WaveletL1(weight, forward.Wavelet((12, 12), "haar", 1, dtype="float64"))


def _learned():
    rng = np.random.default_rng(4)  # of the cosines alone, several frequencies are the largest: a norm without derivative
    return jax.tree.map(lambda v: v + 0.05 * rng.normal(size=v.shape), ridge_parameters(3, scale=0.2))


WEIGHT = np.log(0.02)
TOTAL_VARIATION = _proximable(lambda w: energy.TotalVariation(w, gap=0.0, max_steps=60))
CG, GMRES = (solve.Implicit(name, tolerance=1e-10, max_steps=2000, restart=100) for name in ("cg", "gmres"))
CASES = {
    "PGM, ridge": (solve.ProximalGradient(), _ridge, _learned(), CG),
    "FISTA, ridge": (solve.FISTA(), _ridge, _learned(), CG),
    "FISTA, field of experts": (solve.FISTA(), _field, _learned(), CG),
    "PGM, wavelet L1": (solve.ProximalGradient(), _proximable(_wavelet), WEIGHT, GMRES),
    "HQS, wavelet L1": (solve.HalfQuadraticSplitting(coupling=1.0), _proximable(_wavelet), WEIGHT, GMRES),
    "FISTA, TV": (solve.FISTA(), TOTAL_VARIATION, WEIGHT, GMRES),
    "ADMM, TV": (solve.ADMM(penalty=0.2, inner_steps=100, inner_tolerance=1e-13), _split, WEIGHT, GMRES),
    "PDHG, TV": (solve.PrimalDual(balance=0.3), _split, WEIGHT, GMRES),
}


def _problem(build, solver, rule, steps=20000, tolerance=1e-13):
    truth, blur, y = _scene()
    lower = lambda params, batch: (build(energy.LeastSquares(blur, y, tolerance=1e-14), params), jnp.zeros_like(truth))  # noqa: E731
    return learn.Bilevel(lower, solver=solver, steps=steps, tolerance=tolerance, gradient=rule), {"truth": truth}


def _exactness(table, names):
    for name in names:
        solver, build, params, rule = CASES[name]
        problem, batch = _problem(build, solver, rule)
        _, gradient, report = jax.jit(problem.hypergradient)(params, batch)
        size = np.sqrt(sum(float(jnp.vdot(v, v)) for v in jax.tree.leaves(gradient)))
        along = jax.tree.map(lambda v, s=size: v / s, gradient)
        loss = jax.jit(lambda p, problem=problem, batch=batch: problem(p, batch)[0])
        finite = _derivative(loss, params, along)
        iterations = int(report["lower_iterations"])
        note = f"{iterations} iterations, adjoint residual {float(report['adjoint_residual']):.0e}"
        table.quantity(f"{name}: finite differences", "bound 1e-6", abs(size - finite) / abs(finite), 1e-6, note)
        long, _ = _problem(build, solver, solve.Checkpoint(), 3 * iterations + 50, 0.0)
        unrolled = jax.jit(jax.grad(lambda p, long=long, batch=batch: long(p, batch)[0]))(params)
        error = difference(_flat(gradient), _flat(unrolled))
        table.quantity(f"{name}: long unroll", "bound 1e-6", error, 1e-6, f"{3 * iterations + 50} steps")


def _derivative(loss, params, along, h=1e-4):
    """By central differences of fourth order, so that the step can be large against the solver's tolerance."""
    at = [float(loss(jax.tree.map(lambda v, d, k=k: v + k * h * d, params, along))) for k in (-2, -1, 1, 2)]
    return (8 * (at[2] - at[1]) - (at[3] - at[0])) / (12 * h)


def _bias(table, lasts):
    solver, build, params, rule = solve.ProximalGradient(), _ridge, _learned(), CG
    problem, batch = _problem(build, solver, rule)
    exact = _flat(jax.jit(problem.hypergradient)(params, batch)[1])
    errors = []
    for last in lasts:
        cut, _ = _problem(build, solver, solve.Truncated(last))
        gradient = _flat(jax.jit(jax.grad(lambda p, cut=cut: cut(p, batch)[0]))(params))
        errors.append(difference(gradient, exact))
        table.quantity(f"truncated to {last}: error", "exact", errors[-1], errors[-1], _compare(gradient, exact))
    slope = (errors[-1] / errors[0]) ** (1 / (lasts[-1] - lasts[0]))
    table.quantity("truncated: error falls by this factor a step", "bound: below 1", slope, 1.0)
    free, _ = _problem(build, solver, solve.JacobianFree())
    gradient = _flat(jax.jit(jax.grad(lambda p: free(p, batch)[0]))(params))
    table.quantity("Jacobian-free: error", "exact", difference(gradient, exact), difference(gradient, exact), _compare(gradient, exact))


def _compare(a, b):
    cosine = float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))
    return f"cosine {cosine:.3f}, norm {np.linalg.norm(a) / np.linalg.norm(b):.3f} of the exact one"


def _flat(tree):
    return np.concatenate([np.ravel(np.asarray(v, np.float64)) for v in jax.tree.leaves(tree)])


def _memory(table, steps, size):
    rng = np.random.default_rng(0)
    truth = rng.random((2, size, size)).astype(np.float32)
    batch = {"truth": truth, "y": truth + 0.1 * rng.normal(size=truth.shape).astype(np.float32)}
    params = ridge_parameters(7)
    data = functools.partial(energy.LeastSquares, forward.Identity((size, size)))
    lower = lambda p, b: (solve.Problem(smooth=data(b["y"]) + constrained_ridge(p)), b["y"])  # noqa: E731
    programs, memory, compile_s = {}, {}, {}
    for count in steps:
        # the same number of steps for all: no tolerance to stop at
        rules = {"unroll": solve.Unroll(), "checkpoint": solve.Checkpoint(), "implicit": solve.Implicit("cg", max_steps=20)}
        for name, rule in rules.items():
            tolerance = 1e-12 if name == "implicit" else 0.0
            problem = learn.Bilevel(lower, solver=solve.GradientDescent(), steps=count, tolerance=tolerance, gradient=rule)
            key = name, count
            programs[key], compile_s[key], memory[key] = compiled(jax.grad(lambda p, b, f=problem: f(p, b)[0]), params, batch)
    for count in steps:
        for peer in ("unroll", "checkpoint"):
            table.quantity(f"memory of implicit, {count} iterations [bytes]", peer, memory["implicit", count], memory[peer, count])
    last = steps[-1]
    if last == 200:
        table.quantity("memory of implicit, 200 iterations", "bound: unroll / 20", memory["implicit", last], memory["unroll", last] / 20)
    table.quantity("memory of implicit, growth with the iterations", "bound", memory["implicit", last] / memory["implicit", steps[0]], 1.01)
    own, peer = alternate(lambda: programs["implicit", last](params, batch), lambda: programs["unroll", last](params, batch), 5)
    agreement = difference(_flat(own.result), _flat(peer.result))
    table.add(f"gradient, {last} iterations", "unroll", own, peer, agreement, compile_s["implicit", last])
