"""Experiment configs: strict YAML, pydantic sections, and errors that name the key, what was expected, what came and the remedy."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError


class ConfigError(ValueError):
    """A config, a config key or a command line argument that cannot be used."""


class Section(BaseModel):
    """A part of a config: unknown keys are refused, values are not converted (an integer is a valid float), objects are frozen."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class Experiment(Section):
    """What every config has; a recipe's config adds its sections."""

    recipe: str
    title: str = ""
    description: str = ""
    seed: int = Field(default=0, ge=0, lt=2**32)


C = TypeVar("C", bound=BaseModel)


def folders() -> list[Path]:
    """Where configs with a bare name are looked up: the repository's ``configs``, then those shipped in the package."""
    package = Path(__file__).resolve().parent.parent
    return [folder for folder in (package.parent / "configs", package / "configs") if folder.is_dir()]


def shipped() -> dict[str, Path]:
    """The configs that come with diffimg, by name."""
    found: dict[str, Path] = {}
    for folder in folders():
        for path in sorted(folder.glob("*.yaml")):
            found.setdefault(path.stem, path)
    return found


def locate(source: str | Path) -> Path:
    """The file of a config given by path or by the bare name of a shipped one."""
    path = Path(source)
    if path.is_file():
        return path
    names = shipped()
    if str(source) in names:
        return names[str(source)]
    if path.is_dir() and (path / "config.yaml").is_file():
        return path / "config.yaml"
    near = nearest(path.stem, names)
    hint = f"Did you mean {near!r}? " if near else ""
    raise ConfigError(
        f"CONFIG: expected a YAML file, a run folder or a shipped config ({', '.join(names) or 'none found'}), got {str(source)!r}, which "
        f"{'is none of them' if path.exists() else 'does not exist'}. {hint}`diffimg list` shows the shipped ones."
    )


def read(source: str | Path, overrides: list[str] | tuple[str, ...] = ()) -> dict[str, Any]:
    """The mapping in a YAML file, with ``a.b=value`` overrides applied; nothing but the syntax is checked."""
    path = locate(source)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"CONFIG: expected a readable UTF-8 file, got {path.name} ({type(error).__name__}). Check its encoding and rights."
        ) from error
    content = _parse(text, path.name)
    if not isinstance(content, dict):
        kind = "an empty file" if content is None else f"a {type(content).__name__}"
        raise ConfigError(f"{path.name}: expected `key: value` lines, got {kind}. `diffimg show NAME` prints a whole config.")
    for override in overrides:
        _override(content, override)
    return content


def validate(content: dict[str, Any], model: type[C], origin: str = "config") -> C:
    """The typed config, or a ``ConfigError`` that lists everything wrong with it."""
    try:
        return model.model_validate(content)
    except ValidationError as error:
        raise ConfigError("\n".join(f"{origin}: {line}" for line in _explain(error, model))) from None


