"""`cast-serve --new-api-key NAME`: a key to give away and a line to keep."""

from __future__ import annotations

import argparse
from typing import Any

from cast_server.api.keys import new_key
from cast_server.errors import ConfigError

_TEXT = """\
The key, which is shown this once and can be read from no file:
  {key}
The line for the file of --api-keys-file, which holds no secret:
  {line}"""


class NewKeyAction(argparse.Action):
    """Prints both and exits."""

    def __call__(self, parser: argparse.ArgumentParser, _: Any, name: Any, *__: Any) -> None:
        try:
            key, line = new_key(name)
        except ConfigError as error:
            parser.error(str(error))
        print(_TEXT.format(key=key, line=line))  # noqa: T201 - it is what was asked for
        parser.exit()
