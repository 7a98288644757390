"""Pictures and the HTML report."""

import json
import re

import numpy as np
import pytest
from small_job import parse

from diffimg.experiment import pictures
from diffimg.experiment.curves import chart
from diffimg.experiment.report import Report


def small_report():
    x = np.linspace(0, 1, 48).reshape(6, 8)
    report = Report("A <title>", "What & why", {"psnr_db": 'a "definition"'})
    report.table("Metrics", {"FBP": {"psnr_db": 24.123456, "n": 3}, "TV": {"psnr_db": None}}, ["psnr_db", "n"])
    report.images("Images", {"truth": x, "</script>": 1 - x}, (0, 1), "1/mm", 0.5, {"truth": "a < b"})
    report.curves("Objective", {"TV": (np.arange(5), [100.0, 10, 1, np.nan, 0.1])}, "iteration", "objective")
    report.text("Text", "one\n\ntwo")
    report.code("Config", "a: <b>", appendix=True)
    return report.html()


def test_report_is_well_formed_self_contained_and_escaped():
    page = small_report()
    parser = parse(page)
    assert parser.tags.count("section") == 6
    assert "A &lt;title&gt;" in page
    assert "<td>24.12</td><td>3</td>" in page
    assert "<td>–</td>" in page
    assert page.index("Definitions") < page.index("a: &lt;b&gt;")


def test_images_of_one_group_have_one_shape():
    with pytest.raises(ValueError, match="one shape"):
        Report("x").images("y", {"a": np.ones((3, 3)), "b": np.ones((4, 4))}, (0, 1))


def test_chart_keeps_the_values_that_can_be_drawn():
    figure = chart({"a": (np.arange(6), [5, 4, 0, -1, np.inf, 3]), "<b>": (np.arange(1, 2001), np.ones(2000))}, "k", "f")
    data = json.loads(re.search(r'<script type="application/json">(.*?)</script>', figure).group(1))
    assert [v[:2] for v in data["series"][0]["values"]] == [[1, 4], [5, 3]]
    assert data["series"][1]["name"] == "<b>"
    assert len(data["series"][1]["values"]) <= 600
    for series in data["series"]:
        assert all(0 <= x <= 620 and 0 <= y <= 380 for _, _, x, y in series["values"])
    ticks = re.findall(r'class="tick"[^>]*>([^<]+)', figure)
    assert len(ticks) >= 5
    assert chart({"a": ([1], [0])}, "k", "f") == "<p>Nothing was recorded.</p>"
    parse(chart({"a": (np.arange(1, 9), 10.0 ** -np.arange(1, 9))}, "k", "f", log=(False, True)))


def test_png_of_an_image_is_pixel_for_pixel():
    from io import BytesIO

    from matplotlib.image import imread

    image = np.array([[0.0, 0.5, 1.0], [2.0, -1.0, 0.25]])
    read = imread(BytesIO(pictures.grey_png(image, (0, 1))))[..., 0]
    np.testing.assert_allclose(read, np.clip(image, 0, 1), atol=1 / 250)


@pytest.mark.parametrize(("field", "bar"), [(220, 50), (100, 20), (9, 2), (0.7, 0.1), (41, 10)])
def test_scale_bars_are_round(field, bar):
    assert pictures.scale_bar(field) == pytest.approx(bar)


def test_symmetric_window():
    low, high = pictures.symmetric_window([np.linspace(-1, 1, 2001), np.zeros(3)], 1.0)
    assert (low, high) == (-1.0, 1.0)
    assert pictures.symmetric_window([np.zeros((2, 2))])[1] > 0


def test_grid_draws_every_panel_and_shares_colour_bars():
    x = np.eye(8)
    row = [pictures.Panel(x, "a", "c", (0, 1), "1/mm", 2.0), pictures.Panel(2 * x, "b", "d", (0, 1), "1/mm", 2.0)]
    figure = pictures.grid([row, [pictures.Panel(x, "s", extent=(-1, 1, 180, 0), axes=("l", "θ")), None]], "title")
    assert len(figure.axes) == 4 + 2
    image = figure.axes[0].images[0]
    assert image.get_array().shape == (8, 8)
    assert image.origin == "upper"
    assert figure.axes[0].get_ylim() == (7.5, -0.5)
    assert any("mm" in t.get_text() for t in figure.axes[0].texts)
    assert pictures.png(figure, 40).startswith(b"\x89PNG")


def test_picard_plot_shows_what_the_diagnosis_found():
    from diffimg.core.linalg import diagnose

    a = np.exp(-0.1 * np.subtract.outer(np.arange(12), np.arange(12)) ** 2)
    diagnosis = diagnose(a, a @ np.ones(12) + 1e-3 * np.random.default_rng(0).normal(size=12))
    axes = pictures.picard(diagnosis).axes[0]
    assert [line.get_label() for line in axes.lines] == ["σᵢ", "|uᵢᴴy|", "|uᵢᴴy| / σᵢ"]
    np.testing.assert_allclose(axes.lines[0].get_ydata(), np.linalg.svd(a)[1], rtol=1e-6)
    assert pictures.png(pictures.picard(diagnosis)).startswith(b"\x89PNG")
    with pytest.raises(ValueError, match="Pass the measurement y"):
        pictures.picard(diagnose(a))
