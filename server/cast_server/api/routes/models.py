"""/v1/models"""

from __future__ import annotations

from fastapi import APIRouter

from cast_server.api.dependencies import EngineDep
from cast_server.api.engine import Engine
from cast_server.api.requests import check_model_name
from cast_server.api.responses import Model, ModelList

router = APIRouter(tags=["models"])


@router.get("/v1/models")
async def list_models(engine: EngineDep) -> ModelList:
    """Lists the served model."""
    return ModelList(data=[_model(engine)])


@router.get("/v1/models/{model_id:path}")
async def retrieve_model(model_id: str, engine: EngineDep) -> Model:
    """Describes one model; names may contain slashes."""
    check_model_name(model_id, engine)
    return _model(engine)


def _model(engine: Engine) -> Model:
    return Model(id=engine.model_name, created=engine.created, max_model_len=engine.max_model_len)
