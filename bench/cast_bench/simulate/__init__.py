"""Recorded drafts replayed against any cost: what each policy would give on other hardware.

`trace` is what was recorded and `recorder` records it; `replay` is a drafter that proposes from it;
`engine` is the steps, with the real planner and builders on a clock of their own; `hardware` says
how long things take.
"""
