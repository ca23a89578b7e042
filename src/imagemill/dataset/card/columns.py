"""What the columns that imagemill writes mean, and what readers of an export see instead."""

from __future__ import annotations

MEANINGS = {
    "file_name": "the image, relative to the metadata file",
    "prompt": "what was asked for, as the model got it",
    "negative_prompt": "what was not wanted; empty when nothing was said",
    "id": "the identity of the table's row",
    "seed": "the image's own seed; -1 when the model takes none",
    "width": "pixels",
    "height": "pixels",
    "num_inference_steps": "denoising steps; 0 when a server does not tell",
    "guidance_scale": "how strongly the prompt was followed",
    "scheduler": "sampler by its k-diffusion name; empty when a server does not tell",
    "model": "the model that made it",
    "model_revision": "the exact version of the model",
    "model_parameters": "how the model was loaded, as JSON",
    "batch_size": "images that shared a forward pass; decides the last bits",
    "sha256": "of the file",
    "revised_prompt": "what the server says it has drawn instead; empty when it says nothing",
    "tries": "how many images were drawn for it, this one with them; the others were not accepted",
    "redrawn": "seeds given up because their image was faulty or blocked",
    "dropped_tokens": "tokens at the prompt's end that the model did not read",
    "strength": "how much of the source could change, from 0 to 1; 0 where the model takes none",
    "source_sha256": "of the pictures it was made from, files in `.imagemill/sources`",
    "mask_sha256": "of the mask, white where the picture could change",
    "original": "whether it is a source itself, as it came",
    "source_image": "the source, as the table names it",
    "captioner": "the model that described the source; empty where the table did",
    "turn": "place among the edits of a conversation; each starts from what the one before has made",
    "edit_prompt": "the instruction",
    "input_image_file_name": "the picture before the edit",
    "input_images_file_names": "all pictures that the edit started from",
    "mask_file_name": "the mask, white where the picture could change",
    "edited_image_file_name": "the picture after the edit, the same as `file_name`",
    "difference": "mean absolute difference between before and after, from 0 to 1",
    "changed_area": "share of the area where a channel differs by more than a quarter of its range",
    "no_op": "whether the edit has changed nothing that can be seen",
}

BY_HAND = {
    "caption": "what the image shows; the prompt where nobody has said it better",
    "decision": "`keep` or `reject`, by a person; empty where nobody has decided",
    "rating": "1 to 5, by a person; 0 where nobody has rated it",
    "tags": "by a person, with commas between",
}
"""The columns that people fill."""

DIFFUSIONDB = {
    "image_name": "the file of the image",
    "prompt": "what was asked for",
    "part_id": "the number of the folder, or of the archive, in which the image lies",
    "seed": "the image's own seed",
    "step": "denoising steps",
    "cfg": "how strongly the prompt was followed",
    "sampler": "by DiffusionDB's number; 9 for others",
    "width": "pixels",
    "height": "pixels",
    "user_name": "SHA-256 of the name of who wrote the prompt, where that is known",
    "timestamp": "when the image was made, where that is known",
    "image_nsfw": "how likely the image is not safe for work, where that was scored",
    "prompt_nsfw": "the same of the prompt",
}
"""The columns of the main table of DiffusionDB."""
SAMPLE = {
    "png, jpg or webp": "the image",
    "txt": "its caption, from `{caption}`",
    "json": "its record, with the columns below",
}
"""The files of a sample of WebDataset."""


def as_read(name: str) -> str:
    """How readers of an image folder, or of Parquet files, call a column: one that names a file is its picture."""
    if name.endswith("file_name"):
        return name.removesuffix("file_name").rstrip("_") or "image"
    if name.endswith("file_names"):
        return name.removesuffix("file_names").rstrip("_") or "images"
    return name
