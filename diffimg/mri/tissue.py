"""Relaxation times of tissue, with sources: parameters, not constants of nature."""

from __future__ import annotations

import dataclasses

from diffimg.core import check


@dataclasses.dataclass(frozen=True)
class Tissue:
    """Proton density (relative to water), T1, T2 and T2* in s, at a field in T.

    Published values scatter: T1 of white matter at 3 T from 0.6 to 1.1 s with the method. Change them with ``dataclasses.replace``.
    """

    name: str
    density: float
    t1: float
    t2: float
    t2_star: float
    field: float
    source: str


_BRAINWEB = "BrainWeb (Collins et al., IEEE Trans. Med. Imaging 17 (1998) 463), tissue parameters for 1.5 T"
_AT_3T = "typical values at 3 T as used with the BrainWeb phantom; compare Wansapura et al., J. Magn. Reson. Imaging 9 (1999) 531"

TISSUES = {
    1.5: {
        "csf": Tissue("csf", 1.0, 2.569, 0.329, 0.058, 1.5, _BRAINWEB),
        "grey": Tissue("grey", 0.86, 0.833, 0.083, 0.069, 1.5, _BRAINWEB),
        "white": Tissue("white", 0.77, 0.500, 0.070, 0.061, 1.5, _BRAINWEB),
        "fat": Tissue("fat", 1.0, 0.350, 0.070, 0.058, 1.5, _BRAINWEB),
    },
    3.0: {
        "csf": Tissue("csf", 1.0, 4.16, 1.65, 0.10, 3.0, _AT_3T),
        "grey": Tissue("grey", 0.86, 1.56, 0.083, 0.052, 3.0, _AT_3T),
        "white": Tissue("white", 0.77, 0.83, 0.075, 0.053, 3.0, _AT_3T),
        "fat": Tissue("fat", 1.0, 0.37, 0.125, 0.04, 3.0, _AT_3T),
    },
}


def tissues(field: float = 3.0) -> dict[str, Tissue]:
    """The tissues at 1.5 or 3 T: "csf", "grey", "white", "fat"."""
    if field not in TISSUES:
        check.fail("field", "1.5 or 3.0 T", repr(field), "For other fields make Tissue(...) of your own values.")
    return dict(TISSUES[field])
