"""Every operator, energy and solver once: the property bundle runs over all of them. New ones are added here."""

from __future__ import annotations

import warnings

import jax
import jax.numpy as jnp
import numpy as np
from jax import ShapeDtypeStruct

from diffimg import ct
from diffimg import energy as e
from diffimg import forward as f
from diffimg import solve as s
from diffimg.data import Grid

RNG = np.random.default_rng(5)
NOISE = RNG.normal(size=(16, 16))
TURN = np.array([[1.1, 0.2], [-0.1, 0.9]])
ANGLES = np.sort(RNG.uniform(0, np.pi, 11))


def array(values, dtype):
    return jnp.asarray(values, dtype)


def complex_of(dtype):
    return jnp.promote_types(dtype, jnp.complex64)


def geometry(dtype, shape=(12, 12), count=19, offset=0.2):
    return f.ParallelBeam(shape, array(ANGLES, dtype), count, 1.0, 1.1, array(offset, dtype))


def divergent(kind, dtype, **changes):
    """A tiny scan with rays from a point, all its poses off their marks."""
    distances = {"source_distance": 14.0, "detector_distance": 9.0, "source_offset": 0.15, "detector_offset": 0.2}
    if kind is not f.FanBeam:
        distances |= {"source_offset": (0.1, -0.2), "detector_offset": (0.2, 0.1), "detector_spacing": (1.5, 1.4), "slice_thickness": 1.1}
    g = kind(angles=np.array([0.13, 2.2, 3.6, 5.3]), **(distances | changes))
    return jax.tree.map(lambda v: array(v, dtype), g)


def fan(dtype, **changes):
    return divergent(f.FanBeam, dtype, image_shape=(7, 9), detector_count=15, detector_spacing=1.4, **changes)


def concrete_geometry(count=19):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return f.ParallelBeam((12, 12), ANGLES, count, 1.0, 1.1, 0.2)


def maps(shape, dtype):
    return array(NOISE.ravel()[: np.prod(shape)].reshape(shape) + 1j * NOISE.T.ravel()[: np.prod(shape)].reshape(shape), complex_of(dtype))


def trajectory(dtype, axes=2):
    return array(np.pi * np.sin(9 * NOISE[: 3 * axes, :6]).reshape(3, 6, axes), dtype)


