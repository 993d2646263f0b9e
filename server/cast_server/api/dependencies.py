"""What handlers get from the app that they belong to."""

from __future__ import annotations

from typing import Annotated, cast

from fastapi import Depends, Request

from cast_server.api.engine import Engine
from cast_server.api.token_text import TokenText
from cast_server.api.tools.dialect import Dialect
from cast_server.evaluators.jobs.service import Evaluations


def _engine(request: Request) -> Engine:
    return cast(Engine, request.app.state.engine)


def _token_text(request: Request) -> TokenText:
    return cast(TokenText, request.app.state.token_text)


def _dialect(request: Request) -> Dialect:
    return cast(Dialect, request.app.state.dialect)


def _evaluations(request: Request) -> Evaluations:
    return cast(Evaluations, request.app.state.evaluations)


EngineDep = Annotated[Engine, Depends(_engine)]
TokenTextDep = Annotated[TokenText, Depends(_token_text)]
DialectDep = Annotated[Dialect, Depends(_dialect)]
EvaluationsDep = Annotated[Evaluations, Depends(_evaluations)]
