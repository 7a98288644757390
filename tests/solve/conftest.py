import jax
import pytest


@pytest.fixture(autouse=True, scope="package")
def _quick_compilation():
    """These problems are tiny: compiling takes longer than running."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)
