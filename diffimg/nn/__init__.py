"""Networks (flax nnx modules), split once into a pure function and its parameters. The only folder that imports flax."""

from flax.nnx import Rngs

from diffimg.nn.automap import Automap
from diffimg.nn.convex import Critic, InputConvexNetwork
from diffimg.nn.convolution import convolve, down_convolve, max_pool, mean_pool, up_convolve
from diffimg.nn.dncnn import DnCNN
from diffimg.nn.drunet import DRUNet
from diffimg.nn.encoder import Encoder
from diffimg.nn.functional import Apply, count, join, on_images, split, structure
from diffimg.nn.inpainting import Inpainting
from diffimg.nn.layers import ACTIVATIONS, Convolution, DownConvolution, UpConvolution
from diffimg.nn.lista import LISTA
from diffimg.nn.preconditioned import preconditioned
from diffimg.nn.published import load_published
from diffimg.nn.unet import UNet
from diffimg.nn.unrolled import LearnedPGM, LearnedPrimalDual, MoDL, VariationalNetwork
from diffimg.nn.varnet import EndToEndVarNet

__all__ = [
    "ACTIVATIONS",
    "LISTA",
    "Apply",
    "Automap",
    "Convolution",
    "Critic",
    "DRUNet",
    "DnCNN",
    "DownConvolution",
    "Encoder",
    "EndToEndVarNet",
    "Inpainting",
    "InputConvexNetwork",
    "LearnedPGM",
    "LearnedPrimalDual",
    "MoDL",
    "Rngs",
    "UNet",
    "UpConvolution",
    "VariationalNetwork",
    "convolve",
    "count",
    "down_convolve",
    "join",
    "load_published",
    "max_pool",
    "mean_pool",
    "on_images",
    "preconditioned",
    "split",
    "structure",
    "up_convolve",
]
