"""Weights in the layout of DPIR/KAIR, run by PyTorch's own functions and by this package; files that are not such weights."""

import itertools
import os
import pickle
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from diffimg import nn
from diffimg.nn.published import load_published

torch = pytest.importorskip("torch")
F = torch.nn.functional


def drunet_weights(widths=(5, 6, 7, 8), blocks=2, channels=1, seed=0):
    """Random weights by the names of UNetRes; those of residual blocks and samplings have no bias."""
    generator = torch.Generator().manual_seed(seed)

    def kernel(outputs, inputs, size):
        return torch.randn(outputs, inputs, size, size, generator=generator) / (inputs * size * size) ** 0.5

    def chain(stem, first, width):
        return {f"{stem}.{first + k}.res.{place}.weight": kernel(width, width, 3) for k in range(blocks) for place in (0, 2)}

    found = {"m_head.weight": kernel(widths[0], channels + 1, 3)}
    for k in range(1, len(widths)):
        fine, coarse = widths[k - 1 : k + 1]
        found |= chain(f"m_down{k}", 0, fine) | {f"m_down{k}.{blocks}.weight": kernel(coarse, fine, 2)}
        found |= {f"m_up{k}.0.weight": kernel(coarse, fine, 2)} | chain(f"m_up{k}", 1, fine)  # transposed: [in, out, 2, 2]
    return found | chain("m_body", 0, widths[-1]) | {"m_tail.weight": kernel(channels, widths[0], 3)}


def drunet_by_torch(weights, scales, blocks, x, sigma):
    """Output, and what leaves the head, each scale on the way down, the body and each scale on the way up; [n, channel, y, x]."""

    def residual(x, name):
        y = torch.relu(F.conv2d(x, weights[f"{name}.res.0.weight"], padding=1))
        return x + F.conv2d(y, weights[f"{name}.res.2.weight"], padding=1)

    level = torch.full_like(x[:, :1], sigma)
    skips = [F.conv2d(torch.cat([x, level], 1), weights["m_head.weight"], padding=1)]
    seen = {"head": skips[0]}
    for k in range(1, scales + 1):
        x = skips[-1]
        for b in range(blocks):
            x = residual(x, f"m_down{k}.{b}")
        skips.append(F.conv2d(x, weights[f"m_down{k}.{blocks}.weight"], stride=2))
        seen[f"down{k}"] = skips[-1]
    x = skips[-1]
    for b in range(blocks):
        x = residual(x, f"m_body.{b}")
    seen["body"] = x
    for k in range(scales, 0, -1):
        x = F.conv_transpose2d(x + skips[k], weights[f"m_up{k}.0.weight"], stride=2)
        for b in range(1, blocks + 1):
            x = residual(x, f"m_up{k}.{b}")
        seen[f"up{k}"] = x
    return F.conv2d(x + skips[0], weights["m_tail.weight"], padding=1), seen


def ours_by_parts(module, x, sigma):
    """The same places of this package's module, from its own parts."""
    x = module.head(jnp.concatenate([x, jnp.full((*x.shape[:-1], 1), sigma, x.dtype)], -1))
    seen, skips = {"head": x}, [x]

    def chain(blocks, x):
        for block in blocks:
            x = block(x)
        return x

    for k, down in enumerate(module.down):
        x = down(chain(module.down_blocks[k], x))
        seen[f"down{k + 1}"] = x
        skips.append(x)
    seen["body"] = x = chain(module.body, x)
    for k, up in enumerate(module.up):
        x = seen[f"up{len(module.up) - k}"] = chain(module.up_blocks[k], up(x + skips.pop()))
    return module.tail(x + skips.pop()), seen


def near(ours, theirs):
    theirs = theirs.permute(0, 2, 3, 1).numpy()
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5 * max(1.0, np.abs(theirs).max()))


