"""Tool calls: what a request offers, how the model is told, and what it answers.

A format (`hermes`, `llama3_json`, …) is how a family of models writes calls; `registry` has them
all. Formats read text as it comes, so a stream and a whole answer are the same thing.
"""
