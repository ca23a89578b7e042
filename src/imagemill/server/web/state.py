"""What all routes share."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from fastapi import Depends, Request
from fastapi import Path as InPath

from imagemill.dataset.edits import Edits
from imagemill.errors import UsageError
from imagemill.server.web.events import Events
from imagemill.server.web.gallery import Thumbnails, Views
from imagemill.server.web.making.plans import Plans
from imagemill.server.web.queue import Queue
from imagemill.server.web.uploads import Trash, Uploads
from imagemill.server.web.workspace import Workspace


class Web:
    """A folder that is served, and everything that is done with it."""

    def __init__(self, workspace: Workspace, models: Sequence[str]) -> None:
        self.workspace = workspace
        self.models = list(models)
        """What forms offer beside the built-in ones: those that `serve --model` names."""
        self._edits: dict[str, Edits] = {}
        self._lock = threading.Lock()
        self.queueing = threading.RLock()
        """Held from looking whether a name is free until the job that takes it is queued."""
        self.events = Events()
        self.queue = Queue(workspace, self.events)
        self.plans = Plans()
        self.uploads = Uploads(workspace)
        self.trash = Trash(workspace)
        self.thumbnails = Thumbnails(workspace)
        self.views = Views(workspace, self.edits)

    def edits(self, dataset: str) -> Edits:
        """What people decided about the images of a dataset."""
        entry = self.workspace.find(dataset)
        with self._lock:
            if entry.id not in self._edits:
                self._edits[entry.id] = Edits(entry.folder)
            return self._edits[entry.id]

    def promised(self) -> set[Path]:
        """The folders that jobs which are not over write."""
        return {job.output for job in self.queue.jobs() if job.output and not job.over}

    def new_folder(self, name: str) -> Path:
        """Where something new is put; raises UsageError for a name that cannot be used, is taken or promised."""
        folder = self.workspace.new_folder(name)
        if folder in self.promised():
            raise UsageError(f"a job that has not ended makes `{folder.name}`", "choose another name")
        return folder

    def start(self) -> None:
        """Take up the jobs that wait or were under way, and keep nothing of images that are removed."""
        self.queue.start()
        self.thumbnails.start()

    def close(self) -> None:
        """Let go of everything; jobs under way go on by themselves."""
        for each in (self.queue, self.views, self.thumbnails, self.plans):
            each.close()
        for edits in self._edits.values():
            edits.close()


async def _shared(request: Request) -> Web:
    web: Web = request.app.state.web
    # A page says from where on it wants to hear what happens.
    request.state.last_event = web.events.last
    return web


Shared = Annotated[Web, Depends(_shared)]
"""The parameter by which a route gets it."""
DatasetId = Annotated[str, InPath(pattern="^[0-9a-f]{12}$")]
