import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import ShapeDtypeStruct

from diffimg.core.pytree import pytree, static
from diffimg.forward.algebra import Stack
from diffimg.forward.basic import Diagonal, Function, Identity, Matrix
from diffimg.forward.operator import Operator
from diffimg.testing import check_operator, dot_test, random_like

RNG = np.random.default_rng(1)
A = Matrix(RNG.normal(size=(5, 3)).astype(np.float32))
B = Matrix(RNG.normal(size=(3, 4)).astype(np.float32))
C = Matrix((RNG.normal(size=(5, 3)) + 1j * RNG.normal(size=(5, 3))).astype(np.complex64))


@pytree
class Mask(Operator):
    mask: jax.Array
    image_shape: tuple[int, ...] = static()

    @property
    def domain(self):
        return ShapeDtypeStruct(self.image_shape, self.mask.dtype)

    def __call__(self, x):
        return self.mask * x


@pytree
class HandMade(Operator):
    """A hand-written adjoint, and a parameter to differentiate."""

    scale: jax.Array

    @property
    def domain(self):
        return ShapeDtypeStruct((4,), jnp.dtype("float32"))

    def __call__(self, x):
        return self.scale**2 * jnp.cumsum(x)

    def adjoint(self, y):
        return self.scale**2 * jnp.cumsum(y[::-1])[::-1]


@pytree
class Square(Operator):
    linear = False
    shape: tuple[int, ...] = static()

    @property
    def domain(self):
        return ShapeDtypeStruct(self.shape, jnp.dtype("float32"))

    def __call__(self, x):
        return x**2


def test_a_six_line_operator_has_everything():
    mask = Mask(jnp.arange(6.0).reshape(2, 3), (2, 3))
    check_operator(mask)
    check_operator(2 * mask + mask @ mask)
    gradient = jax.grad(lambda m: jnp.sum(Mask(m, (2, 3))(jnp.ones((2, 3))) ** 2))(mask.mask)
    np.testing.assert_allclose(gradient, 2 * mask.mask)


HAND = HandMade(jnp.float32(1.5))
DERIVED = [A, C, A @ B, A + A, 2 * A, -A, A - 3.0 * A, A.H, A.normal, C.H, C.normal, Stack((A, 2 * A)), HAND, HAND.H, HAND.normal]


@pytest.mark.parametrize("op", [*DERIVED, Identity((2, 3)), Diagonal(jnp.array([1 + 2j, 3.0]))], ids=repr)
def test_derived_operators_keep_the_promises(op):
    check_operator(op)


