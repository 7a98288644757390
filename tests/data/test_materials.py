"""Material phantoms: fractions that add up, and errors."""

import numpy as np
import pytest

from diffimg.data import material_phantom


@pytest.mark.parametrize("layout", ["cylinder", "head", "thorax"])
def test_fractions_add_up_to_one_in_the_body(layout):
    phantom = material_phantom(layout, 50.0, iodine=493.0, metal="iron")
    assert list(phantom) == ["water", "bone", "iodine", "iron"]
    maps = {name: np.asarray(ellipses.rasterize((60, 60), 1.75)) for name, ellipses in phantom.items()}
    total = sum(maps.values())
    inside = np.minimum(np.abs(total), np.abs(total - 1)) < 1e-5
    assert inside.mean() > 0.8  # the others are cut by a rim
    assert total.min() > -1e-5
    assert total.max() < 1 + 1e-5
    for name, one in maps.items():
        assert one.min() > -1e-5, name
        assert one.max() < 1 + 1e-5, name
    np.testing.assert_allclose(maps["iodine"].max(), 0.1, rtol=1e-4)  # 493 of 4930 mg/ml
    assert maps["bone"].max() > 0.9
    assert maps["iron"].max() > 0.5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"layout": "hed"}, "Did you mean 'head'"),
        ({"radius": 0.0}, "radius"),
        ({"iodine": -1.0}, "iodine"),
        ({"iodine": 5000.0}, "iodine"),
        ({"metal": "bone"}, "metal"),
    ],
)
def test_bad_input_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        material_phantom(**arguments)
