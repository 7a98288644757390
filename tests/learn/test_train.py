"""The engine against the same steps by hand; resumption, accumulation, averages, several devices, and what goes wrong."""

import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from diffimg import learn

HERE = pathlib.Path(__file__).parent
TRUTH = np.linspace(-1, 1, 4).astype(np.float32)
START = {"w": np.zeros(4, np.float32), "b": np.zeros((), np.float32)}
KEY = jax.random.key(7)


def batch(key, step):
    x = jax.random.normal(key, (8, 4))
    return x, x @ TRUTH + 0.5


def loss(params, batch, key):
    x, y = batch
    error = x @ params["w"] + params["b"] - y
    return jnp.mean(error**2), {"largest": jnp.max(jnp.abs(error))}


def validate(params):
    return jnp.sum((params["w"] - TRUTH) ** 2)


def same(a, b, **tolerance):
    for u, v in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(u, v, **({"rtol": 1e-6, "atol": 1e-7} | tolerance))


def by_hand(steps, optimizer):
    params, state = START, optimizer.init(START)
    data_key, loss_key = jax.random.split(KEY)
    for k in range(steps):
        given, own = batch(jax.random.fold_in(data_key, k), k), jax.random.fold_in(loss_key, k)
        slope = jax.grad(lambda p: loss(p, given, own)[0])(params)  # noqa: B023
        change, state = optimizer.update(slope, state, params)
        params = optax.apply_updates(params, change)
    return params


def test_steps_are_those_of_optax():
    optimizer = optax.adam(optax.cosine_decay_schedule(0.05, 30))
    trained = learn.train(loss, START, batch, 30, key=KEY, optimizer=optimizer, log_every=10).check()
    same(trained.params, by_hand(30, optimizer))
    assert [line["step"] for line in trained.history] == [10, 20, 30] and trained.history[-1]["loss"] < trained.history[0]["loss"]
    assert trained.history[0]["largest"] > 0 and trained.status == "finished" and trained.step == 30
    clipped = learn.train(loss, START, batch, 5, key=KEY, optimizer=optax.sgd(1.0), clip=0.1).params
    same(clipped, by_hand(5, optax.chain(optax.clip_by_global_norm(0.1), optax.sgd(1.0))))


def test_parts_of_a_batch_make_the_same_step():
    options = {"key": KEY, "optimizer": optax.sgd(0.1)}
    same(learn.train(loss, START, batch, 6, accumulate=4, **options).params, learn.train(loss, START, batch, 6, **options).params)


def test_average_and_the_best_are_returned():
    seen = []

    def noted(params):
        seen.append(params)
        return {"loss": [3.0, 1.0, 2.0, 2.0][len(seen) - 1]}

    options = {"key": KEY, "optimizer": optax.sgd(0.1), "validate": noted, "validate_every": 5}
    trained = learn.train(loss, START, batch, 20, average=0.9, **options)
    same(trained.params, seen[1])
    assert trained.best_step == 10 and trained.step == 20
    # by hand: decay min(0.9, (1 + t)/(10 + t))
    mean = START
    for k in range(5):
        decay = min(0.9, (1 + k) / (10 + k))
        mean = jax.tree.map(lambda a, p: decay * a + (1 - decay) * p, mean, by_hand(k + 1, optax.sgd(0.1)))  # noqa: B023
    same(seen[0], mean, rtol=1e-5)
    seen.clear()
    early = learn.train(loss, START, batch, 100, patience=2, **options)
    assert early.status == "stopped early" and early.step == 20 and "step 10" in early.message


