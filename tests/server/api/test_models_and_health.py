"""/v1/models and /health."""

from __future__ import annotations

import openai
import pytest

TINY = {
    "id": "org/tiny",
    "object": "model",
    "created": 1_700_000_000,
    "owned_by": "castserve",
    "max_model_len": 100,
}


def test_models_lists_the_served_one(client, http) -> None:
    assert [model.id for model in client.models.list()] == ["org/tiny"]
    assert http.get("/v1/models").json() == {"object": "list", "data": [TINY]}


def test_a_model_with_a_slash_in_its_name_is_found(client, http) -> None:
    assert client.models.retrieve("org/tiny").id == "org/tiny"
    assert http.get("/v1/models/org/tiny").json() == TINY
    assert http.get("/v1/models/org%2Ftiny").json() == TINY


def test_unknown_model_is_404(client) -> None:
    with pytest.raises(openai.NotFoundError, match="The model `other` does not exist") as error:
        client.models.retrieve("other")
    assert (error.value.code, error.value.param) == ("model_not_found", "model")


@pytest.mark.parametrize("path", ["/v1/models/", "/v1//models", "//v1/models"])
def test_superfluous_slashes_are_forgiven(http, address, path) -> None:
    url = f"http://{address[0]}:{address[1]}{path}"
    assert http.get(url).json() == {"object": "list", "data": [TINY]}


def test_health_follows_the_engine(http, engine) -> None:
    answer = http.get("/health")
    assert (answer.status_code, answer.json()) == (200, {"status": "ok"})
    engine.is_alive = False
    answer = http.get("/health")
    assert answer.status_code == 503
    assert answer.json()["error"]["message"] == "The engine does not run."


def test_schema_describes_the_forms_of_a_prompt(http) -> None:
    schema = http.get("/openapi.json").json()
    prompt = schema["components"]["schemas"]["CompletionRequest"]["properties"]["prompt"]
    assert len(prompt["anyOf"]) == 4
