"""Flags, variables and a file: who goes first, what is told of mistakes, and the way back."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import Field, SecretStr, ValidationError

from cast_server import cli, flags
from cast_server import settings as settings_module
from cast_server.config import EngineConfig, HttpConfig
from cast_server.errors import ConfigError
from cast_server.settings import read_settings

FIELDS = EngineConfig.model_fields | HttpConfig.model_fields
TEXTS = st.text(st.characters(codec="utf-8", categories=["L", "N", "P", "S", "Zs"])).map(str.strip)


ODD_TEXTS = ("off", "null", "~", "no", "1e3", "#", "a: b", "- x", "*", "'")


def is_valid(name: str, value: Any) -> bool:
    config = EngineConfig if name in EngineConfig.model_fields else HttpConfig
    try:
        config(**{name: value})
    except ValidationError:
        return False
    return True


def values_of(name: str) -> st.SearchStrategy[Any]:
    """Values that a setting may have, other than none. Fields that are added are met here too."""
    annotation = FIELDS[name].annotation
    kinds = get_args(annotation) or (annotation,)
    if annotation is bool:
        return st.booleans()
    if get_origin(annotation) is Literal:
        return st.sampled_from(kinds)
    if int in kinds or float in kinds:
        return st.integers(1, 2**40).filter(lambda value: is_valid(name, value))
    assert str in kinds, f"teach this test values of {name}"
    valid = [text for text in ODD_TEXTS if is_valid(name, text)]
    anything = TEXTS if len(valid) == len(ODD_TEXTS) else st.nothing()
    return anything | (st.sampled_from(valid) if valid else st.nothing())


SOME_VALUES = st.fixed_dictionaries({}, optional={name: values_of(name) for name in FIELDS})


def as_flags(values: dict[str, Any]) -> list[str]:
    argv = []
    for name, value in values.items():
        dashed = name.replace("_", "-")
        if isinstance(value, bool):
            argv.append(f"--{dashed}" if value else f"--no-{dashed}")
        else:
            argv.append(f"--{dashed}={value}")
    return argv


def as_variables(values: dict[str, Any]) -> dict[str, str]:
    return {f"CASTSERVE_{name.upper()}": str(value) for name, value in values.items()}


def as_file(path: Path, values: dict[str, Any]) -> str:
    keys = {name.replace("_", "-"): value for name, value in values.items()}
    path.write_text(yaml.safe_dump(keys, allow_unicode=True), encoding="utf-8")
    return str(path)


def effective(found: settings_module.Settings) -> dict[str, Any]:
    return dict(found.engine) | dict(found.http)


def written(tmp_path: Path, text: str) -> str:
    path = tmp_path / "serve.yaml"
    path.write_text(text, encoding="utf-8")
    return str(path)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(flag=SOME_VALUES, variable=SOME_VALUES, filed=SOME_VALUES, is_variable=st.booleans())
def test_flags_before_variables_before_the_file_before_defaults(
    tmp_path: Path, flag, variable, filed, is_variable: bool
) -> None:
    file = as_file(tmp_path / "serve.yaml", filed)
    argv, environ = as_flags(flag), as_variables(variable)
    if is_variable:
        environ["CASTSERVE_CONFIG"] = file
    else:
        argv.append(f"--config={file}")
    found = read_settings(argv, environ)
    defaults = {name: field.default for name, field in FIELDS.items()}
    # an empty variable says something of text only
    assert effective(found) == defaults | filed | variable | flag
    for name in FIELDS:
        origin = found.origins.get(name, "")
        assert origin.startswith("--") == (name in flag)
        assert origin.startswith("CASTSERVE_") == (name in variable and name not in flag)
        assert bool(origin) == (name in flag | variable | filed)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(values=SOME_VALUES)
def test_what_is_printed_is_read_back(tmp_path: Path, values) -> None:
    first = read_settings(as_flags(values), {})
    path = written(tmp_path, first.to_yaml())
    second = read_settings(["--config", path], {})
    assert effective(second) == effective(first)
    assert set(second.origins) == set(FIELDS)


def test_the_printed_file_means_the_same_to_any_yaml_reader() -> None:
    found = read_settings(["--policy", "off", "--port", "9", "--no-prefix-caching"], {})
    plain = yaml.safe_load(found.to_yaml())
    assert plain == {name.replace("_", "-"): v for name, v in effective(found).items()}


def test_the_printed_file_explains_and_says_where_from(tmp_path: Path, monkeypatch, capsys) -> None:
    file = written(tmp_path, "threads: 2\n")
    monkeypatch.setenv("CASTSERVE_POLICY", "off")
    assert cli.main(["--print-config", "--config", file, "--port", "9000"]) == 0
    text = capsys.readouterr().out
    for name, field in FIELDS.items():
        assert f"\n{name.replace('_', '-')}: " in text
        assert field.description is not None
        assert field.description in " ".join(text.replace("\n# ", " ").split())
    assert "\npolicy: 'off'  # from CASTSERVE_POLICY\n" in text
    assert "\nport: 9000  # from --port\n" in text
    assert f"\nthreads: 2  # from {file}, line 1\n" in text


def test_plain_words_of_yaml_are_text(tmp_path: Path) -> None:
    file = written(
        tmp_path,
        "policy: off\nprefix_caching: off\nserved-model-name: 007\nhead: null\nthreads:\n"
        "evaluations-dir: ''\n",
    )
    found = read_settings(["--config", file], {})
    assert (found.engine.policy, found.engine.prefix_caching) == ("off", False)
    assert found.http.served_model_name == "007"
    assert (found.engine.head, found.engine.threads, found.http.evaluations_dir) == (None, None, "")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("port: 99999\n", r"line 1: port 99999: .*65535"),
        ("host: 0.0.0.0\nprot: 80\n", r"line 2: there is no setting 'prot'; did you mean port\?"),
        ("port: 1\n\nport: 2\n", r"line 3: port has been set above already"),
        ("speculation: {policy: off}\n", r"line 1: there is no setting 'speculation'"),
        ("policy: {kind: off}\n", r"line 1: policy needs a single value"),
        ("threads: [1, 2]\n", r"line 1: threads \['1', '2'\]: .*integer"),
        ("- port\n", r"needs lines like `port: 8000`"),
        ("port: [\n", r"is no YAML: .*line"),
    ],
)
def test_mistakes_in_a_file_name_the_file_and_the_line(tmp_path, text, message, capsys) -> None:
    file = written(tmp_path, text)
    assert cli.main(["--config", file]) == 2
    said = capsys.readouterr().err
    assert said.startswith("cast-serve: ")
    assert file in said
    assert re.search(message, said)
    assert said.count("\n") == 1


def test_a_file_that_is_not_there() -> None:
    with pytest.raises(ConfigError, match=r"no/such\.yaml cannot be read: No such file"):
        read_settings(["--config", "no/such.yaml"], {})


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        ({"CASTSERVE_PORT": "99999"}, r"CASTSERVE_PORT=99999: .*65535"),
        ({"CASTSERVE_PROT": "80"}, r"no setting CASTSERVE_PROT; did you mean CASTSERVE_PORT\?"),
        ({"CASTSERVE_CONFIG_FILE": "x"}, r"did you mean CASTSERVE_CONFIG\?"),
        ({"CASTSERVE_DTYPE": "int4"}, r"CASTSERVE_DTYPE=int4: .*'bfloat16'"),
        ({"CASTSERVE_API_KEYS": "x"}, r"did you mean CASTSERVE_API_KEY\?"),
        ({"CASTSERVE_CONFIG": "no/such.yaml"}, r"no/such\.yaml cannot be read"),
    ],
)
def test_mistakes_in_the_environment_name_the_variable(environ, message) -> None:
    with pytest.raises(ConfigError, match=message):
        read_settings([], environ)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--prot", "80"], r"There is no flag --prot; did you mean --port\?"),
        (["--kv-cache-token=80"], r"did you mean --kv-cache-tokens\?"),
        (["--chekc"], r"did you mean --check\?"),
        (["my-model.gguf"], r"'my-model\.gguf' belongs to no flag; a model is named with --model"),
        (["--port"], r"--port: expected one argument; cast-serve --help"),
        (["--dtype", "int4"], r"--dtype int4: .*'bfloat16'"),
        (["--json"], r"--json goes with --check only"),
    ],
)
def test_mistakes_on_the_command_line_name_the_flag(argv, message) -> None:
    with pytest.raises(ConfigError, match=message):
        read_settings(argv, {})


def test_each_of_several_mistakes_is_named_where_it_stands(tmp_path: Path) -> None:
    file = written(tmp_path, "threads: none\n")
    with pytest.raises(ConfigError) as error:
        read_settings(["--config", file, "--block-size", "0"], {"CASTSERVE_PORT": "-1"})
    told = str(error.value)
    assert all(part in told for part in ("threads none", "--block-size 0", "CASTSERVE_PORT=-1"))


def test_variables_that_are_not_ours_or_empty_are_left_alone() -> None:
    environ = {
        "CASTSERVE_CACHE": "/tmp/cache",
        "PATH": "/bin",
        "CASTSERVE_THREADS": "",  # what a template leaves of a value that is not given
        # what Kubernetes sets for a service called castserve
        "CASTSERVE_PORT": "tcp://10.0.0.7:80",
        "CASTSERVE_PORT_80_TCP_ADDR": "10.0.0.7",
        "CASTSERVE_SERVICE_HOST": "10.0.0.7",
        "CASTSERVE_SERVICE_PORT_HTTP": "80",
    }
    assert effective(read_settings([], environ)) == effective(read_settings([], {}))


def test_examples_of_the_help_are_valid() -> None:
    examples = re.findall(r"^    (cast-serve.*)$", flags.make_parser().format_help(), re.MULTILINE)
    assert len(examples) == 9
    for example in examples:
        flags.parse_flags(shlex.split(example.partition(" > ")[0])[1:])


class WithMore(HttpConfig):
    """What another change may add."""

    api_keys: tuple[str, ...] = Field((), description="who may come in")
    secret: SecretStr | None = Field(None, description="nobody's business")


def test_a_field_that_is_added_can_be_set_in_all_ways(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(flags, "HttpConfig", WithMore)
    monkeypatch.setattr(settings_module, "HttpConfig", WithMore)
    path = written(tmp_path, "api-keys: [a, b]\n")
    ways = [
        read_settings(["--config", path], {}),
        read_settings([], {"CASTSERVE_API_KEYS": "a, b"}),
        read_settings(["--api-keys", "a,b", "--secret", "s3cret"], {}),
    ]
    assert [effective(found)["api_keys"] for found in ways] == [("a", "b")] * 3
    text = ways[-1].to_yaml()
    assert "\n# who may come in\napi-keys: [a, b]  # from --api-keys\n" in text
    assert "# secret: secret, set but not printed" in text
    assert "s3cret" not in text