@pytest.mark.parametrize(
    ("widths", "blocks", "channels"), [((5, 6, 7, 8), 2, 1), ((4, 6, 5), 3, 3), ((3, 4, 5, 6, 7), 1, 1), ((4, 4), 1, 2)]
)
@pytest.mark.parametrize("shape", [(16, 48)])
def test_drunet_is_that_of_pytorch(tmp_path, widths, blocks, channels, shape):
    weights = drunet_weights(widths, blocks, channels)
    torch.save(weights, tmp_path / "drunet.pth")
    apply, params = load_published(tmp_path / "drunet.pth", "drunet")
    x = np.random.default_rng(1).random((2, *shape, channels)).astype(np.float32)
    with torch.no_grad():
        output, theirs = drunet_by_torch(weights, len(widths) - 1, blocks, torch.from_numpy(x).permute(0, 3, 1, 2), 0.1)
    direct, (again, ours) = jax.jit(lambda p, x: (apply(p, x, 0.1), ours_by_parts(nn.join(apply, p), x, 0.1)))(params, x)
    near(direct, output)
    assert set(ours) == set(theirs)
    for place in ours:
        near(ours[place], theirs[place])
    near(again, output)
    # the very function and the very tree of a network made here
    pure, own = nn.split(nnx.eval_shape(lambda: nn.DRUNet(channels, widths, blocks, rngs=nnx.Rngs(0))))
    assert pure == apply and jax.tree.structure(own) == jax.tree.structure(params)
    assert [v.shape for v in jax.tree.leaves(own)] == [v.shape for v in jax.tree.leaves(params)]
    assert all(isinstance(v, jax.Array) and v.dtype == jnp.float32 for v in jax.tree.leaves(params))
    assert sum(v.numel() for v in weights.values()) == nn.count(params)


def test_odd_sizes_are_padded_by_the_edge_like_the_published_code(tmp_path):
    weights = drunet_weights()
    torch.save(weights, tmp_path / "drunet.pth")
    apply, params = load_published(tmp_path / "drunet.pth", "drunet")
    x = np.random.default_rng(2).random((1, 13, 22, 1)).astype(np.float32)
    with torch.no_grad():
        padded = F.pad(torch.from_numpy(x).permute(0, 3, 1, 2), (0, 2, 0, 3), mode="replicate")
        output, _ = drunet_by_torch(weights, 3, 2, padded, 0.05)
    near(jax.jit(apply)(params, x, 0.05), output[..., :13, :22])


def dncnn_weights(depth=5, width=6, channels=1, seed=0):
    generator = torch.Generator().manual_seed(seed)
    sizes = [channels, *[width] * (depth - 1), channels]
    found = {}
    for k, (a, b) in enumerate(itertools.pairwise(sizes)):
        found[f"model.{2 * k}.weight"] = torch.randn(b, a, 3, 3, generator=generator) / (4.5 * a) ** 0.5
        found[f"model.{2 * k}.bias"] = torch.randn(b, generator=generator) / 10
    return found


@pytest.mark.parametrize(("depth", "width", "channels"), [(5, 6, 1), (2, 4, 3), (12, 11, 1)])
@pytest.mark.parametrize("shape", [(16, 24), (9, 31)])
def test_dncnn_is_that_of_pytorch(tmp_path, depth, width, channels, shape):
    weights = dncnn_weights(depth, width, channels)
    torch.save(weights, tmp_path / "dncnn_25.pth")
    apply, params = load_published(str(tmp_path / "dncnn_25.pth"), "dncnn")
    x = np.random.default_rng(1).random((2, *shape, channels)).astype(np.float32)
    y = start = torch.from_numpy(x).permute(0, 3, 1, 2)
    for k in range(depth):
        y = F.conv2d(torch.relu(y) if k else y, weights[f"model.{2 * k}.weight"], weights[f"model.{2 * k}.bias"], padding=1)
    near(jax.jit(apply)(params, x), start - y)
    pure, own = nn.split(nnx.eval_shape(lambda: nn.DnCNN(channels, width, depth, rngs=nnx.Rngs(0))))
    assert pure == apply and jax.tree.structure(own) == jax.tree.structure(params)


