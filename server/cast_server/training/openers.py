"""How the user turns of a made conversation begin, by task.

A chat model left alone after the mark of a user turn writes what users ask (Magpie, Xu et al.
2024). A few given words steer it to a task; everything after them is the model's own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final


@dataclass(frozen=True, slots=True)
class Task:
    """Every combination of a lead and an opener begins a user turn of at most `max_tokens` more.

    `system` is what the model is told while it writes the turn, not while it answers.
    """

    system: str
    leads: tuple[str, ...]
    openers: tuple[str, ...]
    max_tokens: int

    def opener(self, serial: int) -> str:
        """The beginning number `serial`, round and round."""
        lead = self.leads[serial // len(self.openers) % len(self.leads)]
        return lead + self.openers[serial % len(self.openers)]


def _words(text: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in text.split("|"))


_CHAT = _words(
    "|Imagine you are|Write a short story about|I am planning|Can you help me|Pretend to be|"
    "I have been thinking about|Write an email to|Give me advice on|Compose a poem about|"
    "Help me prepare for|Explain to a child|Draft a blog post about|What do you think about|"
    "My friend|Act as|Describe a day|I want to learn|Discuss the advantages of|Suppose|"
    "Write a persuasive|How should I|Compare|Outline|Tell me about|Design a|Could you explain|"
    "Create a plan for|Write a dialogue between|Analyze"
)
_INSTRUCTIONS = _words(
    "Give three|List|Name|Rewrite|Classify|Identify|Convert|Generate a|Create a|Describe|Explain|"
    "Summarize the|Write a sentence|Edit the following|Suggest|Find the|Translate|What are|Provide|"
    "Categorize|Construct|Arrange|Compare and contrast|Propose|Complete the sentence|Brainstorm|"
    "Calculate|Tell me|Design|Come up with|Predict|How can|What is|Output|Choose|Combine|Replace|"
    "Develop|Organize|Evaluate|Select|Add|Rephrase|Determine|Formulate|Sort|State|Outline|Write"
)
_MATHS = _words(
    "Sarah has|A farmer|There are|If|John buys|A train|Maria and her|Tom is|The price of|A box|"
    "Each|In a class of|Emma reads|A bakery|Lucas earns|Every day|Mr. Lee|A car|Half of|Anna's|"
    "It takes|Ben wants to|A store sells|The sum of|Two|Kate baked|A school|Peter walks|On Monday|"
    "A water tank|Nina saves|The ratio of|A rectangle|Twenty|During|Carlos|How many|When|A baker"
)
_CODE_LEADS = (
    "Complete this function.\n\ndef ",
    "Finish the code below:\n\ndef ",
    "Complete the following Python code.\n\nfrom typing import List\n\ndef ",
    "Write the body of this function:\n\ndef ",
    "Write a Python function ",
    "def ",
)
_CODE = _words(
    "is_|count_|find_|remove_|sort_|get_|sum_|max_|calculate_|reverse_|check_|filter_|merge_|"
    "convert_|split_|replace_|most_|add_|all_|has_|first_|unique_|decode_|encode_|longest_|sum|"
    "even_|next_|prime_|string_|list_|digits_|median|factorial|average|matrix_|words_|parse_|triangle_"
)
_ARTICLE_LEADS = (
    "Summarize: ",
    "Summarize the following article:\n\n",
    "Please summarise this text. ",
    "What is the main point of this article?\n\n",
)
_ARTICLE = _words(
    "A man|Police|The president|Scientists|A new study|The company|Officials in|LONDON -|"
    "Thousands of|The team|A woman who|After years of|The government|In a small town|"
    "Researchers at|The actor|A judge|Two|The star|Residents of|The former|It was|A mother|"
    "Prime minister|The world's|An American|Manchester|When|Last week|Hundreds|The family of|"
    "A school|Doctors|The film|For|Football|The White House|A rare|More than|She|He was|"
    "The court|Workers|A teenager|On Sunday"
)
_QUESTIONS = _words(
    "who|when did|where is|what is the|how many|who wrote|what does|who plays|when was the|"
    "where was|what is|which|how long|why did|who sang|when is|where does|what year|who is the|"
    "how much|Who won|When did|What|Where did|Who was the first|How did|What are the|In which|"
    "who invented|what type of|where do|who has the most|what was the|name the|how old|when were"
)

TASKS: Final[Mapping[str, Task]] = MappingProxyType(
    {
        "chat": Task(
            "You are a helpful assistant. The user writes one clear request for help with writing, "
            "planning, reasoning or everyday life.",
            ("",),
            _CHAT,
            100,
        ),
        "instructions": Task(
            "You are a helpful assistant. The user gives one short instruction that can be "
            "followed without more information.",
            ("",),
            _INSTRUCTIONS,
            80,
        ),
        "maths": Task(
            "You are a maths tutor. The user states one short word problem with numbers for "
            "children, which ends with a question.",
            ("",),
            _MATHS,
            100,
        ),
        "code": Task(
            "You are a Python expert. The user gives the signature and the docstring, with "
            "examples, of one Python function to be written.",
            _CODE_LEADS,
            _CODE,
            160,
        ),
        "summaries": Task(
            "You are a helpful assistant that summarises. The user gives a news article of several "
            "paragraphs, with names, numbers and quotes.",
            _ARTICLE_LEADS,
            _ARTICLE,
            240,
        ),
        "questions": Task(
            "You are a helpful assistant that knows many facts. The user asks one short question "
            "about history, science, sport, films, music or geography.",
            ("",),
            _QUESTIONS,
            40,
        ),
    }
)
