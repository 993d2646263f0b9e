"""Measures of language models, for anybody with hidden states at hand. Imports no server."""

from cast_server.evaluators.measures.effective_rank import effective_rank

__all__ = ["effective_rank"]