def test_weights_come_in_several_wrappings(tmp_path, monkeypatch):
    weights = drunet_weights((4, 5), 1)
    torch.save(weights, tmp_path / "plain.pth")
    _, plain = load_published(tmp_path / "plain.pth", "drunet")
    variants = {
        "params.pth": {"params": weights},
        "lightning.ckpt": {"state_dict": {f"module.{name}": value for name, value in weights.items()}, "epoch": 3},
        "double.pth": {name: value.double() for name, value in weights.items()},
        # KAIR's sequence of a single block is that block, without an index
        "single.pth": {name.replace("m_body.0.", "m_body."): value for name, value in weights.items()},
    }
    for name, found in variants.items():
        torch.save(found, tmp_path / name)
    torch.save(weights, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    np.savez(tmp_path / "arrays.npz", **{name: value.numpy() for name, value in weights.items()})
    for name in (*variants, "old.pth"):
        _, params = load_published(tmp_path / name, "drunet")
        jax.tree.map(np.testing.assert_array_equal, params, plain)
    torch.save({name: value.half() for name, value in weights.items()}, tmp_path / "half.pth")
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-3), load_published(tmp_path / "half.pth", "drunet")[1], plain)
    monkeypatch.setitem(sys.modules, "torch", None)
    jax.tree.map(np.testing.assert_array_equal, load_published(tmp_path / "arrays.npz", "drunet")[1], plain)
    with pytest.raises(ImportError, match=r'needs torch.*pip install "diffimg-jax\[torch\]"'):
        load_published(tmp_path / "plain.pth", "drunet")


class Evil:
    def __reduce__(self):
        return os.mkdir, ("must_not_exist",)


def changed(make, change):
    def write(file):
        weights = make()
        change(weights)
        torch.save(weights, file)

    return write


def renamed(weights, old, new):
    weights[new] = weights.pop(old)


def truncated(file):
    torch.save(drunet_weights(), file)
    file.write_bytes(file.read_bytes()[:2000])


@pytest.mark.parametrize(
    ("kind", "write", "message"),
    [
        ("drunet", lambda f: None, r"w\.pth, which is none"),
        ("unet", lambda f: torch.save(drunet_weights(), f), "kind: expected one of 'drunet', 'dncnn'"),
        ("drunet", lambda f: f.write_text("no weights"), r"got w\.pth"),
        ("drunet", lambda f: f.write_bytes(b""), r"w\.pth \("),
        ("drunet", truncated, r"w\.pth \("),
        ("drunet", lambda f: torch.save({"a": Evil()}, f), r"w\.pth, a pickle with other objects.*could run code"),
        ("drunet", lambda f: f.write_bytes(pickle.dumps(Evil(), 2)), r"w\.pth"),
        ("drunet", lambda f: torch.save(torch.nn.Conv2d(1, 1, 3), f), "a pickle with other objects"),
        ("drunet", lambda f: torch.save([torch.ones(2)], f), "a state_dict: names and tensors, got w"),
        ("drunet", lambda f: torch.save({"epoch": 3}, f), r"w\.pth with dict of epoch"),
        ("drunet", lambda f: torch.save({}, f), "a state_dict"),
        ("drunet", lambda f: torch.save(dncnn_weights(), f), r"names and sizes of a drunet, got w\.pth with no m_head\.weight among 10"),
        ("dncnn", lambda f: torch.save(drunet_weights(), f), r"names and sizes of a dncnn, got w\.pth with no model\.0\.weight"),
        ("drunet", changed(drunet_weights, lambda w: w.pop("m_up2.1.res.2.weight")), r"1 missing \(m_up2\.1\.res\.2\.weight\)"),
        ("drunet", changed(drunet_weights, lambda w: w.pop("m_down2.2.weight")), r"no m_down2\.2\.weight"),
        ("drunet", changed(drunet_weights, lambda w: w.pop("m_tail.weight")), r"no m_tail\.weight"),
        ("drunet", changed(drunet_weights, lambda w: w.update({"m_tail.bias": torch.ones(1)})), r"1 unexpected \(m_tail\.bias\)"),
        (
            "drunet",
            changed(drunet_weights, lambda w: renamed(w, "m_up1.1.res.0.weight", "m_up1.1.res.1.weight")),
            r"1 missing \(m_up1\.1\.res\.0\.weight\) and 1 unexpected \(m_up1\.1\.res\.1\.weight\)",
        ),
        (
            "drunet",
            changed(drunet_weights, lambda w: w.update({"m_head.weight": torch.ones(5, 1, 3, 3)})),
            "1 channels in, 1 out.*noise level",
        ),
        (
            "drunet",
            changed(drunet_weights, lambda w: w.update({"m_up3.0.weight": torch.ones(7, 8, 2, 2)})),
            r"m_up3\.0\.weight: expected shape \(8, 7, 2, 2\) in w\.pth, got \(7, 8, 2, 2\)",
        ),
        (
            "drunet",
            changed(drunet_weights, lambda w: w.update({"m_body.1.res.2.weight": torch.ones(8)})),
            r"m_body\.1\.res\.2\.weight: expected shape \(8, 8, 3, 3\) in w\.pth, got \(8,\)",
        ),
        ("drunet", changed(drunet_weights, lambda w: w["m_head.weight"].fill_(float("nan"))), r"m_head\.weight: expected finite"),
        ("dncnn", changed(dncnn_weights, lambda w: w.pop("model.4.bias")), r"1 missing \(model\.4\.bias\)"),
        ("dncnn", changed(dncnn_weights, lambda w: w.update({"model.3.running_mean": torch.ones(6)})), "batch normalisation.*Merge"),
        ("dncnn", changed(dncnn_weights, lambda w: w.update({"model.0.weight": torch.ones(6, 2, 3, 3)})), "2 channels in, 1 out.*FDnCNN"),
        (
            "dncnn",
            changed(dncnn_weights, lambda w: w.update({"model.2.weight": torch.ones(6, 6, 5, 5)})),
            r"model\.2\.weight: expected shape",
        ),
        ("dncnn", changed(dncnn_weights, lambda w: w.update({"model.2.bias": torch.ones(5)})), r"model\.2\.bias: expected shape \(6,\)"),
        ("dncnn", lambda f: torch.save({"model.0.weight": torch.ones(1, 1, 3, 3)}, f), "a single convolution"),
    ],
)
def test_other_files_are_refused(tmp_path, monkeypatch, kind, write, message):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "w.pth")
    with pytest.raises(ValueError, match=message):
        load_published(tmp_path / "w.pth", kind)
    assert not (tmp_path / "must_not_exist").exists()  # no code of the file was run


