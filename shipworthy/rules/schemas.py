"""Whether an answer fits the JSON Schema that was recorded with its question. The type that it was made of may be in
another process."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def misfit_data(data: Any, schema: Mapping[str, Any]) -> str | None:
    """What is wrong with plain JSON data, in words; None if it fits. A schema that is none fits nothing, and none is
    ever fetched."""
    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import SchemaError, best_match
    from referencing import Registry
    from referencing.exceptions import Unresolvable

    try:
        Draft202012Validator.check_schema(schema)
        problem = best_match(Draft202012Validator(schema, registry=Registry()).iter_errors(data))
    except (SchemaError, Unresolvable, RecursionError) as error:
        return f"its schema cannot be used ({type(error).__name__})"
    if problem is None:
        return None
    return f"{problem.json_path}: {problem.message}"[:500]
