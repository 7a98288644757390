"""One engine for every training: a pure step, deterministic batches, checkpoints, exact resumption, any number of devices."""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import pathlib
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from diffimg.core import check
from diffimg.learn.checkpoints import Checkpoints

PRECISIONS = ("float32", "bfloat16")


@dataclasses.dataclass(repr=False)
class Trained:
    """What ``train`` returns.

    Attributes:
        params: the best by validation, or the last (their moving average, where one is kept).
        last: the parameters after the last step, without average.
        step: how many were made. best_step: that of ``params``.
        carry: what the loss carried from step to step, where it does.
        status: "finished", "stopped early" or "not finite".
        history: a dict for every line of the log: ``step``, ``loss``, ``seconds`` …, and at validations their values.
        message: what to know, e.g. at which step the loss was not finite.
    """

    params: Any
    last: Any
    step: int
    best_step: int
    status: str
    history: list[dict[str, Any]]
    message: str = ""
    carry: Any = None

    def __repr__(self):
        size = sum(np.size(v) for v in jax.tree.leaves(self.params))
        return f"Trained({self.status!r}, step {self.step}, {size:,} numbers of step {self.best_step})"

    def check(self) -> Trained:
        """Itself, if the loss stayed finite."""
        if self.status == "not finite":
            raise FloatingPointError(self.message)
        return self