def test_algebra_against_numpy():
    x = RNG.normal(size=4).astype(np.float32)
    a, b, c = (np.asarray(m.matrix_) for m in (A, B, C))
    np.testing.assert_allclose((A @ B)(x), a @ b @ x, rtol=1e-5)
    np.testing.assert_allclose((A @ B).H.matrix(), (a @ b).T, rtol=1e-5)
    np.testing.assert_allclose(C.H.matrix(), c.conj().T, rtol=1e-6)
    np.testing.assert_allclose(C.normal.matrix(), c.conj().T @ c, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose((2j * C).matrix(), 2j * c, rtol=1e-6)
    assert A.H.H is A
    assert (A.norm() >= np.linalg.norm(a, 2) * (1 - 1e-5)) and (A.norm() <= np.linalg.norm(a, 2) * 1.1)


def test_real_image_to_complex_data_is_adjoint_in_the_real_part():
    fft = Function(lambda x: jnp.fft.fft(x, norm="ortho"), ShapeDtypeStruct((8,), jnp.dtype("float32")))
    check_operator(fft)
    y = random_like(jax.random.key(0), fft.codomain)
    np.testing.assert_allclose(fft.H(y), np.fft.ifft(np.asarray(y), norm="ortho").real, atol=1e-6)


def test_hand_written_adjoint_is_used_and_differentiable_in_parameters_to_any_order():
    y = np.ones(4, np.float32)
    plain = lambda s, x: s**2 * jnp.cumsum(x)  # noqa: E731
    for f, g in (
        (lambda s: jnp.sum(HandMade(s)(y) ** 2), lambda s: jnp.sum(plain(s, y) ** 2)),
        (lambda s: jnp.sum(HandMade(s).H(y) ** 2), lambda s: jnp.sum((s**2 * jnp.cumsum(y[::-1])[::-1]) ** 2)),
        (lambda s: jnp.sum(HandMade(s).normal(y)), lambda s: jnp.sum(plain(s, plain(s, y)[::-1]))),
    ):
        np.testing.assert_allclose(jax.grad(f)(1.5), jax.grad(g)(1.5), rtol=1e-5)
        np.testing.assert_allclose(jax.grad(jax.grad(f))(1.5), jax.grad(jax.grad(g))(1.5), rtol=1e-5)
        np.testing.assert_allclose(jax.jvp(f, (1.5,), (1.0,))[1], jax.grad(g)(1.5), rtol=1e-5)


def test_dtype_follows_the_input(x64):
    assert A(np.ones(3, np.float64)).dtype == jnp.float64
    assert A.H(np.ones(5, np.float64)).dtype == jnp.float64
    assert A(jnp.ones(3, jnp.float32)).dtype == jnp.float32
    assert HandMade(jnp.float32(2)).H(np.ones(4)).dtype == jnp.float64
    assert dot_test(A, RNG.normal(size=3), RNG.normal(size=5)) < 1e-12


def test_leading_axes_are_batch():
    x = RNG.normal(size=(2, 7, 3)).astype(np.float32)
    np.testing.assert_allclose(A(x), np.einsum("mn,abn->abm", np.asarray(A.matrix_), x), rtol=1e-4, atol=1e-5)
    assert Stack((A, A))(x)[1].shape == (2, 7, 5)
    assert Stack((A, A)).H((np.ones((2, 5), np.float32), np.ones((2, 5), np.float32))).shape == (2, 3)


def test_one_trace_for_changed_arrays():
    traces = []

    @pytree
    class Counted(Operator):
        w: jax.Array
        domain = property(lambda self: ShapeDtypeStruct((3,), jnp.dtype("float32")))

        def __call__(self, x):
            traces.append(1)
            return self.w * x

    x = np.ones(3, np.float32)
    Counted(np.ones(3, np.float32))(x)
    n = len(traces)
    Counted(np.zeros(3, np.float32))(x)
    assert len(traces) == n


def test_nonlinear_operators_linearize():
    square = Square((3,))
    check_operator(square)
    x = np.array([1.0, 2, 3], np.float32)
    check_operator(square.linearize(x))
    np.testing.assert_allclose(square.linearize(x).H(np.ones(3, np.float32)), 2 * x)
    assert A.linearize(np.ones(3, np.float32)) is A
    check_operator((A @ square).linearize(x))
    with pytest.raises(ValueError, match="linearize"):
        square.H  # noqa: B018


def test_errors_teach():
    with pytest.raises(ValueError, match=r"x: expected shape \[\.\.\., 3\], got shape \(4,\).*Matrix: float32\[3\] → float32\[5\]"):
        A(np.ones(4, np.float32))
    with pytest.raises(ValueError, match="x: expected a floating or complex dtype, got int"):
        A(np.ones(3, int))
    with pytest.raises(ValueError, match=r"real values.*complex64.*x\.real"):
        A(np.ones(3, np.complex64))
    with pytest.raises(ValueError, match="A @ B: expected B to map into the domain of A"):
        B @ A
    with pytest.raises(ValueError, match="same domain"):
        A + B


def test_repr_states_domain_and_codomain():
    assert repr(A @ B) == "<Matrix ∘ Matrix: float32[4] → float32[5]>"
    assert "Matrixᴴ" in repr(A.H)
    assert repr(jax.tree.map(lambda _: None, A)) == "<Matrix>"