@pytest.mark.parametrize("content", [b"", b"text", b"PK\x03\x04 cut"])
def test_archives_that_are_none(tmp_path, content):
    (tmp_path / "w.npz").write_bytes(content)
    with pytest.raises(ValueError, match=r"an \.npz file of arrays, got w\.npz"):
        load_published(tmp_path / "w.npz", "dncnn")
    np.savez(tmp_path / "w.npz", **{"model.0.weight": np.ones((1, 1, 3, 3), int)})
    with pytest.raises(ValueError, match=r"model\.0\.weight: expected floating numbers"):
        load_published(tmp_path / "w.npz", "dncnn")


def test_parameters_are_those_of_a_network_made_here(tmp_path):
    torch.save(dncnn_weights(3, 4), tmp_path / "w.pth")
    apply, params = load_published(tmp_path / "w.pth", "dncnn")
    pure, own = nn.split(nn.DnCNN(1, 4, 3, rngs=nnx.Rngs(5)))
    assert pure == apply and jax.tree.structure(own) == jax.tree.structure(params)
    x = np.random.default_rng(0).random((6, 7)).astype(np.float32)
    slopes = jax.grad(lambda p: jnp.sum(nn.on_images(apply)(p, x) ** 2))(params)  # they train on like any others
    assert all(float(jnp.abs(v).max()) > 0 for v in jax.tree.leaves(slopes))


@pytest.mark.slow
def test_the_published_size_fits(tmp_path):
    """The network of DPIR: 32 638 656 numbers for grey images."""
    weights = drunet_weights((64, 128, 256, 512), 4)
    torch.save(weights, tmp_path / "drunet_gray.pth")
    apply, params = load_published(tmp_path / "drunet_gray.pth", "drunet")
    assert nn.count(params) == 32_638_656
    x = np.random.default_rng(0).random((1, 32, 32, 1)).astype(np.float32)
    with torch.no_grad():
        output, _ = drunet_by_torch(weights, 3, 4, torch.from_numpy(x).permute(0, 3, 1, 2), 0.1)
    near(jax.jit(apply)(params, x, 0.1), output)
