"""Published weights of DRUNet and DnCNN (the DPIR and KAIR repositories) for the networks of this package, from local files."""

from __future__ import annotations

import os
import pickle
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

import jax.numpy as jnp
import numpy as np
from flax import nnx

from diffimg.core import check
from diffimg.data.extras import optional
from diffimg.nn.dncnn import DnCNN
from diffimg.nn.drunet import DRUNet
from diffimg.nn.functional import Apply, split

_WRAPPERS = ("params", "params_ema", "state_dict", "model")  # under which checkpoints keep the weights
_AXES = {"convolution": (2, 3, 1, 0), "transposed": (0, 2, 3, 1), "bias": (0,)}  # of PyTorch's layout, in ours
_Place = tuple[tuple[Any, ...], str]  # of one array in the parameters, and how its axes lie in the file


def load_published(path: str | os.PathLike[str], kind: str) -> tuple[Apply, dict]:
    """(apply, params) of a published denoiser; channels, widths and depth are those of the file.

    ``apply(params, x, sigma)`` for ``"drunet"`` and ``apply(params, x)`` for ``"dncnn"`` denoise ``[..., y, x, channel]`` with white = 1,
    sigma in the same unit (25/255, …). The files hold weights for such images; those of DnCNN are for one level of noise each.

    Args:
        path: ``.pth`` of PyTorch (``drunet_gray.pth``, ``dncnn_25.pth``, …), read without running code from it, or ``.npz`` with the same
            names (then PyTorch is not needed).
        kind: ``"drunet"`` (KAIR's UNetRes with a map of the noise level: m_head, m_down1, …, m_body, …, m_up1, m_tail, without biases) or
            ``"dncnn"`` (model.0, model.2, …, with biases and with batch normalisation merged).

    Raises:
        ValueError: no such file, no weights in it, code in it, names or shapes of another network, NaN/Inf.
        ImportError: a ``.pth`` file, and PyTorch is not installed.

    K. Zhang et al., IEEE Trans. Pattern Anal. Mach. Intell. 44 (2022) 6360 (DRUNet); IEEE Trans. Image Process. 26 (2017) 3142 (DnCNN).
    """
    check.one_of("kind", kind, ("drunet", "dncnn"))
    file = Path(path)
    if not file.is_file():
        check.fail("path", "an existing file", f"{file.name}, which is none", "Download the weights first, and check the path.")
    weights = _weights(file)
    module, places = (_drunet if kind == "drunet" else _dncnn)(weights, file)
    missing, foreign = sorted(set(places) - set(weights)), sorted(set(weights) - set(places))
    if missing or foreign:
        parts = [f"{len(names)} {what} ({_few(names)})" for what, names in (("missing", missing), ("unexpected", foreign)) if names]
        _other(file, kind, " and ".join(parts))
    apply, params = split(module)
    for name, (route, layout) in places.items():
        *above, last = route
        inner = params
        for step in above:
            inner = inner[step]
        value = weights[name].transpose(_AXES[layout]) if weights[name].ndim == len(_AXES[layout]) else weights[name]
        if value.shape != inner[last].shape:
            wanted = tuple(inner[last].shape[_AXES[layout].index(a)] for a in range(len(_AXES[layout])))
            remedy = f"The other arrays tell of a {kind} of other sizes."
            check.fail(name, f"shape {wanted} in {file.name}", str(weights[name].shape), remedy)
        check.finite(name, value, "The file is damaged.")
        inner[last] = jnp.asarray(value)
    return apply, params


def _weights(file: Path) -> dict[str, np.ndarray]:
    """The arrays of the file by name, in float32 or float64."""
    found = _numpy(file) if file.suffix.lower() == ".npz" else _pytorch(file)
    found = {name.removeprefix("module."): value for name, value in found.items()}  # DataParallel's
    return {re.sub(r"^m_body\.res\.", "m_body.0.res.", name): value for name, value in found.items()}  # a sequence of one has no index


def _numpy(file: Path) -> dict[str, np.ndarray]:
    try:
        with np.load(file, allow_pickle=False) as archive:
            found = {name: archive[name] for name in archive.files}
    except (OSError, ValueError, EOFError, AttributeError, TypeError, zipfile.BadZipFile) as error:
        check.fail("path", "an .npz file of arrays", f"{file.name} ({type(error).__name__} while reading it)", "Save it again.")
    for name, value in found.items():
        if value.dtype.kind != "f":
            check.fail(name, f"floating numbers in {file.name}", str(value.dtype))
    return {name: value if value.dtype == np.float64 else value.astype(np.float32) for name, value in found.items()}


