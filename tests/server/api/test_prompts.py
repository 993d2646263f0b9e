"""Which special tokens get in front of a prompt."""

from __future__ import annotations

import pytest
from tokenizers import Tokenizer, models, processors
from transformers import PreTrainedTokenizerFast

from cast_server.api.prompts import chat_prompt, completion_prompts
from cast_server.api.protocol import ChatMessage

START = 1


@pytest.fixture
def tokenizer() -> PreTrainedTokenizerFast:
    """Puts <s> in front of every text, as many do, and in front of every conversation."""
    tokenizer = Tokenizer(models.BPE(vocab={"a": 0, "<s>": START}, merges=[]))
    tokenizer.add_special_tokens(["<s>"])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", START)]
    )
    template = "<s>{% for message in messages %}{{ message.content }}{% endfor %}"
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, chat_template=template)


def test_template_writes_the_only_special_tokens_of_a_chat(tokenizer) -> None:
    assert chat_prompt(tokenizer, (ChatMessage(role="user", content="aa"),)) == (START, 0, 0)


def test_texts_get_the_tokenizers_special_tokens(tokenizer) -> None:
    assert completion_prompts(tokenizer, ("aa",)) == [(START, 0, 0)]


def test_token_ids_are_left_alone(tokenizer) -> None:
    assert completion_prompts(tokenizer, ((0, 0),)) == [(0, 0)]