OPERATORS = {
    "identity": lambda t: f.Identity((4, 5), dtype=jnp.dtype(t).name),
    "diagonal": lambda t: f.Diagonal(array(NOISE, t)),
    "diagonal complex": lambda t: f.Diagonal(array(NOISE + 1j * NOISE.T, complex_of(t))),
    "matrix": lambda t: f.Matrix(array(NOISE[:7], t)),
    "matrix complex": lambda t: f.Matrix(array(NOISE[:7] + 1j * NOISE[7:14], complex_of(t))),
    "function": lambda t: f.Function(lambda x: jnp.fft.fft2(x, norm="ortho"), ShapeDtypeStruct((6, 8), jnp.dtype(t))),
    "radon fourier": lambda t: f.Radon(geometry(t)),
    "radon fourier, band-limited, point": lambda t: f.Radon(geometry(t), image_model="band-limited", detector_model="point"),
    "radon fourier, prepared": lambda t: f.Radon(concrete_geometry()).prepare(),
    "radon fourier, prepared, truncated": lambda t: f.Radon(concrete_geometry(9)).prepare(),
    "radon joseph": lambda t: f.Radon(geometry(t, (12, 9)), method="joseph"),
    "radon fan": lambda t: f.Radon(fan(t, detector_tilt=0.1)),
    "radon fan, curved": lambda t: f.Radon(fan(t, curved=True)),
    "radon modular": lambda t: f.Radon(
        divergent(f.ConeBeam, t, image_shape=(4, 6, 7), detector_shape=(5, 13), detector_tilt=(0.2, 0.1, -0.1)).modular()
    ),
    "radon cone": lambda t: f.Radon(divergent(f.ConeBeam, t, image_shape=(4, 6, 7), detector_shape=(5, 13))),
    "radon helical": lambda t: f.Radon(
        divergent(f.Helical, t, image_shape=(4, 6, 7), detector_shape=(3, 13), table=[-1.1, -0.2, 0.4, 1.3])
    ),
    "sharded": lambda t: f.Sharded(f.Radon(geometry(t, (12, 9)), method="joseph"), jax.devices()[:1]),
    "gradient": lambda t: f.Gradient((6, 7), (0.5, 2.0), dtype=jnp.dtype(t).name),
    "gradient 3-D periodic": lambda t: f.Gradient((4, 5, 6), boundary="periodic", dtype=jnp.dtype(t).name),
    "laplacian": lambda t: f.Laplacian((6, 7), dtype=jnp.dtype(t).name),
    "blur reflect": lambda t: f.Blur(array(NOISE[:5, :4], t), (12, 11)),
    "blur periodic": lambda t: f.Blur(array(NOISE[:3, :3], t), (8, 9), "periodic"),
    "blur zero": lambda t: f.Blur(array(NOISE[:3, :5], t), (8, 9), "zero"),
    "wavelet": lambda t: f.Wavelet((16, 8), "db4", 2, dtype=jnp.dtype(t).name),
    "inpaint": lambda t: f.Inpaint(array(NOISE > 0, t)),
    "downsample": lambda t: f.Downsample((12, 8), 2, dtype=jnp.dtype(t).name),
    "crop": lambda t: f.Crop((6, 7), (3, 4), dtype=jnp.dtype(t).name),
    "stack": lambda t: f.Stack((f.Identity((6, 7), dtype=jnp.dtype(t).name), f.Gradient((6, 7), dtype=jnp.dtype(t).name))),
    "composition": lambda t: f.Radon(geometry(t)) @ f.Blur(array(NOISE[:3, :3], t), (12, 12)),
    "frames": lambda t: f.Frames([f.Matrix(array(NOISE[k : k + 7], t)) for k in (0, 4, 9)]),
    "channelwise": lambda t: f.Channelwise(f.Matrix(array(NOISE[:7], t)), 2),
    "polyenergetic transmission": lambda t: f.PolyenergeticTransmission(
        array(NOISE[:3, 0] ** 2, t), array(0.1 + NOISE[:2, :3] ** 2, t), (4, 5), array([[20, 40, 0], [0, 30, 60]], t)
    ),
    "scatter kernel": lambda t: f.ScatterKernel(array(np.exp(-np.abs(np.arange(-6, 7))), t), (4, 5), array(0.3, t), flat=array(9.0, t)),
    "material path": lambda t: ct.MaterialPath(array([0.4, 2.0], t), array([[1.1, 0.0], [0.0, 1.0]], t), (3, 4)),
    "negative log": lambda t: (
        ct.NegativeLog(array(1 + NOISE[:3, :4] ** 2, t))
        @ f.PolyenergeticTransmission(array(NOISE[:3, 0] ** 2, t), array(NOISE[:2, :3] ** 2, t), (3, 4))
    ),
    "damped view mean": lambda t: ct.rings.DampedViewMean(array(0.3, t), (3, 7)),
    "material basis": lambda t: ct.MaterialBasis(array(NOISE[:2, :2], t), (3, 4)),
    "coil maps": lambda t: f.CoilMaps(maps((2, 5, 6), t)),
    "masked fft": lambda t: f.MaskedFFT(array(NOISE[:5, :7] ** 2, t)),
    "masked fft, coils, dynamic": lambda t: f.MaskedFFT(array(NOISE[:12, :6].reshape(2, 6, 6) > 0, t), maps((2, 6, 6), t), ndim=2),
    "masked fft, prepared": lambda t: f.MaskedFFT(np.tile(NOISE[:5, :1] > 0, (1, 6)), maps((3, 5, 6), t)).prepare(),
    "warp": lambda t: f.Warp(
        f.Affine(array(TURN, t), array([0.3, -0.2], t), array([3.0, 4.0], t)), Grid((7, 8)), dtype_name=jnp.dtype(t).name
    ),
    "warp, cubic, outside 0": lambda t: f.Warp(
        f.FreeForm(array(NOISE[:5, :10].reshape(5, 5, 2), t), f.spline_lattice(Grid((7, 8)), mesh=2)),
        *(Grid((7, 8)), Grid((6, 5)), 3, "constant"),
        modulated=True,
        dtype_name=jnp.dtype(t).name,
    ),
    "nufft": lambda t: f.NUFFT((7, 8), trajectory(t), maps((2, 7, 8), t)),
    "nufft, prepared": lambda t: f.NUFFT((7, 8), trajectory("float32"), np.asarray(maps((2, 7, 8), t))).prepare(),
    "nufft 3-D": lambda t: f.NUFFT((5, 6, 7), trajectory(t, 3)),
    "off-resonance": lambda t: f.off_resonance(f.NUFFT((7, 8), trajectory(t)), array(300 * NOISE[:7, :8], t), np.linspace(0, 4e-3, 6)),
    "phase retrieval": lambda t: f.PhaseRetrieval(f.Matrix(array(NOISE[:7] + 1j * NOISE[7:14], complex_of(t)))),
    "coded diffraction": lambda t: f.CodedDiffraction(array(np.exp(1j * NOISE[:8, :8]), complex_of(t))),
}