def _pytorch(file: Path) -> dict[str, np.ndarray]:
    torch = optional("torch", "Reading PyTorch weights", "torch")
    try:
        found = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # the unpickler and the archive raise many kinds
        if isinstance(error, pickle.UnpicklingError):  # what is not plain weights is refused before it is made
            remedy = "Loading it could run code. If you trust it, save its state_dict() with torch.save, or its arrays with np.savez."
            check.fail("path", "a file of weights only", f"{file.name}, a pickle with other objects (or a damaged one)", remedy)
        got = f"{file.name} ({type(error).__name__} while reading it)"
        check.fail("path", "weights saved by torch.save", got, "It is damaged, or something else: fetch it again.")
    if isinstance(found, Mapping):
        found = next((found[name] for name in _WRAPPERS if isinstance(found.get(name), Mapping)), found)
    if not isinstance(found, Mapping) or not found or not all(isinstance(v, torch.Tensor) for v in found.values()):
        got = f"{file.name} with {type(found).__name__}" + (f" of {_few(map(str, found))}" if isinstance(found, Mapping) else "")
        check.fail("path", "a state_dict: names and tensors", got, "Save model.state_dict() with torch.save.")
    return {name: (v if v.dtype == torch.float64 else v.float()).detach().numpy() for name, v in found.items()}


def _drunet(weights: Mapping[str, np.ndarray], file: Path) -> tuple[nnx.Module, dict[str, _Place]]:
    head, tail = (_kernel(weights, name, "drunet", file) for name in ("m_head.weight", "m_tail.weight"))
    if head.shape[1] != tail.shape[0] + 1:
        got = f"{head.shape[1]} channels in, {tail.shape[0]} out"
        _other(file, "drunet", got, "Only those that take the noise level as one more channel are DRUNets.")
    scales = _count(weights, r"m_down(\d+)\.", 1)
    blocks = _count(weights, r"m_body\.(\d+)\.", 0)
    if not blocks:
        _other(file, "drunet", "no m_body.0.res.0.weight")
    widths = [head.shape[0]]
    for k in range(1, scales + 1):
        widths.append(_kernel(weights, f"m_down{k}.{blocks}.weight", "drunet", file).shape[0])
    places: dict[str, _Place] = {f"m_{end}.weight": ((end, "kernel"), "convolution") for end in ("head", "tail")}

    def chain(stem: str, first: int, route: tuple[Any, ...]) -> None:
        for k in range(blocks):
            for place, layer in ((0, "first"), (2, "second")):
                places[f"{stem}.{first + k}.res.{place}.weight"] = ((*route, k, layer, "kernel"), "convolution")

    chain("m_body", 0, ("body",))
    for k in range(1, scales + 1):
        chain(f"m_down{k}", 0, ("down_blocks", k - 1))
        places[f"m_down{k}.{blocks}.weight"] = (("down", k - 1, "kernel"), "convolution")
        chain(f"m_up{k}", 1, ("up_blocks", scales - k))  # ours count from the coarsest
        places[f"m_up{k}.0.weight"] = (("up", scales - k, "kernel"), "transposed")
    return nnx.eval_shape(lambda: DRUNet(tail.shape[0], widths, blocks, rngs=nnx.Rngs(0))), places


def _dncnn(weights: Mapping[str, np.ndarray], file: Path) -> tuple[nnx.Module, dict[str, _Place]]:
    if any(name.endswith("running_mean") for name in weights):
        _other(file, "dncnn", "batch normalisation", "Merge it into the convolutions first (KAIR: utils_bnorm.merge_bn).")
    head = _kernel(weights, "model.0.weight", "dncnn", file)
    numbers = [int(match[1]) for name in weights if (match := re.fullmatch(r"model\.(\d+)\.weight", name))]
    depth = max(numbers) // 2 + 1
    if depth < 2:
        _other(file, "dncnn", "a single convolution")
    outputs = _kernel(weights, f"model.{max(numbers)}.weight", "dncnn", file).shape[0]
    if outputs != head.shape[1]:
        _other(file, "dncnn", f"{head.shape[1]} channels in, {outputs} out", "One that takes the noise level (FDnCNN) is another network.")
    places: dict[str, _Place] = {}
    for k in range(depth):
        places[f"model.{2 * k}.weight"] = (("layers", k, "kernel"), "convolution")
        places[f"model.{2 * k}.bias"] = (("layers", k, "bias"), "bias")
    return nnx.eval_shape(lambda: DnCNN(head.shape[1], head.shape[0], depth, rngs=nnx.Rngs(0))), places


def _kernel(weights: Mapping[str, np.ndarray], name: str, kind: str, file: Path) -> np.ndarray:
    if name not in weights:
        _other(file, kind, f"no {name} among {len(weights)} names ({_few(weights)})")
    if weights[name].ndim != 4:
        check.fail(name, f"four axes in {file.name}", f"shape {weights[name].shape}")
    return weights[name]


def _count(weights: Mapping[str, np.ndarray], pattern: str, first: int) -> int:
    """How many numbers, counted from ``first``, stand in the names."""
    numbers = [int(match[1]) for name in weights if (match := re.match(pattern, name))]
    return max(numbers) + 1 - first if numbers else 0


def _other(file: Path, kind: str, got: str, remedy: str = "") -> NoReturn:
    remedy = remedy or "It belongs to another network, or to another kind: 'drunet' or 'dncnn'."
    check.fail("path", f"the names and sizes of a {kind}", f"{file.name} with {got}", remedy)


def _few(names: Any) -> str:
    names = list(names)
    return ", ".join(names[:4]) + (", …" if len(names) > 4 else "")
