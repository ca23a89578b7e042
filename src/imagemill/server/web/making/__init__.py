"""Forms drawn from components, what they would do, and the jobs they become."""

from imagemill.server.web.making.plans import NoPlan, Plans

__all__ = ["NoPlan", "Plans"]
