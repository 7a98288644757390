"""Configs: strict YAML, and errors that name key, expectation, what came and the remedy."""

import pytest

from diffimg.experiment import config as configs
from diffimg.experiment.config import ConfigError, dump, flatten, locate, parse_scalar, read, validate
from diffimg.experiment.recipes import RECIPES, find, names
from diffimg.experiment.recipes.ct_sparse_view import Config


def write(tmp_path, text):
    path = tmp_path / "c.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def resolve(*overrides):
    return validate(read("ct_sparse_view", overrides), Config, "c.yaml")


def test_dump_reads_back_as_an_equal_config(tmp_path):
    config = resolve("tv.weight=1e-3", "report.window=[0, 0.03]", "geometry.detector_count=400")
    assert validate(read(write(tmp_path, dump(config))), Config) == config


def test_overrides_are_yaml_scalars():
    config = resolve("solver.steps=7", "tv.isotropic=false", "tv.weight=1e-3", "fbp.filter=cosine", "geometry.detector_spacing=null")
    assert (config.solver.steps, config.tv.isotropic, config.tv.weight) == (7, False, 1e-3)
    assert (config.fbp.filter, config.geometry.detector_spacing) == ("cosine", None)


@pytest.mark.parametrize(
    ("text", "value"), [("1e-3", 1e-3), ("-2E5", -2e5), ("3", 3), ("0.5", 0.5), ("true", True), ("a", "a"), ("[1, 2]", [1, 2])]
)
def test_parse_scalar(text, value):
    assert parse_scalar(text) == value
    assert type(parse_scalar(text)) is type(value)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("solver.stps=3", r"solver\.stps: unknown key\. Did you mean 'solver\.steps'\? Keys of 'solver': name, steps"),
        ("solvr.steps=3", r"solvr: unknown key\. Did you mean 'solver'\? Top-level keys: recipe"),
        ("steps=3", r"steps: unknown key\. Did you mean 'tikhonov\.steps' or 'solver\.steps'"),
        ("tv.weight=-1", r"tv\.weight: expected a value ≥ 0, got -1\. Change it"),
        ("tikhonov.weight=-0.5", r"tikhonov\.weight: expected a value ≥ 0"),
        ("geometry.views=0", r"geometry\.views: expected a value ≥ 1, got 0"),
        ("geometry.views=many", r"geometry\.views: expected an integer, got 'many'"),
        ("geometry.views=2.5", r"geometry\.views: expected an integer, got 2\.5"),
        ("noise.photons=true", r"noise\.photons: expected a number, got True"),
        ("noise.photons=.inf", r"noise\.photons: expected a finite number"),
        ("solver.name=FISTR", r"solver\.name: expected one of 'FISTA' or 'ProximalGradient', got 'FISTR'\. Did you mean 'FISTA'"),
        ("solver=3", r"solver: expected a section"),
        ("solver.steps.x=3", r"solver\.steps is a value, not a section"),
        ("data.sample=ct_hed", r"data\.sample: expected one of .*, got 'ct_hed'\. Did you mean 'ct_head'"),
        ("solver.steps", r"--set: expected key=value"),
        ("fbp.cutoff=[", r"--set fbp\.cutoff: .*expected valid YAML"),
    ],
)
def test_bad_values(override, message):
    with pytest.raises(ConfigError, match=message):
        resolve(override)


def test_all_errors_are_listed_at_once():
    with pytest.raises(ConfigError) as error:
        resolve("tv.weight=-1", "solver.stps=3")
    assert len(str(error.value).splitlines()) == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seed: 1\nseed: 2\n", r"c\.yaml: line 2, column 1 .*'seed' is given twice"),
        ("tv:\n  weight: 1\n  weight: 2\n", r"line 3.*'weight' is given twice"),
        ("", "empty file"),
        ("- a\n", "a list"),
        ("a: [1\n", "expected valid YAML"),
        ("1: 2\n", "key must be text"),
        ("a: !!python/object/apply:os.getcwd []\n", "expected valid YAML"),
    ],
)
def test_bad_files(tmp_path, text, message):
    with pytest.raises(ConfigError, match=message):
        read(write(tmp_path, text))


def test_locate(tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match="Did you mean 'ct_sparse_view'"):
        locate("ct_sparse_veiw")
    with pytest.raises(ConfigError, match="does not exist"):
        locate(tmp_path / "nothing.yaml")
    assert locate("ct_sparse_view").name == "ct_sparse_view.yaml"
    path = write(tmp_path, "recipe: ct_sparse_view\n")
    assert locate(path) == path
    binary = tmp_path / "b.yaml"
    binary.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="UTF-8"):
        read(binary)
    monkeypatch.setattr(configs, "folders", lambda: [tmp_path])  # an installed package finds its own
    assert set(configs.shipped()) == {"b", "c"}


def test_every_shipped_config_resolves():
    for name in configs.shipped():
        content = read(name)
        recipe = find(content["recipe"])
        config = validate(content, recipe.config, name)
        assert config.title
        assert config.description


def test_recipes():
    assert set(RECIPES) <= set(names())
    with pytest.raises(ConfigError, match="Did you mean 'ct_sparse_view'"):
        find("ct_sparse")
    with pytest.raises(ConfigError, match="got nothing"):
        find(None)


def test_flatten():
    assert flatten({"a": {"b": 1, "c": {"d": 2}}, "e": [3]}) == {"a.b": 1, "a.c.d": 2, "e": [3]}