def dump(config: BaseModel) -> str:
    """YAML that reads back as an equal config."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=120)


def flatten(content: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """``{"a.b": value}`` of nested mappings."""
    flat: dict[str, Any] = {}
    for key, value in content.items():
        if isinstance(value, dict):
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def parse_scalar(text: str, origin: str = "--set") -> Any:
    """A value as written on the command line, read as YAML: ``200``, ``1e-3``, ``true``, ``null``, ``[0, 1]``, ``hann``."""
    return _parse(text, origin)


class _Loader(yaml.SafeLoader):
    """YAML without duplicate keys, in which 1e-3 is a number (YAML 1.1 as implemented by PyYAML reads it as text)."""


def _unique_mapping(loader: _Loader, node: yaml.MappingNode, deep: bool = False) -> dict:
    seen: set[Any] = set()
    for key_node, _ in node.value:
        key = loader.construct_object(key_node, deep=True)
        if not isinstance(key, str):
            raise yaml.constructor.ConstructorError(None, None, f"a key must be text, got {key!r}", key_node.start_mark)
        if key in seen:
            raise yaml.constructor.ConstructorError(None, None, f"the key {key!r} is given twice: keep one", key_node.start_mark)
        seen.add(key)
    return yaml.SafeLoader.construct_mapping(loader, node, deep)


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _unique_mapping)
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d+(\.\d*)?|\.\d+)[eE][-+]?\d+$"), list("-+0123456789."))


def _parse(text: str, origin: str) -> Any:
    try:
        return yaml.load(text, _Loader)  # a SafeLoader
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise ConfigError(f"{origin}:{where} expected valid YAML, got: {getattr(error, 'problem', None) or error}.") from None


def _override(content: dict[str, Any], override: str) -> None:
    key, equals, value = override.partition("=")
    parts = key.strip().split(".")
    if not equals or not all(parts):
        raise ConfigError(f"--set: expected key=value such as solver.steps=200, got {override!r}.")
    inner = content
    for depth, part in enumerate(parts[:-1]):
        inner = inner.setdefault(part, {})
        if not isinstance(inner, dict):
            raise ConfigError(f"--set: {'.'.join(parts[: depth + 1])} is a value, not a section; {key.strip()!r} cannot be set.")
    inner[parts[-1]] = parse_scalar(value, f"--set {key.strip()}")


def _explain(error: ValidationError, model: type[BaseModel]) -> Iterator[str]:
    everything = list(_paths(model))
    for item in error.errors():
        where = ".".join(str(p) for p in item["loc"])
        context = item.get("ctx", {})
        if item["type"] == "extra_forbidden":
            siblings = [p for p in everything if p.rpartition(".")[0] == where.rpartition(".")[0]]
            last = where.rpartition(".")[2]
            near = nearest(where, siblings)
            elsewhere = [p for p in everything if p.rpartition(".")[2] == last]
            meant = [near] if near else elsewhere or [p for p in [nearest(where, everything)] if p]
            hint = f" Did you mean {' or '.join(map(repr, meant))}?" if meant else ""
            section = where.rpartition(".")[0]
            known = ", ".join(p.rpartition(".")[2] for p in siblings)
            yield f"{where}: unknown key.{hint} " + (f"Keys of {section!r}: {known}." if section else f"Top-level keys: {known}.")
        elif item["type"] == "missing":
            yield f"{where}: expected a value, got nothing. Add it to the config or pass --set {where}=VALUE."
        else:
            got = item["input"]
            text = f"{type(got).__name__} of {len(got)}" if isinstance(got, (dict, list)) and len(got) > 4 else repr(got)
            if item["type"] == "value_error":  # raised by a validator, in the words of core.check
                said = str(context.get("error", item["msg"]))
                # a check of the whole config has no place of its own: what it says names the key
                yield f"{where}: " + re.sub(r"^[\w.]+: (?=expected)", "", said) if where else said
            else:
                hint = _word_hint(got, context) or f" Change it in the file or by --set {where}=VALUE."
                yield f"{where}: expected {_expected(item['type'], context, item['msg'])}, got {text}.{hint}"


def _expected(kind: str, context: dict[str, Any], message: str) -> str:
    plain = {
        "int_type": "an integer",
        "float_type": "a number",
        "bool_type": "true or false",
        "string_type": "text",
        "list_type": "a list",
        "tuple_type": "a list",
        "finite_number": "a finite number",
        "model_type": "a section (key: value lines)",
        "model_attributes_type": "a section (key: value lines)",
    }
    if kind in plain:
        return plain[kind]
    for name, sign in (("gt", ">"), ("ge", "≥"), ("lt", "<"), ("le", "≤")):
        if name in context:
            return f"a value {sign} {context[name]:g}"
    if kind == "literal_error":
        return f"one of {context['expected']}"
    return message[0].lower() + message[1:]


def _word_hint(got: Any, context: dict[str, Any]) -> str:
    choices = re.findall(r"'([^']*)'", str(context.get("expected", "")))
    near = nearest(got, choices) if isinstance(got, str) else None
    return f" Did you mean {near!r}?" if near else ""


def _paths(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    for name, field in model.model_fields.items():
        yield prefix + name
        for inner in (field.annotation, *get_args(field.annotation)):
            if isinstance(inner, type) and issubclass(inner, BaseModel):
                yield from _paths(inner, f"{prefix}{name}.")


def nearest(word: str, choices: Iterable[str]) -> str | None:
    """The choice closest in spelling, or None."""
    found = difflib.get_close_matches(word, list(choices), n=1, cutoff=0.5)
    return found[0] if found else None
