"""The commands: one function each, in a module with its like."""

from __future__ import annotations

COMMANDS: dict[str, tuple[str, str]] = {
    "demo": ("generate", "make 24 images with the built-in model: no GPU, no key, no network"),
    "generate": ("generate", "a prompt table becomes an image dataset"),
    "augment": ("generate", "pictures and captions become more pictures"),
    "edit": ("generate", "pictures and instructions become edited pictures"),
    "caption": ("caption", "say in a column of a dataset what is in its images"),
    "score": ("score", "fill columns of a dataset with scores of its images"),
    "select": ("select", "keep the images of a dataset that pass: a smaller one, by hard links"),
    "split": ("curate", "divide a dataset into several, by hard links: train and test, or equal shares"),
    "merge": ("curate", "several datasets become one, by hard links"),
    "remove": ("curate", "take images down: out of every file of a dataset, and never made again"),
    "apply": ("curate", "write into a dataset what people have decided of its images, or take it back"),
    "export": ("export", "write a dataset as other tools read it, load it back and compare"),
    "download": ("download", "fetch parts, a subset or the table of DiffusionDB, or of what is in its layout"),
    "import": ("import_", "make a dataset of an export, of pictures in any layout or none, or of one on the hub"),
    "query": ("query", "rows of a dataset or of a metadata table: pages, counts, histograms, samples"),
    "run": ("run", "several steps out of one file: make, score, select, export"),
    "status": ("datasets", "how far a dataset is"),
    "retry": ("generate", "make failed requests again"),
    "verify": ("datasets", "check every promise of a dataset again"),
    "reproduce": ("datasets", "make images again from their records and say how equal they are"),
    "report": ("report", "a dataset on one page: counts, scores, samples, prompts, near-duplicates"),
    "sheet": ("datasets", "put images with their prompts on one picture"),
    "serve": ("serve", "the web app in a browser; or an image API for OpenAI's and Hugging Face's clients"),
    "models": ("models", "what can make images, and its parameters"),
    "scorers": ("models", "what can score images, and its parameters"),
    "layouts": ("models", "how datasets can be exported, and the parameters"),
    "doctor": ("models", "what this machine can run, and why not"),
}
"""The module of each command and what it does."""
