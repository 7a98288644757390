"""The physics of X-ray imaging: photons, attenuation, spectra, transmission, detectors, scatter.

    from diffimg.forward import xray

    spectrum = xray.tube_spectrum(120.0, filtration={"aluminium": 2.5, "copper": 0.1})
    mu = xray.linear_attenuation(("water", "bone"), spectrum.energies)              # [material, E], 1/mm
    bins = xray.photon_counting(spectrum.energies, thresholds=(25.0, 60.0), resolution=5.0)
    physics = xray.PolyenergeticTransmission(spectrum.scaled(1e5).fluence, mu, geometry.sinogram_shape, bins)

Energies in keV, lengths in mm, linear attenuation in 1/mm; mass attenuation and density as printed in tables, cm²/g and g/cm³. Noise:
counts are Poisson (``energy.Poisson``); integrated energy is compound Poisson (``PolyenergeticTransmission.draw``,
``energy.CompoundPoisson``).
"""

from diffimg.forward.xray_attenuation import (
    MATERIALS,
    Material,
    air_energy_absorption,
    linear_attenuation,
    mass_attenuation,
    material,
    mixture,
)
from diffimg.forward.xray_detector import absorption_efficiency, energy_integrating, focal_spot_psf, penumbra, photon_counting
from diffimg.forward.xray_photon import (
    compton_energy,
    klein_nishina,
    klein_nishina_total,
    photoelectron_energy,
    photon_energy,
    photon_wavelength,
)
from diffimg.forward.xray_scatter import ScatterKernel, buildup_factor, double_gaussian_kernel, grid_performance, klein_nishina_kernel
from diffimg.forward.xray_spectrum import Spectrum, photons_per_cell, tube_efficiency, tube_spectrum
from diffimg.forward.xray_transmission import PolyenergeticTransmission

__all__ = [
    "MATERIALS",
    "Material",
    "PolyenergeticTransmission",
    "ScatterKernel",
    "Spectrum",
    "absorption_efficiency",
    "air_energy_absorption",
    "buildup_factor",
    "compton_energy",
    "double_gaussian_kernel",
    "energy_integrating",
    "focal_spot_psf",
    "grid_performance",
    "klein_nishina",
    "klein_nishina_kernel",
    "klein_nishina_total",
    "linear_attenuation",
    "mass_attenuation",
    "material",
    "mixture",
    "penumbra",
    "photoelectron_energy",
    "photon_counting",
    "photon_energy",
    "photon_wavelength",
    "photons_per_cell",
    "tube_efficiency",
    "tube_spectrum",
]
