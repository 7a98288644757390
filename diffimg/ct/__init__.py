"""X-ray computed tomography."""

from diffimg.ct.fbp import angular_weights, backproject, fbp, ramp_filter, ramp_response
from diffimg.ct.hounsfield import attenuation, hounsfield

__all__ = ["angular_weights", "attenuation", "backproject", "fbp", "hounsfield", "ramp_filter", "ramp_response"]
