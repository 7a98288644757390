import numpy as np
import pytest
import scipy.sparse.linalg

from diffimg import bridge, forward

A = np.random.default_rng(0).normal(size=(9, 6)).astype(np.float32)


def test_scipy_solvers_run_on_an_operator():
    blur = forward.Blur(forward.gaussian_psf(0.8, (3, 3)), (8, 8))
    linear = bridge.to_scipy(blur)
    assert linear.shape == (64, 64)
    assert linear.dtype == np.float32
    x = np.random.default_rng(1).normal(size=64)
    y = linear @ x
    np.testing.assert_allclose(y, np.asarray(blur(x.reshape(8, 8).astype(np.float32))).ravel(), rtol=1e-5, atol=1e-6)
    found = scipy.sparse.linalg.lsqr(linear, y, atol=1e-7, btol=1e-7, iter_lim=500)[0]
    np.testing.assert_allclose(linear @ found, y, atol=1e-3)
    stack = bridge.to_scipy(forward.Stack((forward.Matrix(A), 2 * forward.Matrix(A))))
    np.testing.assert_allclose(stack.T @ np.ones(18), 3 * A.T @ np.ones(9), rtol=1e-4)
    with pytest.raises(ValueError, match="linear operator"):
        bridge.to_scipy(forward.PhaseRetrieval(forward.Matrix(A)))


def test_torch_gradients_cross_the_bridge():
    torch = pytest.importorskip("torch")
    call = bridge.to_torch(forward.Matrix(A))
    x = torch.randn(2, 6, requires_grad=True)
    (call(x) ** 2).sum().backward()
    reference = x.detach().clone().requires_grad_()
    ((reference @ torch.tensor(A).T) ** 2).sum().backward()
    torch.testing.assert_close(x.grad, reference.grad, rtol=1e-4, atol=1e-4)
    with pytest.raises(ValueError, match=r"x: expected a torch\.Tensor, got ndarray"):
        call(np.ones(6, np.float32))


def test_torch_complex_gradients_follow_torch():
    torch = pytest.importorskip("torch")
    c = (A + 1j * A[::-1]).astype(np.complex64)
    call = bridge.to_torch(forward.Matrix(c))
    x = torch.randn(6, dtype=torch.complex64, requires_grad=True)
    (call(x).abs() ** 2).sum().backward()
    reference = x.detach().clone().requires_grad_()
    ((torch.tensor(c) @ reference).abs() ** 2).sum().backward()
    torch.testing.assert_close(x.grad, reference.grad, rtol=1e-4, atol=1e-4)


def test_torch_nonlinear_operators():
    torch = pytest.importorskip("torch")
    call = bridge.to_torch(forward.PhaseRetrieval(forward.Matrix(A)))
    x = torch.randn(6, requires_grad=True)
    call(x).sum().backward()
    reference = x.detach().clone().requires_grad_()
    ((torch.tensor(A) @ reference) ** 2).sum().backward()
    torch.testing.assert_close(x.grad, reference.grad, rtol=1e-4, atol=1e-4)