def train(
    loss: Callable[[Any, Any, Any], Any], params: Any, batch: Callable[[Any, int], Any], steps: int, *, key: Any,
    optimizer: optax.GradientTransformation | None = None, clip: float | None = None, average: float | None = None, accumulate: int = 1,
    precision: str = "float32", validate: Callable[[Any], Any] | None = None, validate_every: int = 200, patience: int | None = None,
    folder: Any = None, checkpoint_every: int = 200, log_every: int = 50, devices: Sequence[Any] | None = None, carry: Any = None,
    report: Callable[[dict[str, Any]], None] | None = None,
) -> Trained:  # fmt: skip
    """Minimise the mean of ``loss`` over batches.

    Step k takes ``batch(key_k, k)`` and a key of its own, both derived from ``key`` and k alone: a training that is killed and started
    again with the same arguments and folder goes on as if nothing had happened.

    Args:
        loss: ``loss(params, batch, key) → value`` or ``(value, aux)``, pure; aux is a dict of scalars for the log.
        params: a pytree of arrays. batch: ``batch(key, step) → pytree``, whose arrays have the samples along their first axis.
        steps: in all, those of earlier runs in this folder included.
        optimizer: of optax, ``adam(1e-3)`` by default; schedules belong into it. clip: largest norm of the gradient.
        average: decay of a moving average of the parameters (e.g. 0.999), which is validated and returned instead of them.
        accumulate: split every batch into so many parts and average their gradients: the same step in a part of the memory.
        precision: "bfloat16" computes the loss in it and keeps parameters and optimizer in float32.
        validate: ``validate(params) → scalar`` or dict with "loss", smaller is better; every ``validate_every`` steps and at the end.
        patience: validations without a better one before the training stops.
        folder: for checkpoints (every ``checkpoint_every`` steps), ``log.jsonl`` and resumption; None for none.
        log_every: steps between two lines of the log; the loss there is the mean since the last.
        devices: split every batch over them (data-parallel); the parameters are copied. Default: where JAX puts things. Several hosts:
            ``jax.distributed.initialize()`` in each, then the same call everywhere with ``devices=jax.devices()``; ``folder`` is shared.
        carry: a pytree that is not learned but goes from step to step (chains of a sampler, running statistics): then the loss is
            ``loss(params, batch, key, carry) → (value, aux, carry)``. It is saved and restored with the rest.
        report: called with every line of the log.

    Returns:
        ``Trained``. A step whose loss or gradient is not finite is not made, and ends the training: ``status`` says so, ``check()`` raises.

    Raises:
        ValueError: arguments out of range, batches that the devices or parts do not divide, a loss that is not a scalar, a folder with
            another architecture.
    """
    _admit(loss=loss, batch=batch, validate=validate, report=report)
    _admit_key(key)
    steps, accumulate = check.positive_int("steps", steps), check.positive_int("accumulate", accumulate)
    for name, value in (("validate_every", validate_every), ("checkpoint_every", checkpoint_every), ("log_every", log_every)):
        check.positive_int(name, value)
    check.one_of("precision", precision, PRECISIONS)
    if average is not None and not 0 <= average < 1:
        check.fail("average", "a decay in 0 … 1, e.g. 0.999", repr(average))
    if patience is not None:
        check.positive_int("patience", patience)
        if validate is None:
            check.fail("patience", "a validation to wait for", "none", "Pass validate=.")
    if clip is not None:
        check.minimum("clip", clip, 0, strict=True, remedy="None leaves gradients as they are.")
    if optimizer is not None and not (hasattr(optimizer, "init") and hasattr(optimizer, "update")):
        check.fail("optimizer", "one of optax", check.describe(optimizer), "E.g. optax.adam(1e-3).")
    if not jax.tree.leaves(params) or not _are_arrays(params):
        check.fail("params", "a pytree of arrays", type(params).__name__, "Of a network: apply, params = nn.split(network).")
    chain = [] if clip is None else [optax.clip_by_global_norm(clip)]
    optimizer = optax.chain(*chain, optax.adam(1e-3) if optimizer is None else optimizer)
    params = jax.tree.map(jnp.array, params)
    state = {
        "params": params,
        "optimizer": optimizer.init(params),
        "average": params if average is not None else None,
        "step": jnp.zeros((), jnp.int32),
        "failed": jnp.full((), -1, jnp.int32),
        "best": {"params": params, "loss": jnp.full((), jnp.inf), "step": jnp.zeros((), jnp.int32), "waited": jnp.zeros((), jnp.int32)},
    }
    if carry is not None:
        state["carry"] = carry
    state = jax.tree.map(jnp.array, state)  # nothing is shared: the state is donated
    place = _placement(devices, accumulate)
    state = place.state(state)
    log = _Log(folder, report)
    checkpoints = None if folder is None else Checkpoints(folder, state, str(np.asarray(jax.random.key_data(key)).tolist()))
    try:
        if checkpoints is not None and checkpoints.step() is not None:
            state = checkpoints.restore()
            log.forget_after(int(state["step"]))
        schedule = {"validate_every": validate_every, "patience": patience, "checkpoint_every": checkpoint_every, "log_every": log_every}
        step = _step(loss, optimizer, average, accumulate, precision)
        return _Loop(step, batch, steps, key, place, log, checkpoints, validate, **schedule).run(state)
    finally:
        log.close()
        if checkpoints is not None:
            checkpoints.close()


def _admit(**functions):
    for name, value in functions.items():
        if not callable(value) and (value is not None or name in ("loss", "batch")):
            check.fail(name, "a function", check.describe(value))


def _admit_key(key):
    dtype = getattr(key, "dtype", None)
    if dtype is None or not (jnp.issubdtype(dtype, jax.dtypes.prng_key) or (dtype == np.uint32 and np.shape(key) == (2,))):
        check.fail("key", "a key of JAX", check.describe(key), "E.g. jax.random.key(0).")


def _are_arrays(params):
    return all(isinstance(v, (int, float, complex)) or hasattr(v, "dtype") for v in jax.tree.leaves(params))


