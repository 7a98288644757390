"""Training: one engine for every loss; the principles by which priors and reconstructions are learned."""

from diffimg.learn.bilevel import Bilevel
from diffimg.learn.checkpoints import Checkpoints
from diffimg.learn.plug_and_play import LipschitzEstimate, dpir, lipschitz_estimate
from diffimg.learn.pretrained import Pretrained, pretrained, pretrained_names
from diffimg.learn.train import Trained, train
from diffimg.learn.weights import load_weights, save_weights

__all__ = [
    "Bilevel",
    "Checkpoints",
    "LipschitzEstimate",
    "Pretrained",
    "Trained",
    "dpir",
    "lipschitz_estimate",
    "load_weights",
    "pretrained",
    "pretrained_names",
    "save_weights",
    "train",
]
