"""The configuration out of its three sources: flags, then the environment, then a file.

All three give text, and the fields' types read it, so that a value means the same wherever it
stands, and a field added to `config.py` can be set in all of them at once. This is own code and not
pydantic-settings because most of it is what that does not do: sentences that name the line, the
variable or the flag of a wrong value, and the nearest of the known names for an unknown one.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar, get_args, get_origin

from pydantic import BaseModel, ValidationError

from cast_server.config import EngineConfig, HttpConfig
from cast_server.config_file import read_config_file, to_yaml
from cast_server.errors import ConfigError
from cast_server.flags import Action, fields, flag_name, nearest, parse_flags
from cast_server.given import Given

_Config = TypeVar("_Config", bound=BaseModel)

_PREFIX: Final = "CASTSERVE_"
_CONFIG_VARIABLE: Final = "CASTSERVE_CONFIG"
# Not settings: a key must not be a flag, and the cache is everybody's.
_OTHER_VARIABLES: Final = (_CONFIG_VARIABLE, "CASTSERVE_CACHE", "CASTSERVE_API_KEY")
# What Kubernetes and Docker's links set for a service called castserve; nobody meant us by it.
_SERVICE_LINK: Final = re.compile(r"CASTSERVE_(SERVICE_|PORT_\d+_(TCP|UDP)|NAME$|ENV_)")


@dataclass(frozen=True, slots=True)
class Settings:
    """`origins` says where a field was set, as in "CASTSERVE_PORT"; no entry is its default."""

    engine: EngineConfig
    http: HttpConfig
    origins: Mapping[str, str]
    action: Action

    def to_yaml(self) -> str:
        """As a file for `--config`."""
        return to_yaml(dict(self.engine) | dict(self.http), self.origins)


def read_settings(
    argv: Sequence[str] | None = None, environ: Mapping[str, str] | None = None
) -> Settings:
    """From the command line and the environment, and the file that one of them names.

    Raises `ConfigError` that names every wrong value and where it stands.
    """
    environ = os.environ if environ is None else environ
    action, flags = parse_flags(argv)
    file = action.config or environ.get(_CONFIG_VARIABLE)
    given = read_config_file(Path(file).expanduser()) if file else {}
    given |= _from_environment(environ) | _from_flags(flags)
    faults: list[str] = []
    engine = _validated(EngineConfig, given, faults)
    http = _validated(HttpConfig, given, faults)
    if engine is None or http is None:
        raise ConfigError("; ".join(faults))
    return Settings(engine, http, {name: one.origin for name, one in given.items()}, action)


def _from_flags(flags: Mapping[str, Any]) -> dict[str, Given]:
    found = {}
    for name, value in flags.items():
        flag = flag_name(name)
        if isinstance(value, bool):
            flag = flag if value else f"--no-{flag.removeprefix('--')}"
            found[name] = Given(value, flag, flag)
        else:
            found[name] = Given(_split(name, value), flag, f"{flag} {value}")
    return found


def _from_environment(environ: Mapping[str, str]) -> dict[str, Given]:
    found = {}
    for variable, text in environ.items():
        if not variable.startswith(_PREFIX) or variable in _OTHER_VARIABLES:
            continue
        name = variable.removeprefix(_PREFIX).lower()
        if _SERVICE_LINK.match(variable) or (name == "port" and "://" in text):
            continue
        if name not in fields():
            known = [*(_PREFIX + one.upper() for one in fields()), *_OTHER_VARIABLES]
            raise ConfigError(f"There is no setting {variable}{nearest(variable, known)}")
        if text or _is_text(name):  # what is left empty by a template is left alone
            found[name] = Given(_split(name, text), variable, f"{variable}={text}")
    return found


def _split(name: str, text: str) -> str | list[str]:
    """A list is written with commas."""
    if get_origin(fields()[name].annotation) not in (tuple, list, set, frozenset):
        return text
    return [part.strip() for part in text.split(",") if part.strip()]


def _is_text(name: str) -> bool:
    annotation = fields()[name].annotation
    return str in (annotation, *get_args(annotation))


def _validated(
    config: type[_Config], given: Mapping[str, Given], faults: list[str]
) -> _Config | None:
    """None if something is wrong, which is then in `faults`."""
    own = {name: given[name].value for name in config.model_fields if name in given}
    try:
        return config(**own)
    except ValidationError as error:
        for fault in error.errors():
            where = given.get(str(fault["loc"][0])) if fault["loc"] else None
            message = fault["msg"].removeprefix("Value error, ")
            faults.append(f"{where.written}: {message}" if where else message)
    return None
