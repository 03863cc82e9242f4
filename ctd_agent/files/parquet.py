"""Write records as Parquet. The schema comes from the pydantic model, not from the rows."""

from collections.abc import Iterable
from dataclasses import fields, is_dataclass
from itertools import islice
from pathlib import Path
from types import NoneType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from pydantic import BaseModel

from ctd_agent.records import put_in_place

ROWS = 1_000  # per row group: the number held in memory


def write_parquet(path: Path, draft: Path, model: type[BaseModel], records: Iterable[BaseModel]) -> None:
    """Write records to `draft`, then rename it to `path`. Raises OSError if either cannot be written."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema(_fields(model))
    with pq.ParquetWriter(draft, schema) as file:
        rest = iter(records)
        while rows := list(islice(rest, ROWS)):
            file.write_table(pa.Table.from_pylist([record.model_dump() for record in rows], schema))
    put_in_place(draft, path)


def _fields(model: Any) -> list[Any]:
    import pyarrow as pa

    kinds = get_type_hints(model)
    names = model.model_fields if issubclass(model, BaseModel) else [field.name for field in fields(model)]
    return [pa.field(name, _arrow(kinds[name])) for name in names]


def _arrow(kind: Any) -> Any:
    """Return the Arrow type of a field's annotation: a struct for a dict with literal keys."""
    import pyarrow as pa

    plain = {str: pa.string(), int: pa.int64(), float: pa.float64(), bool: pa.bool_()}
    origin, arguments = get_origin(kind), get_args(kind)
    if kind in plain:
        return plain[kind]
    if is_dataclass(kind) or (isinstance(kind, type) and issubclass(kind, BaseModel)):
        return pa.struct(_fields(kind))
    if origin is list:
        return pa.list_(_arrow(arguments[0]))
    if origin is Literal:
        return _arrow(type(arguments[0]))
    if origin is dict and get_origin(arguments[0]) is Literal:
        return pa.struct([pa.field(key, _arrow(arguments[1])) for key in get_args(arguments[0])])
    if NoneType in arguments and len(arguments) == 2:  # every Arrow field may be null
        return _arrow(next(argument for argument in arguments if argument is not NoneType))
    raise TypeError(f"{kind} has no Arrow type")
