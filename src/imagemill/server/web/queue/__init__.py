"""The queue of jobs: one table in SQLite, one process for each job that runs."""

from imagemill.server.web.queue.jobs import DISK, Job, Progress
from imagemill.server.web.queue.queue import Queue

__all__ = ["DISK", "Job", "Progress", "Queue"]
