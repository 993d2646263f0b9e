"""The configuration as a YAML file: one line a setting, by the name of its flag.

All plain words are text, whatever YAML makes of them elsewhere (`policy: off` is no boolean): the
field's type says what a value is, as it does for flags and variables.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, get_args

import yaml
from pydantic import SecretStr

from cast_server.errors import ConfigError
from cast_server.flags import fields, groups, nearest
from cast_server.given import Given

_NULLS: Final = ("", "~", "null", "Null", "NULL")
_HEADER: Final = """\
# All settings of cast-serve, for `cast-serve --config FILE`. Flags and the variables CASTSERVE_…
# go before this file. A line that is left out keeps its default; null stands for none."""


def read_config_file(path: Path) -> dict[str, Given]:
    """The settings in it by field.

    Raises `ConfigError` for a file that cannot be read, is no YAML or has keys that are no flags.
    """
    try:
        root = yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.BaseLoader)
    except OSError as error:
        raise ConfigError(f"The configuration {path} cannot be read: {error.strerror}.") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"The configuration {path} is no YAML: {reason}.") from error
    if root is None:
        return {}
    if not isinstance(root, yaml.MappingNode):
        raise ConfigError(f"The configuration {path} needs lines like `port: 8000`.")
    found: dict[str, Given] = {}
    for key_node, value_node in root.value:
        where = f"{path}, line {key_node.start_mark.line + 1}"
        name, given = _entry(key_node, value_node, where)
        if name in found:
            raise ConfigError(f"{where}: {key_node.value} has been set above already.")
        found[name] = given
    return found


def to_yaml(values: Mapping[str, Any], origins: Mapping[str, str]) -> str:
    """A file that `read_config_file` reads back as `values`, with the fields' descriptions.

    `origins` says where a value comes from that is no default. Secrets are left out.
    """
    lines = [_HEADER]
    for title, names in groups():
        lines += ["", f"# == {title}"]
        for name in names:
            lines += ["", *_setting(name, values[name], origins.get(name))]
    return "\n".join(lines) + "\n"


def _entry(key_node: Any, value_node: Any, where: str) -> tuple[str, Given]:
    key = key_node.value if isinstance(key_node, yaml.ScalarNode) else ""
    name = key.replace("-", "_")
    if name not in fields():
        known = [one.replace("_", "-") for one in fields()]
        raise ConfigError(f"{where}: there is no setting {key!r}{nearest(key, known)}")
    value = _value(value_node, f"{where}: {key}")
    return name, Given(value, where, f"{where}: {key} {value}")


def _value(node: Any, where: str) -> str | list[str] | None:
    if isinstance(node, yaml.ScalarNode):
        is_null = node.style is None and node.value in _NULLS
        return None if is_null else str(node.value)
    if isinstance(node, yaml.SequenceNode) and all(
        isinstance(one, yaml.ScalarNode) for one in node.value
    ):
        return [str(one.value) for one in node.value]
    raise ConfigError(f"{where} needs a single value or a list of them.")


def _setting(name: str, value: Any, origin: str | None) -> Iterator[str]:
    field, key = fields()[name], name.replace("_", "-")
    choices = [one for one in get_args(field.annotation) if isinstance(one, str)]
    text = (field.description or "") + (f" ({', '.join(choices)})" if choices else "")
    yield from textwrap.wrap(text, 98, initial_indent="# ", subsequent_indent="# ")
    if SecretStr in (field.annotation, *get_args(field.annotation)):
        yield f"# {key}: secret, {'not set' if value is None else 'set but not printed'}"
        return
    comment = f"  # from {origin}" if origin else ""
    yield f"{key}: {_scalar(value)}{comment}"


def _scalar(value: Any) -> str:
    plain = list(value) if isinstance(value, tuple | frozenset | set) else value
    text: str = yaml.safe_dump(plain, default_flow_style=True, allow_unicode=True, width=2**20)
    return text.removesuffix("...\n").strip()
