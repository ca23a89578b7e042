"""Pictures and their captions become more pictures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field

from imagemill.captions import Keep, kept
from imagemill.committing import Progress
from imagemill.dataset import Dataset
from imagemill.errors import UsageError
from imagemill.executors.local import Local
from imagemill.making.describing import describe
from imagemill.making.execution import make
from imagemill.making.intake import output_for
from imagemill.making.preparation import Making
from imagemill.models.base import ModelInfo, find_text_model, text_model_name
from imagemill.records import Row, Sample, Variation
from imagemill.seeds import derive_seed
from imagemill.tables.columns import PictureTable


class Augment(Variation, PictureTable, Making):
    """Image to image: every picture and its caption, several variations each."""

    text_parameter: ClassVar[str] = "caption_column"
    text_names: ClassVar[tuple[str, ...]] = ("caption", "captions", "text", "prompt")

    caption_column: str | None = None
    """Column with the captions, one for a row or one for each picture; found by name, such as `caption` or `text`."""
    captioner: str | None = None
    """What describes the pictures where no column does: an image-to-text model; `shapes` for the model `shapes`."""
    captions_per_image: int = Field(1, ge=1, le=100)
    """Captions that the captioner makes of each picture, to choose from."""
    keep_candidates: Keep = "random"
    """Which of them are used: one by chance, the most similar to the row's text, or all, each for images of its own."""
    keep_original: bool = True
    """Put each source, unchanged, before what is made from it."""

    @property
    def texts_optional(self) -> bool:
        """A captioner can make them."""
        return self.caption_column is None

    @property
    def makes_texts(self) -> bool:
        """Whoever names a captioner wants its captions."""
        return self.captioner is not None

    def check_model(self, info: ModelInfo) -> None:
        """Refuse a model that starts from no pictures, or only with a mask."""
        if not info.most_images:
            raise UsageError(f"`{info.name}` cannot start from pictures", "name an image-to-image model with `--model`")
        if info.needs_mask:
            raise UsageError(f"`{info.name}` needs a mask with every picture", "see `imagemill edit --mask-column`")
        if self.captioner and self.caption_column:
            raise UsageError("`captioner` and `caption_column` both say what is in the pictures", "leave out one")
        if self.captioner and self.template:
            raise UsageError("`captioner` and `template` both say what is in the pictures", "leave out one")

    def arranged(self, rows: Sequence[Row]) -> list[Row]:
        """Originals first; a candidate each, where all are used."""
        return [
            replace(row, samples=tuple(each for sample in row.samples for each in self._candidates(sample)))
            for row in rows
        ]

    def _candidates(self, sample: Sample) -> list[Sample]:
        described = self._is_described(sample)
        count = self.captions_per_image if described and self.keep_candidates == "all" else 1
        sample = replace(sample, columns={"captioner": self._captioner() if described else ""})
        return [replace(sample, keep_original=self.keep_original and number == 0) for number in range(count)]

    def _is_described(self, sample: Sample) -> bool:
        return not sample.prompts and self.template is None

    def _captioner(self) -> str:
        """The model that describes pictures; raises UsageError when there is none."""
        name = self.captioner or ("shapes" if self.model_name() == "shapes" else "")
        if not name:
            raise UsageError(
                f"no column is called {', '.join(f'`{name}`' for name in self.text_names)}",
                "name it with `--caption-column`, or a model that describes pictures with `--captioner`",
            )
        return text_model_name(name)

    def further(self, rows: Sequence[Row], known: Mapping[str, Any], workers: int) -> dict[str, Any]:
        """The captioner, where there is one."""
        if not any(self._is_described(sample) for row in rows for sample in row.samples):
            for name in sorted({"captions_per_image", "keep_candidates"} & self.model_fields_set):
                raise UsageError(f"`{name}` has no effect: nobody describes the pictures", "name a `--captioner`")
            return {}
        if self.keep_candidates == "similar" and not any(row.prompt for row in rows):
            raise UsageError(
                "`keep_candidates`: `similar` compares with a text of the row, and no column is called "
                + ", ".join(f"`{name}`" for name in self.text_names),
                "choose `random` or `all`",
            )
        model = find_text_model(self._captioner(), {})
        model = model.resolve(known.get("captioner_parameters", {}), workers)
        info = model.info()
        return {
            "captioner": self._captioner(),
            "captioner_revision": info.revision,
            "captioner_license": info.license,
            "captioner_parameters": model.to_table(),
        }

    def described(self, rows: Sequence[Row], step: Mapping[str, Any], folder: Path, executor: Local) -> list[Row]:
        """With the captions that the captioner makes; those of an earlier run are used again."""
        if "captioner_parameters" not in step:
            return list(rows)
        wanted = [sample for row in rows for sample in row.samples if not sample.problem]
        files = list(dict.fromkeys(image for sample in wanted for image in sample.images))
        model = find_text_model(step["captioner"], step["captioner_parameters"])
        found = describe(model, files, self.captions_per_image, step["seed"], folder, executor)

        def captioned(row: Row) -> Row:
            seen: Counter[str] = Counter()
            samples = []
            for sample in row.samples:
                if sample.problem:
                    samples.append(sample)
                    continue
                (image,) = sample.images
                texts, problem = found.get(image, ((), ("model_error", "no caption: the captioner gave no answer")))
                if problem:
                    samples.append(replace(sample, images=(), problem=problem))
                    continue
                seed = derive_seed(step["seed"], row.id, -2)
                chosen = kept(texts, self.keep_candidates, seed, row.prompt)
                samples.append(replace(sample, prompts=(chosen[seen[image] % len(chosen)],)))
                seen[image] += 1
            return replace(row, samples=tuple(samples))

        return [captioned(row) for row in rows]


def augment(
    source: str | Path | Iterable[Any],
    output: str | Path | None = None,
    *,
    workers: int = 1,
    devices: str = "",
    progress: Progress | None = None,
    **parameters: Any,
) -> Dataset:
    """Make more images from images and their captions, and return them as a dataset; the same call again continues.

    `source` is a dataset, a folder of images, a table with a column of paths, or an iterable of paths or mappings;
    without `output` the dataset goes to IMAGEMILL_OUTPUT_DIR, else beside the source; `parameters` are those of
    `Augment` and of the model, as on the command line. Raises as `generate` does.
    """
    folder = output_for(source, output, "augmented")
    return make(Augment, source, folder, parameters, workers, devices, progress)
