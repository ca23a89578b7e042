"""The images of a dataset of which an expression is true."""

from __future__ import annotations

from imagemill.dataset.columns import read_columns, read_schema
from imagemill.dataset.folder import Dataset
from imagemill.errors import UsageError
from imagemill.expressions import Expression
from imagemill.scorers.base import scored_columns
from imagemill.selecting.choosing import passing


def names_where(dataset: Dataset, where: str) -> frozenset[str]:
    """Their file names; raises UsageError for an expression that cannot be right, or is true of none."""
    expression = Expression.parse(where)
    schema = read_schema(dataset)
    absent = [name for name in expression.columns if name not in schema.names]
    scorers = scored_columns() if absent else {}
    for name in absent:
        if name in scorers:
            raise UsageError(
                f"there is no column `{name}` yet", f"imagemill score {dataset.folder} --with {scorers[name]}"
            )
    expression.check(schema)
    table = read_columns(dataset, schema, expression.columns)
    names = table.column("file_name").to_numpy()[passing(expression, table, keep_missing=False)]
    if not len(names):
        raise UsageError(f"nothing is left of `{dataset.folder}`: `{where}` is true of no image", "ask for less")
    return frozenset(names.tolist())
