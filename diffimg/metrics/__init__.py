"""Quality of images, overlap and surface distance of masks; each states its definition."""

from diffimg.metrics.distance import distance_transform, signed_distance
from diffimg.metrics.image import circle, mae, nmse, nrmse, psnr, rmse, ssim
from diffimg.metrics.overlap import dice, iou
from diffimg.metrics.surface import average_surface_distance, hausdorff, hd95, nsd, surface

__all__ = [
    "average_surface_distance",
    "circle",
    "dice",
    "distance_transform",
    "hausdorff",
    "hd95",
    "iou",
    "mae",
    "nmse",
    "nrmse",
    "nsd",
    "psnr",
    "rmse",
    "signed_distance",
    "ssim",
    "surface",
]
