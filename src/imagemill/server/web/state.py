"""What all routes share."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Annotated

from fastapi import Depends, Request

from imagemill.dataset.edits import Edits
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

    def start(self) -> None:
        """Take up the jobs that wait or were under way."""
        self.queue.start()

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
