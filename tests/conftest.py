import os
import pathlib
import platform

# eight simulated devices are asked for by the tests that need them, in a process of their own
os.environ.setdefault("JAX_PLATFORMS", "cpu")

# three quarters of the time is compilation: what was compiled once serves both workers and the next run on this machine
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(pathlib.Path(__file__).parents[1] / ".pytest_cache" / f"jax-{platform.node()}"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")

import jax
import pytest


@pytest.fixture
def x64():
    """Double precision for one test."""
    with jax.enable_x64(True):
        yield


MAPS = pathlib.Path("/proc/self/maps")
LIMIT = 30_000  # Linux allows a process 65,530 mappings; every compiled program holds some, and XLA crashes where they run out


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item, nextitem):
    """Forget compiled programs before there are too many; looked at between modules and every 8th test."""
    item.config.finished = finished = getattr(item.config, "finished", 0) + 1
    if (finished % 8 == 0 or nextitem is None or nextitem.module is not item.module) and MAPS.exists():
        with MAPS.open("rb") as lines:
            if sum(1 for _ in lines) > LIMIT:
                jax.clear_caches()


LONGER = pathlib.Path(__file__).with_name("longer.txt")  # what takes more than about four seconds of a core and has shorter company


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(session, config, items):
    """Mark the tests listed in longer.txt as slow; a list that names what is no more is an error."""
    listed = set(LONGER.read_text(encoding="utf-8").splitlines())
    found = {item.nodeid for item in items}
    for item in items:
        if item.nodeid in listed:
            item.add_marker(pytest.mark.slow)
    gone = listed - found
    if gone and len({item.module for item in items}) > 100:  # the whole suite was collected
        raise pytest.UsageError(f"tests/longer.txt: expected tests that exist, got {', '.join(sorted(gone)[:5])}. Remove them there.")
