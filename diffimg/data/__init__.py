"""Analytic phantoms with exact projections, real images out of installed packages, and image files."""

from diffimg.data.brain import BrainSlices, brain_slices
from diffimg.data.dicom import dicom_series, read_dicom
from diffimg.data.dicom_mr import mr_parameters
from diffimg.data.dicom_write import write_dicom
from diffimg.data.ellipsoids import Ellipsoids, defrise, random_ellipsoids, shepp_logan_3d
from diffimg.data.fastmri import read_fastmri, write_fastmri
from diffimg.data.folder_slices import FolderSlices, folder_slices, split_folder
from diffimg.data.folders import FastMRIFolder, bsd68, fastmri_folder, read_folder
from diffimg.data.grid import Grid
from diffimg.data.io import read, write
from diffimg.data.ismrmrd import read_ismrmrd, write_ismrmrd
from diffimg.data.kspace import KSpace, ScanHeader, parse_header, write_header
from diffimg.data.lodopab import LoDoPaB, write_lodopab
from diffimg.data.materials import material_phantom
from diffimg.data.nifti import read_nifti, write_nifti
from diffimg.data.patches import draw, patches, scaled
from diffimg.data.phantoms import Ellipses, random_ellipses, shepp_logan, shepp_logan_image
from diffimg.data.photographs import photographs
from diffimg.data.rays import project
from diffimg.data.samples import CTSlice, Sample, names, sample, slice_for_ct
from diffimg.data.tiff import read_tiff, write_tiff
from diffimg.data.volume import Volume

__all__ = [
    "BrainSlices",
    "CTSlice",
    "Ellipses",
    "Ellipsoids",
    "FastMRIFolder",
    "FolderSlices",
    "Grid",
    "KSpace",
    "LoDoPaB",
    "Sample",
    "ScanHeader",
    "Volume",
    "brain_slices",
    "bsd68",
    "defrise",
    "dicom_series",
    "draw",
    "fastmri_folder",
    "folder_slices",
    "material_phantom",
    "mr_parameters",
    "names",
    "parse_header",
    "patches",
    "photographs",
    "project",
    "random_ellipses",
    "random_ellipsoids",
    "read",
    "read_dicom",
    "read_fastmri",
    "read_folder",
    "read_ismrmrd",
    "read_nifti",
    "read_tiff",
    "sample",
    "scaled",
    "shepp_logan",
    "shepp_logan_3d",
    "shepp_logan_image",
    "slice_for_ct",
    "split_folder",
    "write",
    "write_dicom",
    "write_fastmri",
    "write_header",
    "write_ismrmrd",
    "write_lodopab",
    "write_nifti",
    "write_tiff",
]
