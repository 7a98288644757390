"""Training: one engine for every loss; the principles by which priors and reconstructions are learned."""

from diffimg.learn.adversarial import adversarial, adversarial_weight
from diffimg.learn.bilevel import Bilevel
from diffimg.learn.checkpoints import Checkpoints
from diffimg.learn.diffusion import diffusion_sample
from diffimg.learn.likelihood import Replay, contrastive_divergence
from diffimg.learn.plug_and_play import LipschitzEstimate, dpir, lipschitz_estimate
from diffimg.learn.pretrained import Pretrained, pretrained, pretrained_names
from diffimg.learn.sampling import Samples, langevin, pooled, posterior, scale_reduction
from diffimg.learn.score import (
    denoiser_score,
    denoiser_score_matching,
    denoising_loss,
    denoising_score_matching,
    explicit_score_matching,
    implicit_score_matching,
    tweedie,
)
from diffimg.learn.self_supervised import equivariant, noise2noise, split_mask, ssdu, sure
from diffimg.learn.tensorboard import tensorboard
from diffimg.learn.train import Trained, train
from diffimg.learn.weights import load_weights, save_weights

__all__ = [
    "Bilevel",
    "Checkpoints",
    "LipschitzEstimate",
    "Pretrained",
    "Replay",
    "Samples",
    "Trained",
    "adversarial",
    "adversarial_weight",
    "contrastive_divergence",
    "denoiser_score",
    "denoiser_score_matching",
    "denoising_loss",
    "denoising_score_matching",
    "diffusion_sample",
    "dpir",
    "equivariant",
    "explicit_score_matching",
    "implicit_score_matching",
    "langevin",
    "lipschitz_estimate",
    "load_weights",
    "noise2noise",
    "pooled",
    "posterior",
    "pretrained",
    "pretrained_names",
    "save_weights",
    "scale_reduction",
    "split_mask",
    "ssdu",
    "sure",
    "tensorboard",
    "train",
    "tweedie",
]
