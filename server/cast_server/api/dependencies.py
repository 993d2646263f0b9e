"""What handlers get from the app that they belong to."""

from __future__ import annotations

from typing import Annotated, cast

from fastapi import Depends, Request

from cast_server.api.engine import Engine
from cast_server.api.token_text import TokenText
from cast_server.evaluators.jobs.service import Evaluations


def _engine(request: Request) -> Engine:
    return cast(Engine, request.app.state.engine)


def token_text(request: Request) -> TokenText:
    """The bytes behind tokens of the served model."""
    return cast(TokenText, request.app.state.token_text)


def _evaluations(request: Request) -> Evaluations:
    return cast(Evaluations, request.app.state.evaluations)


EngineDep = Annotated[Engine, Depends(_engine)]
TokenTextDep = Annotated[TokenText, Depends(token_text)]
EvaluationsDep = Annotated[Evaluations, Depends(_evaluations)]
