"""Scorers that ask a model about pictures."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any, ClassVar, Self

from pydantic import Field, PrivateAttr

from imagemill.models.base import Question, Reply, TextModel, find_text_model, text_model_name
from imagemill.scorers.base import Scored, Scorer, ScorerInfo, Seen

PromptsOf = Callable[[Seen], list[str]]
"""What is asked about an image; may be nothing."""
Read = Callable[[Seen, list[str]], Scored]
"""Makes a score of the answers, which come in the order of the prompts."""

_TOGETHER = 16
"""Images whose questions are put in order together."""


class Asking(Scorer):
    """A scorer that asks a model which answers questions about images."""

    reply_tokens: ClassVar[int] = 1024
    """Most tokens of a reply, where the model has a limit and nobody has said how many."""

    model: str = Field(min_length=1)
    """What answers: a folder, a hub id, or another name, such as `openai:NAME`; the same that `caption` takes."""
    model_parameters: dict[str, Any] = {}
    """Parameters of that model, such as `base_url`; `imagemill models NAME` lists them."""

    _resolved: TextModel | None = PrivateAttr(None)

    def text_model(self) -> TextModel:
        """The model with its parameters; raises UsageError when there is none or a parameter is wrong."""
        if self._resolved is not None:
            return self._resolved
        name = text_model_name(self.model)
        limit = type(find_text_model(name, {})).model_fields.get("max_new_tokens")
        parameters = self.model_parameters
        if limit and "max_new_tokens" not in parameters:
            most = min([self.reply_tokens, *(bound.le for bound in limit.metadata if hasattr(bound, "le"))])
            parameters = {**parameters, "max_new_tokens": most}
        return find_text_model(name, parameters)

    def info(self) -> ScorerInfo:
        """That of the model."""
        found = self.text_model().info()
        return ScorerInfo(found.name, found.revision, found.license)

    def resolve(self, known: Mapping[str, Any], workers: int) -> Self:
        """Resolve the model; its parameters are then written down, but for those that decide no answer."""
        # Earlier ones may stand beside the scorer's own.
        model = self.text_model().resolve(known.get("model_parameters", known), workers)
        written = {name: value for name, value in model.to_table().items() if name != "model"}
        resolved = self.model_copy(update={"model_parameters": written})
        resolved._resolved = model
        return resolved

    def ready(self, workers: int) -> None:
        """Raise UsageError when the model lacks something, such as a key."""
        self.text_model().ready(workers)

    def ask(self, images: Iterable[Seen], prompts_of: PromptsOf, read: Read) -> Iterator[Scored]:
        """Ask about each image all its prompts, in any order, and make a score of the replies.

        Where a question fails, so does its image.
        """
        model, source = self.text_model(), iter(images)
        waiting: dict[str, _Waiting] = {}
        unasked: list[Seen] = []
        numbers = itertools.count()
        going = True

        def questions() -> Iterator[Question]:
            nonlocal going
            while chunk := list(islice(source, _TOGETHER)):
                asked: list[Question] = []
                for seen in chunk:
                    whole = _Waiting(seen, [], {})
                    for prompt in prompts_of(seen):
                        whole.names.append(str(next(numbers)))
                        waiting[whole.names[-1]] = whole
                        asked.append(Question(whole.names[-1], prompt, (seen.data,)))
                    if not whole.names:
                        unasked.append(seen)
                # Those of one prompt can share a pass.
                yield from sorted(asked, key=lambda question: question.prompt)
                if len(unasked) >= _TOGETHER:
                    # They wait for the others to be answered, with all that they hold.
                    going = True
                    return

        while going:
            going = False
            for reply in model.answer(questions()):
                whole = waiting.pop(reply.question.name)
                whole.replies[reply.question.name] = reply
                if len(whole.replies) == len(whole.names):
                    yield whole.scored(read)
            yield from [read(seen, []) for seen in unasked]
            unasked.clear()


@dataclass(frozen=True, slots=True)
class _Waiting:
    """An image whose questions are not all answered."""

    seen: Seen
    names: list[str]
    replies: dict[str, Reply]

    def scored(self, read: Read) -> Scored:
        """What the replies come to."""
        replies = [self.replies[name] for name in self.names]
        failed = next((reply for reply in replies if reply.reason), None)
        if failed:
            return Scored(self.seen, reason=failed.reason, message=failed.message)
        return read(self.seen, [reply.texts[0] for reply in replies])
