"""The small trained models that come with diffimg, each with a card that says what it was trained on and how well it does."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

from diffimg import nn
from diffimg.core import check
from diffimg.core.pytree import replace
from diffimg.energy import Energy, PlugAndPlay
from diffimg.energy.ridge import constrained_ridge
from diffimg.learn.weights import load_weights

UNROLLED = {c.__name__: c for c in (nn.LearnedPGM, nn.VariationalNetwork, nn.MoDL, nn.LearnedPrimalDual)}
FOLDER = Path(__file__).resolve().parent.parent / "weights"


@dataclasses.dataclass(frozen=True, eq=False)
class Pretrained:
    """A trained model.

    Attributes:
        name: of the file. params: its numbers, float32.
        about: kind and sizes (``about["model"]``), the config that made it, its metrics.
        card: Markdown: task, data and split, figures, limits, the command that makes it again.
    """

    name: str
    params: Any = dataclasses.field(repr=False)
    about: dict[str, Any] = dataclasses.field(repr=False)
    card: str = dataclasses.field(repr=False)

    def prior(self) -> Energy:
        """As a part of any problem: ``RidgeRegularizer``, or ``PlugAndPlay`` for denoisers (with the range of levels they know)."""
        model = self.about["model"]
        match model["kind"]:
            case "ridge":
                ridge = constrained_ridge(self.params, model["weak"], tuple(model["knots"]))
                return replace(ridge, weight=model.get("weight", 1.0))
            case "drunet" | "score":
                return PlugAndPlay(self.denoiser(), self.params, 1.0, tuple(model["sigma_range"]))
            case other:
                check.fail("prior", "a model that is a prior", f"{self.name!r}, {other}", "Look at its card.")

    def denoiser(self) -> Callable[..., Any]:
        """``denoise(params, x, sigma)`` of a denoiser or a score model: the score at σ is (D(x, σ) − x)/σ².

        One of real images is applied to the real and the imaginary part of complex ones. σ is in units of the image; levels that it was
        not trained for are refused, and give NaN inside ``jit``.
        """
        model = self.about["model"]
        if model["kind"] not in ("drunet", "score"):
            check.fail("denoiser", "a denoiser or a score model", f"{self.name!r}, {model['kind']}", "Look at its card.")
        channels = model.get("channels", 1)
        apply = nn.structure(nn.DRUNet, channels, model["widths"], model["blocks"])
        return nn.preconditioned(nn.on_images(apply, separately=channels == 1), model["sigma_data"], tuple(model["sigma_range"]))

    def network(self) -> Callable[..., Any]:
        """``network(params, y, operator, x0)`` of an unrolled reconstruction."""
        model = self.about["model"]
        if model["kind"] != "unrolled":
            check.fail("network", "an unrolled network", f"{self.name!r}, {model['kind']}", "Look at its card.")
        return nn.structure(UNROLLED[model["network"]], model["iterations"], complex_values=model["complex_values"])


def pretrained_names(kind: str | None = None) -> tuple[str, ...]:
    """The names that ``pretrained`` knows; of one kind: "ridge", "drunet" (denoisers), "score" or "unrolled"."""
    names = tuple(sorted(p.stem for p in FOLDER.glob("*.npz")))
    return names if kind is None else tuple(n for n in names if load_weights(FOLDER / f"{n}.npz")[1]["model"]["kind"] == kind)


def pretrained(name: str) -> Pretrained:
    """A shipped model by name; ``print(pretrained(name).card)`` tells what it is.

    Raises:
        ValueError: an unknown name.
    """
    check.one_of("name", name, pretrained_names())
    params, about = load_weights(FOLDER / f"{name}.npz")
    card = FOLDER / f"{name}.md"
    return Pretrained(name, params, about, card.read_text(encoding="utf-8") if card.is_file() else "")
