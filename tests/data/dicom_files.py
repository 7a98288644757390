"""DICOM files for the tests: real ones out of pydicom, and synthetic ones."""

import pathlib

import numpy as np
import pydicom
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

REAL = pathlib.Path(pydicom.__file__).parent / "data" / "test_files"
SERIES = REAL / "dicomdirtests" / "98892001" / "CT5N"  # five real slices, 2.5 mm apart, cut down to 16²
CT_IMAGE, ENHANCED_CT = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.2.1"


def save(data, path, sop_class=CT_IMAGE):
    data.SOPClassUID, data.SOPInstanceUID = sop_class, generate_uid()
    data.file_meta = pydicom.dataset.FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.file_meta.MediaStorageSOPClassUID, data.file_meta.MediaStorageSOPInstanceUID = sop_class, data.SOPInstanceUID
    data.save_as(path, enforce_file_format=True)


def pixels(data, stored):
    data.Rows, data.Columns = stored.shape[-2:]
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.BitsAllocated, data.BitsStored, data.HighBit = 16, 16, 15
    data.PixelRepresentation = int(stored.dtype.kind == "i")
    data.PixelData = stored.astype(stored.dtype.newbyteorder("<")).tobytes()


def ct_slice(k=0, shape=(6, 8), **tags):
    """A CT slice at z = 2k mm with stored values 100k + pixel number; HU = stored − 1000."""
    data = pydicom.Dataset()
    data.Modality, data.SeriesInstanceUID, data.InstanceNumber = "CT", "1.2.3", k + 1
    data.PixelSpacing, data.SliceThickness = [0.5, 0.25], 2.0
    data.ImageOrientationPatient, data.ImagePositionPatient = [1, 0, 0, 0, 1, 0], [-3.0, 4.0, 2.0 * k]
    data.RescaleSlope, data.RescaleIntercept = 1, -1000
    pixels(data, (100 * k + np.arange(np.prod(shape)).reshape(shape)).astype(np.uint16))
    for name, value in tags.items():
        if value is None:
            delattr(data, name)
        else:
            setattr(data, name, value)
    return data


def series(folder, count=4, change=None, **tags):
    """A series in scrambled file order; ``change``: {slice: tags}."""
    folder.mkdir(exist_ok=True)
    for k in range(count):
        save(ct_slice(k, **(tags | (change or {}).get(k, {}))), folder / f"im{(k * 3) % 7}.dcm")
    return folder


def enhanced(count=3, shape=(4, 5)):
    """An enhanced CT object whose frames are stored from top to bottom, 1.5 mm apart."""
    data = pydicom.Dataset()
    data.Modality, data.SeriesInstanceUID, data.NumberOfFrames = "CT", "1.2.3", count
    stored = np.arange(count * np.prod(shape)).reshape(count, *shape).astype(np.int16)
    pixels(data, stored)

    def item(**tags):
        inner = pydicom.Dataset()
        for name, value in tags.items():
            setattr(inner, name, value)
        return pydicom.Sequence([inner])

    shared = pydicom.Dataset()
    shared.PixelMeasuresSequence = item(PixelSpacing=[0.7, 0.6], SliceThickness=3.0, SpacingBetweenSlices=1.5)
    shared.PlaneOrientationSequence = item(ImageOrientationPatient=[1, 0, 0, 0, 1, 0])
    shared.CTXRayDetailsSequence = item(KVP=100.0)
    data.SharedFunctionalGroupsSequence = pydicom.Sequence([shared])
    frames = []
    for k in range(count):
        frame = pydicom.Dataset()
        frame.PlanePositionSequence = item(ImagePositionPatient=[1.0, 2.0, -1.5 * k])
        frame.PixelValueTransformationSequence = item(RescaleSlope=2.0, RescaleIntercept=-10.0 * k, RescaleType="HU")
        frames.append(frame)
    data.PerFrameFunctionalGroupsSequence = pydicom.Sequence(frames)
    return data, stored
