"""Parameters given together: the operator's and the model's."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from imagemill.component import Component
from imagemill.errors import UsageError, did_you_mean

T = TypeVar("T", bound=Component)


def split_parameters(
    operator: type[T], parameters: Mapping[str, Any], model_of: Callable[[T], Component]
) -> tuple[T, dict[str, Any]]:
    """Tell the operator's parameters from those of its model; raises UsageError for one that neither has."""
    name = operator.component_name()
    own = {key: value for key, value in parameters.items() if key in operator.model_fields}
    options = operator.parse(own, name)
    rest = {key: value for key, value in parameters.items() if key not in own}
    if rest:
        model = model_of(options)
        known = [*operator.model_fields, *type(model).model_fields]
        for key, value in rest.items():
            if key not in known:
                raise UsageError(
                    f"{name}: `{key}`: neither `{name}` nor the model `{model.component_name()}` has such a parameter, "
                    f"got: `{value!s:.80}`",
                    did_you_mean(key, known) or f"known: {', '.join(known)}",
                )
    return options, rest