@dataclasses.dataclass
class _Loop:
    """The steps, and what happens between them."""

    step: Callable
    batch: Callable
    steps: int
    key: Any
    place: Any
    log: Any
    checkpoints: Checkpoints | None
    validate: Callable | None
    validate_every: int
    patience: int | None
    checkpoint_every: int
    log_every: int

    def run(self, state):
        data_key, loss_key = jax.random.split(self.key)
        done, status, message = int(state["step"]), "finished", ""
        self._restart(done)
        while done < self.steps and status == "finished":
            given = self.place.batch(self.batch(jax.random.fold_in(data_key, done), done))
            state, value, aux = self.step(state, given, jax.random.fold_in(loss_key, done))
            self._losses.append((value, aux))
            done += 1
            due = {name for name in ("log", "validate", "checkpoint") if done == self.steps or done % getattr(self, f"{name}_every") == 0}
            if not due:
                continue  # nothing is waited for: the next step can be sent off
            if (failed := int(state["failed"])) >= 0:
                status, done = "not finite", failed
                message = f"The loss or its gradient was not finite in step {failed} (batch(key, {failed})); the step was not made."
                due = {"checkpoint"}
            if "log" in due:
                self._write(done)
            if "validate" in due and self.validate is not None:
                state, waited = self._validated(self.validate, state, done)
                if self.patience is not None and waited >= self.patience and done < self.steps:
                    status = "stopped early"
                    message = f"No better validation for {waited} times; the best is that of step {int(state['best']['step'])}."
            if self.checkpoints is not None and ("checkpoint" in due or status != "finished") and self.checkpoints.step() != done:
                self.checkpoints.save("last", done, state | {"failed": jnp.full_like(state["failed"], -1)})
        current = _current(state)
        found = self.validate is not None and math.isfinite(float(state["best"]["loss"]))
        chosen, at = (state["best"]["params"], int(state["best"]["step"])) if found else (current, done)
        return Trained(chosen, state["params"], done, at, status, self.log.lines, message, state.get("carry"))

    def _restart(self, done):
        self._losses, self._since, self._start = [], done, time.perf_counter()

    def _write(self, done):
        if not self._losses:
            return
        rate = (done - self._since) / max(time.perf_counter() - self._start, 1e-9)
        line = {"step": done, "loss": float(np.mean([float(v) for v, _ in self._losses]))}
        line |= {k: float(np.mean([float(a[k]) for _, a in self._losses])) for k in self._losses[0][1]}
        self.log.write(line | {"steps_per_second": rate, "remaining_seconds": (self.steps - done) / rate})
        self._restart(done)

    def _validated(self, validate, state, done):
        # the state's own arrays are given away in the next step; over several hosts, each judges a copy of its own
        current = jax.tree.map(lambda v: jnp.array(np.asarray(v)), _current(state))
        values = validate(current)
        values = values if isinstance(values, dict) else {"loss": values}
        if "loss" not in values:
            check.fail("validate", 'a scalar, or a dict with "loss"', f"a dict with {', '.join(map(repr, values))}")
        for name, value in values.items():
            if np.shape(value) != ():
                check.fail("validate", "scalars", f"{name} of shape {np.shape(value)}", "Take the mean.")
        number, old = float(values["loss"]), state["best"]
        self.log.write({"step": done} | {f"validation_{k}": float(v) for k, v in values.items()})
        better = number < float(old["loss"])
        waited = 0 if better else int(old["waited"]) + 1
        best = {"params": jax.tree.map(jnp.array, current), "loss": number, "step": done} if better else old
        state = self.place.state(state | {"best": _typed(best | {"waited": waited}, old)})
        if better and self.checkpoints is not None:
            self.checkpoints.save("best", done, state)
        return state, waited


def _current(state):
    """The parameters to judge."""
    return state["params"] if state["average"] is None else state["average"]


def _typed(values, like):
    return jax.tree.map(lambda v, w: jnp.asarray(v, w.dtype), values, like)