# long to compile; tests/forward has their essentials
SLOW = (
    *("warp, cubic, outside 0", "composition", "sharded", "nufft 3-D", "off-resonance", "radon fourier, band-limited, point"),
    *("radon fan, curved", "radon modular", "radon cone", "radon helical"),
)

SHAPE = (8, 9)
IMAGE = NOISE[:8, :9]
DATA = f.Blur(np.abs(NOISE[:3, :3]) / np.abs(NOISE[:3, :3]).sum(), SHAPE)


def _like(t):
    return array(IMAGE, t)


def _network(params, x):
    return jnp.log1p((params * x) ** 2)


def _wiener(params, x, sigma):
    return x / (1 + params * sigma**2)


# name: (factory, image at which its gradient is taken or None)
ENERGIES = {
    "zero": lambda t: e.Zero(),
    "similarity, correlation": lambda t: e.NCC().to(array(NOISE[4:12, 3:12], t)),
    "similarity, mutual information": lambda t: e.MutualInformation(8).prepared(_like(t), _like(t)).to(_like(t)),
    "similarity, gradient fields": lambda t: e.NGF().prepared(_like(t), _like(t)).to(_like(t), spacing=(1.0, 2.0)),
    "least squares": lambda t: e.LeastSquares(jax.tree.map(lambda v: array(v, t), DATA), _like(t)),
    "least squares, weighted": lambda t: e.LeastSquares(jax.tree.map(lambda v: array(v, t), DATA), _like(t), array(IMAGE**2, t)),
    "least squares, identity": lambda t: e.LeastSquares(f.Identity(SHAPE, dtype=jnp.dtype(t).name), _like(t)),
    "gaussian likelihood": lambda t: e.GaussianLikelihood(f.Diagonal(_like(t)), _like(t), array(0.1 + IMAGE**2, t)),
    "poisson likelihood": lambda t: e.PoissonLikelihood(f.Diagonal(array(IMAGE**2, t)), array(np.round(9 * IMAGE**2), t), array(5.0, t)),
    "squared l2": lambda t: e.SquaredL2(array(0.3, t), _like(t)),
    "tikhonov": lambda t: e.Tikhonov(array(0.3, t), f.Gradient(SHAPE, dtype=jnp.dtype(t).name)),
    "h1": lambda t: e.H1(array(0.3, t)),
    "l1": lambda t: e.L1(array(0.3, t)),
    "wavelet l1": lambda t: e.WaveletL1(array(0.3, t), f.Wavelet((8, 8), "haar", 1, dtype=jnp.dtype(t).name)),
    "total variation": lambda t: e.TotalVariation(array(0.3, t), gap=1e-8, max_steps=400),
    "total variation, anisotropic, bounded": lambda t: e.TotalVariation(array(0.3, t), False, -0.5, 0.9, gap=1e-8, max_steps=400),
    "huber tv": lambda t: e.HuberTV(array(0.3, t), array(0.1, t)),
    "smooth tv": lambda t: e.SmoothTV(array(0.3, t), array(0.05, t)),
    "fields of experts": lambda t: e.FieldsOfExperts(array(NOISE[:6, :9].reshape(6, 3, 3), t), array(NOISE[:6, 0] ** 2, t), array(0.7, t)),
    "ridge regularizer": lambda t: e.RidgeRegularizer(
        array(NOISE[:6, :9].reshape(6, 3, 3), t), array(0.5 + NOISE[:6, 0] ** 2, t), array([1.0, 0.3, -0.2], t), 0.8, (0.0, 0.7, 1.5, 2.5)
    ),
    "network": lambda t: e.Network(_network, array(0.6, t), array(0.3, t)),
    "red": lambda t: e.RED(_wiener, array(0.6, t), array(0.5, t), array(0.3, t)),
    "nuclear norm": lambda t: e.NuclearNorm(array(0.3, t)),
    "box": lambda t: e.Box(-0.2, 0.7),
    "non-negative": lambda t: e.NonNegative(),
    "group l1": lambda t: e.GroupL1(array(0.3, t), axis=0),
    "sum": lambda t: e.SquaredL2(array(0.3, t)) + e.H1(array(0.2, t)),
    "scaled": lambda t: array(2.0, t) * e.L1(array(0.3, t)),
    "composed": lambda t: e.SquaredL2(array(0.3, t)) @ jax.tree.map(lambda v: array(v, t), DATA),
}