def test_resumes_exactly(tmp_path):
    options = {"key": KEY, "average": 0.9, "validate": validate, "validate_every": 10, "checkpoint_every": 10, "log_every": 5}
    whole = learn.train(loss, START, batch, 40, **options)
    learn.train(loss, START, batch, 20, folder=tmp_path / "run", **options)
    rest = learn.train(loss, START, batch, 40, folder=tmp_path / "run", **options)
    same(rest.params, whole.params, rtol=0, atol=0)
    same(rest.last, whole.last, rtol=0, atol=0)
    lines = [json.loads(t) for t in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    pick = lambda lines: [(v["step"], v.get("loss"), v.get("validation_loss")) for v in lines]  # noqa: E731
    assert pick(lines) == pick(whole.history) == pick(rest.history)
    again = learn.train(loss, START, batch, 40, folder=tmp_path / "run", **options)  # nothing left to do
    same(again.params, whole.params, rtol=0, atol=0)
    with pytest.raises(ValueError, match=r"folder: expected checkpoints of this architecture.*\['w'\]"):
        learn.train(loss, {**START, "w": np.zeros(5, np.float32)}, batch, 40, folder=tmp_path / "run", **options)


def test_goes_on_where_the_best_is_newer_than_the_last(tmp_path):
    options = {"key": KEY, "validate": validate, "validate_every": 7, "checkpoint_every": 10, "log_every": 5}
    whole = learn.train(loss, START, batch, 40, **options)

    def interrupted(key, step):
        if step == stop:
            raise KeyboardInterrupt
        return batch(key, step)

    for stop in (9, 18, 31):  # noqa: B007 (``interrupted`` reads it); after step 9 there is a best one, but no last one yet
        with pytest.raises(KeyboardInterrupt):
            learn.train(loss, START, interrupted, 40, folder=tmp_path, **options)
    assert (tmp_path / "best" / "28").is_dir() and not (tmp_path / "last" / "31").exists()
    for emptied in (tmp_path / "last" / "30").rglob("*"):  # the newest one was cut off: the one before is taken
        if emptied.is_file():
            emptied.write_text("")
    with pytest.warns(UserWarning, match="cannot be read"):
        rest = learn.train(loss, START, batch, 40, folder=tmp_path, **options)
    same((rest.params, rest.last), (whole.params, whole.last), rtol=0, atol=0)
    pick = lambda lines: [(v["step"], v.get("loss"), v.get("validation_loss")) for v in lines]  # noqa: E731
    assert pick(rest.history) == pick(whole.history)
    with pytest.raises(ValueError, match="checkpoints of this training"):
        learn.train(loss, START, batch, 40, folder=tmp_path, **options | {"key": jax.random.key(8)})
    with pytest.raises(ValueError, match="checkpoints of this optimizer"):
        learn.train(loss, START, batch, 40, folder=tmp_path, **options, optimizer=optax.sgd(0.1))
    (tmp_path / "structure.json").write_text("{")
    with pytest.raises(ValueError, match="damaged"):
        learn.train(loss, START, batch, 40, folder=tmp_path, **options)


def test_complex_parameters_descend():
    truth = np.array([1 + 2j, -3j], np.complex64)

    def misfit(params, batch, key):
        error = params["w"] - truth
        return jnp.sum((error * jnp.conj(error)).real)

    for optimizer in (optax.sgd(0.1), optax.adam(0.1)):
        trained = learn.train(misfit, {"w": np.zeros(2, np.complex64)}, batch, 200, key=KEY, optimizer=optimizer)
        np.testing.assert_allclose(trained.params["w"], truth, atol=0.02)


def test_a_step_that_is_not_finite_is_not_made(tmp_path):
    def broken(key, step):
        x, y = batch(key, step)
        return x, jnp.where(step == 13, jnp.nan, y)

    options = {"key": KEY, "optimizer": optax.sgd(0.1), "log_every": 5}
    trained = learn.train(loss, START, broken, 40, folder=tmp_path / "run", checkpoint_every=10, **options)
    assert trained.status == "not finite" and trained.step == 13 and "batch(key, 13)" in trained.message
    same(trained.params, by_hand(13, optax.sgd(0.1)))
    with pytest.raises(FloatingPointError, match="step 13"):
        trained.check()
    # the last good state is on disk: with the batch mended it goes on
    mended = learn.train(loss, START, batch, 20, folder=tmp_path / "run", **options)
    same(mended.params, by_hand(20, optax.sgd(0.1)))


def test_half_precision_keeps_the_numbers_in_single():
    trained = learn.train(loss, START, batch, 200, key=KEY, optimizer=optax.adam(0.05), precision="bfloat16")
    assert all(v.dtype == jnp.float32 for v in jax.tree.leaves(trained.params))
    np.testing.assert_allclose(trained.params["w"], TRUTH, atol=0.03)


def test_refused():
    for options, message in (
        ({"steps": 0}, "steps"),
        ({"precision": "float16"}, "precision"),
        ({"average": 1.0}, "average"),
        ({"patience": 3}, "patience"),
        ({"patience": -1, "validate": validate}, "patience"),
        ({"clip": 0}, "clip"),
        ({"optimizer": "adam"}, "optimizer: expected one of optax"),
        ({"key": 0}, "key: expected a key"),
        ({"batch": (1, 2)}, "batch: expected a function"),
        ({"loss": lambda p, b, k: (jnp.zeros(()), {"v": jnp.zeros(2)})}, "scalars"),
        ({"validate": lambda p: jnp.zeros(2), "steps": 1}, "validate: expected scalars"),
        ({"accumulate": 3}, "divides"),
        ({"batch": lambda key, step: (jnp.zeros((4, 4)), jnp.zeros(3))}, "same number of samples"),
        ({"batch": lambda key, step: ()}, "arrays"),
        ({"loss": lambda p, b, k: b[1]}, "scalar"),
        ({"validate": lambda p: {"psnr": 1.0}}, "loss"),
    ):
        given = {"loss": loss, "params": START, "batch": batch, "steps": 1, "key": KEY} | options
        with pytest.raises(ValueError, match=message):
            learn.train(**given)


def run(code, devices=1, arguments=(), **options):
    environment = os.environ | {"XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}", "JAX_PLATFORMS": "cpu"}
    environment["PYTHONPATH"] = f"{HERE}{os.pathsep}{HERE.parents[1]}"
    return subprocess.Popen([sys.executable, "-c", code, *arguments], env=environment, stdout=subprocess.PIPE, text=True, **options)


def test_curves_for_tensorboard(tmp_path):
    pytest.importorskip("tensorboardX")
    learn.train(loss, START, batch, 20, key=KEY, log_every=10, report=learn.tensorboard(tmp_path))
    (events,) = tmp_path.iterdir()
    deadline = time.monotonic() + 30  # a thread writes
    while events.read_bytes().count(b"steps_per_second") < 2 and time.monotonic() < deadline:
        time.sleep(0.1)
    content = events.read_bytes()
    assert content.count(b"largest") == 2 and content.count(b"steps_per_second") == 2


def test_a_carry_goes_on_after_an_interruption(tmp_path):
    """Running statistics: the mean of all batches, the same with and without an interruption."""

    def counted(params, batch, key, carry):
        value, aux = loss(params, batch, key)
        mean = carry["mean"] + jnp.mean(batch[0]) * params["b"]
        return value, aux, {"mean": mean, "count": carry["count"] + 1}

    options = {"key": KEY, "carry": {"mean": jnp.zeros(()), "count": jnp.zeros((), jnp.int32)}}
    whole = learn.train(counted, START, batch, 12, **options)
    learn.train(counted, START, batch, 5, folder=tmp_path, checkpoint_every=5, **options)
    rest = learn.train(counted, START, batch, 12, folder=tmp_path, checkpoint_every=5, **options)
    same(rest.carry, whole.carry)
    same(rest.params, whole.params)
    assert int(rest.carry["count"]) == 12


def test_two_devices_learn_as_one():
    code = (
        "import jax, json, numpy as np, test_train as t; from diffimg import learn\n"
        "r = learn.train(t.loss, t.START, t.batch, 20, key=t.KEY, log_every=1, devices=jax.devices())\n"
        "print(json.dumps([v['loss'] for v in r.history])); assert len(jax.devices()) == 2"
    )
    process = run(code, 2)
    out, _ = process.communicate(timeout=120)
    assert process.returncode == 0
    one = [v["loss"] for v in learn.train(loss, START, batch, 20, key=KEY, log_every=1).history]
    np.testing.assert_allclose(json.loads(out), one, rtol=1e-5)


@pytest.mark.slow
def test_two_processes_learn_as_one(tmp_path):
    """Two hosts, here two processes on one machine: one loss curve, one log, checkpoints that either both write or none."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    code = (
        "import jax, json, sys\n"
        f"jax.distributed.initialize('localhost:{port}', 2, int(sys.argv[1]))\n"
        "import test_train as t; from diffimg import learn\n"
        "assert jax.device_count() == 2 and len(jax.local_devices()) == 1\n"
        f"kept = dict(validate=t.validate, checkpoint_every=10, log_every=1, average=0.9, folder={str(tmp_path / 'run')!r})\n"
        "go = lambda n: learn.train(t.loss, t.START, t.batch, n, key=t.KEY, devices=jax.devices(), validate_every=10, **kept)\n"
        "go(10); r = go(20)\n"
        "if jax.process_index() == 0: print(json.dumps([v['loss'] for v in r.history if 'loss' in v]))\n"
    )
    processes = [run(code, 1, arguments=[str(k)]) for k in range(2)]
    outputs = [p.communicate(timeout=300)[0] for p in processes]
    assert [p.returncode for p in processes] == [0, 0]
    one = [v["loss"] for v in learn.train(loss, START, batch, 20, key=KEY, log_every=1).history]
    np.testing.assert_allclose(json.loads(outputs[0].splitlines()[-1]), one, rtol=1e-5)
    assert len([v for v in (tmp_path / "run" / "log.jsonl").read_text().splitlines() if '"loss"' in v]) == 20


@pytest.mark.slow
def test_a_killed_run_goes_on(tmp_path):
    """kill −9: at most one interval is lost, and the curve is that of a run without interruption."""
    code = (
        "import time, test_train as t; from diffimg import learn\n"
        "def slow(key, step):\n    time.sleep(0.02); return t.batch(key, step)\n"
        f"r = learn.train(t.loss, t.START, slow, 200, key=t.KEY, log_every=10, checkpoint_every=20, folder={str(tmp_path / 'run')!r})\n"
    )
    process = run(code)
    last = tmp_path / "run" / "last"
    deadline = time.monotonic() + 120
    while not (last / "60").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    saved = max(int(p.name) for p in last.iterdir() if p.name.isdigit())
    assert 40 <= saved < 200
    rest = learn.train(loss, START, batch, 200, key=KEY, log_every=10, checkpoint_every=20, folder=tmp_path / "run")
    whole = learn.train(loss, START, batch, 200, key=KEY, log_every=10)
    same(rest.params, whole.params, rtol=0, atol=0)
    assert [v["loss"] for v in rest.history] == [v["loss"] for v in whole.history]