def _step(loss, optimizer, average, accumulate, precision):
    probed = getattr(loss, "probed", None)

    def value_and_aux(params, probe, batch, key, carry):
        if precision != "float32":
            params, batch = (_cast(tree, precision) for tree in (params, batch))
        more = () if carry is None else (carry,)
        out = loss(params, batch, key, *more) if probed is None else probed(params, batch, key, probe)
        parts = out if isinstance(out, tuple) else (out, {})
        if len(parts) != (2 if carry is None else 3):
            expected = "a real scalar, or (scalar, dict)" if carry is None else "(scalar, dict, carry)"
            check.fail("loss", expected, f"a tuple of {len(parts)}", "With carry= the loss takes and returns it.")
        value, aux, *rest = parts
        if jnp.shape(value) != () or not jnp.issubdtype(jnp.result_type(value), jnp.floating):
            check.fail("loss", "a real scalar, or (scalar, dict)", f"{jnp.result_type(value)}{list(jnp.shape(value))}", "Take the mean.")
        if not isinstance(aux, dict):
            check.fail("loss", "a dict of scalars beside the value", type(aux).__name__)
        for name, v in aux.items():
            if jnp.shape(v) != ():
                got = f"{name} of shape {jnp.shape(v)}"
                check.fail("loss", "a dict of scalars beside the value", got, "Take means; arrays go into carry.")
        aux = jax.tree.map(lambda v: jnp.asarray(v, jnp.float32), aux)
        return value.astype(jnp.float32), (aux, _as_before(rest[0], carry) if rest else None)

    def slope(params, batch, key, carry):
        """A loss with ``probed(params, batch, key, probe)`` tells how well its gradient was solved for, as the slope in the probe."""
        both = jax.value_and_grad(value_and_aux, (0, 1), has_aux=True)
        (value, (aux, carry)), (gradient, residual) = both(params, jnp.zeros(()), batch, key, carry)
        return (value, (aux if probed is None else aux | {"adjoint_residual": residual}, carry)), gradient

    def averaged(params, batch, key, carry):
        if accumulate == 1:
            (value, (aux, carry)), gradient = slope(params, batch, key, carry)
            return value, aux, gradient, carry
        parts = jax.tree.map(lambda v: v.reshape(accumulate, v.shape[0] // accumulate, *v.shape[1:]), batch)
        keys = jax.random.split(key, accumulate)

        def one(carry, part):
            (value, (aux, carry)), gradient = slope(params, *part, carry)
            return carry, (value, aux, gradient)

        shapes = jax.eval_shape(one, carry, (jax.tree.map(lambda v: v[0], parts), keys[0]))[1]
        zero = jax.tree.map(lambda v: jnp.zeros(v.shape, v.dtype), shapes)

        def add(state, part):
            carry, new = one(state[0], part)
            return (carry, jax.tree.map(jnp.add, state[1], new)), None

        (carry, total), _ = jax.lax.scan(add, (carry, zero), (parts, keys))
        return *jax.tree.map(lambda v: v / accumulate, total), carry

    @functools.partial(jax.jit, donate_argnums=0)
    def step(state, batch, key):
        value, aux, gradient, carry = averaged(state["params"], batch, key, state.get("carry"))
        finite = jnp.isfinite(value) & jnp.isfinite(optax.tree.norm(gradient)) & (state["failed"] < 0)
        gradient = jax.tree.map(jnp.conj, gradient)  # the direction of ascent: JAX gives its conjugate where parameters are complex
        change, optimizer_state = optimizer.update(gradient, state["optimizer"], state["params"])
        params = optax.apply_updates(state["params"], change)
        new = state | {"params": params, "optimizer": optimizer_state, "step": state["step"] + 1}
        if carry is not None:
            new["carry"] = carry
        if average is not None:
            # the first steps count more than the decay says, or the start would linger
            count = state["step"].astype(jnp.float32)
            decay = jnp.minimum(average, (1 + count) / (10 + count))
            new["average"] = jax.tree.map(lambda a, p: decay * a + (1 - decay) * p, state["average"], params)
        kept = jax.tree.map(lambda a, b: jnp.where(finite, a, b), new, state)
        kept["failed"] = jnp.where((state["failed"] < 0) & ~finite, state["step"], state["failed"])
        return kept, value, aux

    return step


def _as_before(new, old):
    """The new carry, like the old one in structure, shapes and types: the program is compiled once."""
    if jax.tree.structure(new) != jax.tree.structure(old) or jax.tree.map(jnp.shape, new) != jax.tree.map(jnp.shape, old):
        check.fail("loss", "a carry like the one it was given", f"{jax.tree.map(jnp.shape, new)} for {jax.tree.map(jnp.shape, old)}")
    return jax.lax.stop_gradient(jax.tree.map(lambda n, o: jnp.asarray(n, o.dtype), new, old))


def _cast(tree, precision):
    return jax.tree.map(lambda v: v.astype(precision) if jnp.issubdtype(v.dtype, jnp.floating) else v, tree)


class _Here:
    """Everything where JAX puts it."""

    def __init__(self, parts):
        self._parts = parts

    def state(self, tree):
        return tree

    def batch(self, tree):
        leaves = jax.tree.leaves(tree)
        if not leaves:
            check.fail("batch", "arrays", "none", "Return a pytree of arrays with the samples along the first axis.")
        sizes = {np.shape(v)[0] if np.ndim(v) else 0 for v in leaves}
        if len(sizes) != 1 or 0 in sizes:
            check.fail("batch", "arrays with the same number of samples along the first axis", ", ".join(str(np.shape(v)) for v in leaves))
        size = sizes.pop()
        if size % self._parts:
            check.fail("batch", f"a size that {self._parts} (devices × accumulate) divides", str(size))
        return tree


class _Split(_Here):
    """Batches split over devices, everything else copied to each. All processes make the same batch and keep their part of it."""

    def __init__(self, devices, accumulate):
        super().__init__(len(devices) * accumulate)
        mesh = Mesh(np.array(devices), ("data",))
        self._copied, self._split = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in ((), ("data",)))

    def state(self, tree):
        return self._put(tree, self._copied)

    def batch(self, tree):
        return self._put(super().batch(tree), self._split)

    def _put(self, tree, sharding):
        # through the host: jax.device_put of an array on one device to several processes leaves one that cannot be saved (jax 0.10)
        def put(v):
            host = np.asarray(v)
            return jax.make_array_from_callback(host.shape, sharding, lambda index: host[index])

        return jax.tree.map(put, tree)


def _placement(devices, accumulate):
    if devices is None:
        return _Here(accumulate)
    if not len(devices):
        check.fail("devices", "at least one", "none", "E.g. jax.devices().")
    return _Split(list(devices), accumulate)


class _Log:
    """Lines in memory and, with a folder, in ``log.jsonl``."""

    def __init__(self, folder, report):
        first = jax.process_index() == 0  # of several hosts one writes
        self.lines, self._report, self._file = [], report if first else None, None
        self._path = None if folder is None or not first else pathlib.Path(folder) / "log.jsonl"
        if self._path is not None:
            if self._path.parent.exists() and not self._path.parent.is_dir():
                check.fail("folder", "a folder", f"{self._path.parent}, which is a file")
            self._path.parent.mkdir(parents=True, exist_ok=True)

    def forget_after(self, step):
        """Keep what was written up to a step: later lines will be written again."""
        if self._path is None or not self._path.exists():
            return
        for text in self._path.read_text().splitlines():
            try:
                line = json.loads(text)
            except ValueError:
                continue  # half a line, of a run that was killed
            if line["step"] <= step:
                self.lines.append(line)
        temporary = self._path.with_suffix(".new")
        temporary.write_text("".join(json.dumps(line) + "\n" for line in self.lines))
        temporary.replace(self._path)

    def write(self, line):
        self.lines.append(line)
        if self._path is not None:
            self._file = self._file or self._path.open("a" if self.lines[:-1] else "w")
            self._file.write(json.dumps(line) + "\n")
            self._file.flush()
        if self._report is not None:
            self._report(line)

    def close(self):
        if self._file is not None:
            self._file.close()
