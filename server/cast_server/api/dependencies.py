"""What handlers get from the app that they belong to."""

from __future__ import annotations

from typing import Annotated, cast

from fastapi import Depends, Request

from cast_server.api.engine import Engine
from cast_server.api.token_text import TokenText
from cast_server.api.tools.dialect import Dialect
from cast_server.evaluators.jobs.service import Evaluations
from cast_server.observing.exchange import WatchedEngine, exchange_of
from cast_server.observing.observer import Observer


async def _engine(request: Request) -> Engine:  # a plain function would be called in a thread
    """Whatever the handler asks of it is noted as part of the HTTP request."""
    engine, exchange = request.app.state.engine, exchange_of(request.scope)
    if exchange is None:
        return cast(Engine, engine)
    keeps_texts = _observer(request).keeps_texts
    return cast(Engine, WatchedEngine(engine, exchange, keeps_texts=keeps_texts))


def _observer(request: Request) -> Observer:
    return cast(Observer, request.app.state.observer)


def token_text(request: Request) -> TokenText:
    """The bytes behind tokens of the served model."""
    return cast(TokenText, request.app.state.token_text)


def _dialect(request: Request) -> Dialect:
    return cast(Dialect, request.app.state.dialect)


def _evaluations(request: Request) -> Evaluations:
    return cast(Evaluations, request.app.state.evaluations)


EngineDep = Annotated[Engine, Depends(_engine)]
ObserverDep = Annotated[Observer, Depends(_observer)]
TokenTextDep = Annotated[TokenText, Depends(token_text)]
DialectDep = Annotated[Dialect, Depends(_dialect)]
EvaluationsDep = Annotated[Evaluations, Depends(_evaluations)]
