"""Training: one engine for every loss; the principles by which priors and reconstructions are learned."""

from diffimg.learn.checkpoints import Checkpoints
from diffimg.learn.train import Trained, train

__all__ = ["Checkpoints", "Trained", "train"]
