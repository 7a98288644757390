"""Image quality measures; each states its definition."""

from diffimg.metrics.image import circle, mae, nmse, nrmse, psnr, rmse, ssim

__all__ = ["circle", "mae", "nmse", "nrmse", "psnr", "rmse", "ssim"]
