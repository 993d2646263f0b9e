"""Times the passes of an engine as it is going to serve. Before its first request, or not at all:
scratch passes write to free blocks, in which nothing may be cached yet.
"""

from cast_server.profiling.stored import profile_for

__all__ = ["profile_for"]
