"""Local models that describe images or answer questions about them: a folder of transformers', or a hub id."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby, islice
from typing import TYPE_CHECKING, Any

from pydantic import Field

from imagemill.devices import failure_of
from imagemill.environment import cores
from imagemill.hub import import_package, stamp_of
from imagemill.images import upright
from imagemill.models.base import DESCRIBE, Question, Reply, TextInfo, TextModel
from imagemill.pretrained import Kept, LocalModel, Pretrained, conversation, load

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

_NUCLEUS = 0.9
"""Different replies are drawn from the likeliest words that together are so likely, as BLIP's authors do."""
_CONTINUES = {"blip", "git"}
"""Kinds of models that take a prompt for the beginning of what they say."""


class Captioner(LocalModel, TextModel):
    """A model of transformers in a folder."""

    max_new_tokens: int = Field(64, ge=1, le=8192)
    """Most tokens of a reply."""
    temperature: float = Field(1.0, gt=0, le=10)
    """How freely words are chosen where several replies are wanted; a single one is always the likeliest."""
    caption_batch_size: int = Field(8, ge=1, exclude=True)
    """Images described in one pass, fewer where memory demands it; not written down."""

    def info(self) -> TextInfo:
        """Read what the folder says of itself."""
        return TextInfo(*self.described())

    def ready(self, workers: int) -> None:
        """It needs nothing more."""
        del workers

    def answer(self, questions: Iterable[Question]) -> Iterator[Reply]:
        """Load the model once; a question for one reply gets the likeliest, together with others of the same prompt.

        Several replies are drawn by the question's seed, which alone decides them.
        """
        yield from _engine_of(self).answer(questions)


class Transformers(Pretrained, Captioner):
    """Any image-to-text or image-text-to-text model that transformers loads."""


_LOADED: Kept[_Engine] = Kept(1)
"""The engine of this process, by its options and files."""


def _engine_of(options: Captioner) -> _Engine:
    """The loaded model; raises UsageError and ModelError."""
    folder = options.folder()
    key = (options, stamp_of(folder))
    return _LOADED.get(key, lambda: _Engine(*load(options, folder, "AutoModelForImageTextToText"), options))


class _Engine:
    """One loaded model with its processor."""

    def __init__(self, processor: Any, model: Any, options: Captioner) -> None:
        self._processor, self._model, self._options = processor, model, options
        # New words come after what is asked, so that is where a batch must be even.
        processor.tokenizer.padding_side = "left"
        self._kind = model.config.model_type
        self._size = options.caption_batch_size

    def answer(self, questions: Iterable[Question]) -> Iterator[Reply]:
        with ThreadPoolExecutor(min(8, cores())) as pool:
            for _, same in groupby(questions, lambda q: (q.prompt, len(q.images)) if q.count == 1 else q.name):
                while asked := list(islice(same, self._size)):
                    opened = list(zip(asked, pool.map(_opened, asked), strict=True))
                    yield from (
                        Reply(question, reason="bad_image", message=problem)
                        for question, problem in opened
                        if isinstance(problem, str)
                    )
                    good = [(question, found) for question, found in opened if not isinstance(found, str)]
                    if good:
                        yield from self._replies(good)

    def _replies(self, asked: Sequence[tuple[Question, list[Image.Image]]]) -> Iterator[Reply]:
        """Answer together; try in halves what did not fit into memory, and one by one what failed otherwise."""
        try:
            texts = self._texts([question for question, _ in asked], [pictures for _, pictures in asked])
        except Exception as error:  # noqa: BLE001 - whatever a model raises is a failure of these questions
            texts = []
            memory, message = failure_of(error)
        if texts:
            yield from (Reply(question, found) for (question, _), found in zip(asked, texts, strict=True))
            return
        if memory and self._options.device.startswith("cuda"):
            import_package("torch").cuda.empty_cache()
        if len(asked) == 1:
            yield Reply(asked[0][0], reason="oom" if memory else "model_error", message=message)
            return
        size = 1
        if memory:
            size = math.ceil(len(asked) / 2)
            self._size = min(self._size, size)
        for start in range(0, len(asked), size):
            yield from self._replies(asked[start : start + size])

    def _texts(self, questions: Sequence[Question], pictures: Sequence[list[Image.Image]]) -> list[tuple[str, ...]]:
        """What the model says, to each question as many texts as it wants."""
        import torch

        count = questions[0].count
        inputs = self._inputs(questions[0].prompt, pictures)
        chosen: dict[str, Any] = {"do_sample": False}
        if count > 1:
            torch.manual_seed(questions[0].seed)
            chosen = {"do_sample": True, "temperature": self._options.temperature, "top_p": _NUCLEUS, "top_k": 0}
        with torch.inference_mode():
            output: Tensor = self._model.generate(
                **inputs, **chosen, num_beams=1, num_return_sequences=count, max_new_tokens=self._most(inputs)
            )
        ids = inputs.get("input_ids")
        if ids is not None and self._kind not in _CONTINUES:
            # A decoder first says again what it was asked.
            length = ids.shape[1]
            if torch.equal(output[:, :length], ids.repeat_interleave(count, 0)):
                output = output[:, length:]
        said = [text.strip() for text in self._processor.tokenizer.batch_decode(output, skip_special_tokens=True)]
        return [tuple(said[start : start + count]) for start in range(0, len(said), count)]

    def _inputs(self, prompt: str, pictures: Sequence[list[Image.Image]]) -> Any:
        """Images and text as the model takes them: a conversation where it has a template for that."""
        options: dict[str, Any] = {"return_tensors": "pt", "padding": True}
        if getattr(self._processor, "chat_template", None):
            text, reading = conversation(self._processor, prompt or DESCRIBE, len(pictures[0]))
            images = [list(found) for found in pictures] if pictures[0] else None
            inputs = self._processor(text=[text] * len(pictures), images=images, **options, **reading)
        else:
            if len(pictures[0]) != 1:
                raise ValueError(f"it takes one image at a time, not {len(pictures[0])}")
            if prompt:
                options["text"] = [prompt] * len(pictures)
            inputs = self._processor(images=[found[0] for found in pictures], **options)
            if prompt and self._kind == "git":
                # Its tokenizer ends a prompt, which is to be continued, and says what the model does not take.
                inputs.pop("token_type_ids", None)
                for name in ("input_ids", "attention_mask"):
                    inputs[name] = inputs[name][:, :-1]
        return inputs.to(self._options.device, self._model.dtype)

    def _most(self, inputs: Any) -> int:
        """New tokens that a text has room for."""
        places = getattr(self._model.config.get_text_config(decoder=True), "max_position_embeddings", None)
        if places is None:
            return self._options.max_new_tokens
        room = int(places) - (inputs["input_ids"].shape[1] if "input_ids" in inputs else 1)
        if room < 1:
            raise ValueError(f"the prompt fills the {places} tokens that it can read")
        return min(room, self._options.max_new_tokens)


def _opened(question: Question) -> list[Image.Image] | str:
    """The pictures of a question, or what is wrong with them."""
    try:
        return [upright(image) for image in question.images]
    except ValueError as error:
        return str(error)
