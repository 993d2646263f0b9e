"""Prompts of the project's own, for benchmarks: six tasks, four each."""

from __future__ import annotations

from typing import Any, Final

PROMPTS: Final = (
    "Tell me about a lighthouse keeper who finds a message in a bottle.",
    "I have a job interview tomorrow and I am nervous. How should I prepare this evening?",
    "Plan a weekend in a small mountain town for two people who like walking and good food.",
    "What would you say to a friend who wants to learn to play the guitar at forty?",
    "Write a Python function that returns the n-th Fibonacci number, with a docstring.",
    "Write a Python class for a bank account with deposit, withdraw and balance methods.",
    "Write an SQL query that lists the ten customers with the highest total order value.",
    "Write a JavaScript function that counts how often each word occurs in a string.",
    "A train travels 180 km in 2 hours and then 120 km in 1.5 hours. What is its average speed?",
    "A shop sells pens at 3 for 2 dollars. How much do 18 pens cost? Explain step by step.",
    "The sides of a rectangle are 7 cm and 12 cm. Find its perimeter and its area.",
    "Solve for x: 3x + 7 = 25. Show each step.",
    "List five tips for saving water at home, one sentence each.",
    "Rewrite this politely: Send me the report now, you are late again.",
    "Give three names for a bakery that sells only rye bread, and a slogan for each.",
    "Write a short thank-you note to a neighbour who watered the plants.",
    "Summarise in two sentences: The river rose after a week of rain. The lower meadows flooded, "
    "and the sheep were moved to the hill. By Sunday the water had gone back, but the footbridge "
    "was lost. The council will meet on Tuesday to decide whether to rebuild it in wood or steel.",
    "Summarise in one sentence: Bees find flowers by colour and scent. When a worker bee has found "
    "a good meadow, she returns and dances. The angle of the dance shows the direction, and its "
    "length shows the distance. The other bees follow the dance and then fly out themselves.",
    "Name the main point: Many people buy more tools than they need. Tools rust, fill the shed and "
    "are used once a year. A shared tool library lets a street own one good drill instead of ten.",
    "Make three bullet points of this: The museum opens at nine and closes at five. Children under "
    "twelve enter free. On Mondays the museum is closed, except on public holidays.",
    "Why is the sky blue?",
    "What is the capital of Australia, and why is it not Sydney?",
    "How does a refrigerator keep food cold?",
    "Who wrote Don Quixote, and what is the book about?",
)


def chat_ids(tokenizer: Any, prompt: str) -> list[int]:
    """Token ids of one user turn in the model's own chat template."""
    ids: list[int] = tokenizer.apply_chat_template(
        [{"role": "user", "content": prompt}], add_generation_prompt=True, return_dict=False
    )
    return ids
