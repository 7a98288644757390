"""The small trained models that come with diffimg, each with a card that says what it was trained on and how well it does."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from diffimg import nn
from diffimg.core import check
from diffimg.energy import Energy, PlugAndPlay
from diffimg.energy.ridge import constrained_ridge
from diffimg.learn.weights import load_weights

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
                return constrained_ridge(self.params, model["weak"], tuple(model["knots"]))
            case "drunet":
                apply = nn.structure(nn.DRUNet, 1, model["widths"], model["blocks"])
                return PlugAndPlay(nn.on_images(apply, separately=True), self.params, 1.0, tuple(model["sigma_range"]))
            case other:
                check.fail("prior", "a model that is a prior", f"{self.name!r}, {other}", "Look at its card.")


def pretrained_names() -> tuple[str, ...]:
    """The names that ``pretrained`` knows."""
    return tuple(sorted(p.stem for p in FOLDER.glob("*.npz")))


def pretrained(name: str) -> Pretrained:
    """A shipped model by name; ``print(pretrained(name).card)`` tells what it is.

    Raises:
        ValueError: an unknown name.
    """
    check.one_of("name", name, pretrained_names())
    params, about = load_weights(FOLDER / f"{name}.npz")
    card = FOLDER / f"{name}.md"
    return Pretrained(name, params, about, card.read_text(encoding="utf-8") if card.is_file() else "")
