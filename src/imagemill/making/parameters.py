"""Parameters given together: the operator's and the model's."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from imagemill.component import Component
from imagemill.errors import UsageError, did_you_mean, together

T = TypeVar("T", bound=Component)


def split_parameters(
    operator: type[T], parameters: Mapping[str, Any], model_of: Callable[[T], Component]
) -> tuple[T, dict[str, Any]]:
    """Tell the operator's parameters from those of its model.

    Raises UsageError for one that neither has, together with what is wrong of the operator's.
    """
    name = operator.component_name()
    own = {key: value for key, value in parameters.items() if key in operator.model_fields}
    wrong: list[UsageError] = []
    try:
        options = operator.parse(own, name)
    except UsageError as error:
        wrong.append(error)
        # Enough to know the model.
        options = operator.parse({key: value for key, value in own.items() if key == "model"}, name)
    rest = {key: value for key, value in parameters.items() if key not in own}
    if rest:
        model = model_of(options)
        known = [*operator.model_fields, *type(model).model_fields]
        for key, value in rest.items():
            if key not in known:
                problem = (
                    f"{name}: `{key}`: neither `{name}` nor the model `{model.component_name()}` has such a parameter, "
                    f"got: `{value!s:.80}`"
                )
                wrong.append(UsageError(problem, did_you_mean(key, known) or f"known: {', '.join(known)}"))
    if wrong:
        raise together(wrong)
    return options, rest
