"""The evaluators by id. A new one is one file and one line here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from cast_server.evaluators.acceptance import Acceptance
from cast_server.evaluators.base import Evaluator
from cast_server.evaluators.erank import Erank
from cast_server.evaluators.mir import Mir
from cast_server.evaluators.representation_entropy import RepresentationEntropy
from cast_server.evaluators.self_knowledge.evaluator import SelfKnowledge
from cast_server.evaluators.token_information_gain import TokenInformationGain

EVALUATORS: Final[Mapping[str, Evaluator[Any]]] = {
    "erank": Erank(),
    "representation_entropy": RepresentationEntropy(),
    "token_information_gain": TokenInformationGain(),
    "mir": Mir(),
    "acceptance": Acceptance(),
    "self_knowledge": SelfKnowledge(),
}