def image_of(name, t):
    return array(NOISE[:8, :8], t) if "wavelet" in name else _like(t) * 0.6


SOLVERS = {
    "gradient descent": (lambda: s.GradientDescent(), "smooth"),
    "conjugate gradient": (lambda: s.ConjugateGradient(), "smooth"),
    "l-bfgs": (lambda: s.LBFGS(), "smooth"),
    "levenberg-marquardt": (lambda: s.LevenbergMarquardt(), "least squares"),
    "proximal gradient": (lambda: s.ProximalGradient(), "proximable"),
    "proximal gradient, backtracking": (lambda: s.ProximalGradient(backtracking=0.5), "proximable"),
    "fista": (lambda: s.FISTA(), "proximable"),
    "fista, monotone": (lambda: s.FISTA(monotone=True), "proximable"),
    "admm": (lambda: s.ADMM(), "composed"),
    "primal-dual": (lambda: s.PrimalDual(), "composed"),
    "half-quadratic splitting": (lambda: s.HalfQuadraticSplitting(coupling=1.0), "proximable"),
    "cgls": (lambda: s.CGLS(), "rays"),
    "sirt": (lambda: s.SIRT(1.5), "rays"),
    "sart": (lambda: s.SART(subsets=4), "rays"),
    "sqs, momentum": (lambda: s.SQS(momentum=True), "rays, penalized"),
    "mlem": (lambda: s.MLEM(), "counts"),
    "osem": (lambda: s.OSEM(subsets=4), "counts"),
}

# rays of one length and consistent data: weighted by length or not, in subsets or not, the solution is one
RAYS = 0.1 + np.concatenate([np.diag(np.arange(2, 8) / 4), np.roll(np.eye(6), 1, 1) + np.eye(6)[::-1]])
RAYS /= RAYS.sum(1, keepdims=True)
DENSITY = 1 + NOISE[0, :6] ** 2


def problem(kind, t):
    data = e.LeastSquares(f.Matrix(array(NOISE[:12, :6] / 4, t)), array(NOISE[:12, 7], t))
    if kind == "smooth":
        return s.Problem(smooth=data + e.SquaredL2(array(0.1, t)))
    if kind == "least squares":
        return s.Problem(smooth=data)
    if kind == "proximable":
        return s.Problem(smooth=data, proximable=e.L1(array(0.05, t)))
    if kind == "counts":
        return s.Problem(smooth=e.PoissonLikelihood(f.Matrix(array(RAYS, t)), array(RAYS @ DENSITY + 2, t), array(2.0, t)))
    if kind.startswith("rays"):
        data = e.LeastSquares(f.Matrix(array(RAYS, t)), array(RAYS @ DENSITY, t), array(1.3, t))
        return s.Problem(smooth=data + e.SquaredL2(array(0.1, t)) if "penalized" in kind else data)
    difference = f.Matrix(array(np.eye(5, 6) - np.eye(5, 6, 1), t))
    return s.Problem(smooth=data, composed=((e.L1(array(0.05, t)), difference),))
