"""Parquet and Arrow: dense vectors as fixed-size lists, sparse ones as lists, kept columns as they came.

Parts are Arrow files. A column that comes from JSON or CSV has no declared type, so each part finds one, and
the output takes the type that holds them all; where none does, the column goes out as JSON texts, and the run
says so.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from embedserve.errors import EmbedserveError
from embedserve.files.formats import Format, Kind
from embedserve.files.json_output import dump_value
from embedserve.files.layout import EMBEDDING, INDEX, SCALE, SPARSE, TOKENS, Block, Layout
from embedserve.files.outputs import Output, Part, need_arrow, sync

GROUP_ROWS = 8192
"""Rows of a row group (Parquet) or record batch (Arrow) of the output."""
_AS_JSON = {b"embedserve": b"json"}


class TableOutput(Output):
    def __init__(self, kind: Kind, layout: Layout) -> None:
        super().__init__(kind, layout)
        self.arrow = need_arrow(str(kind.format))

    def check_types(self, file: str, types: dict[str, Any]) -> None:
        """Arrow carries every type of its own, Parquet most of them."""
        for name, type in types.items():
            if not self._carries(type):
                raise EmbedserveError(
                    f"{file}: the column {name!r} holds {type}, which {self.kind.format} cannot carry: leave "
                    "it out of --keep, or write .arrow"
                )

    def _carries(self, type: Any) -> bool:
        if self.kind.format is not Format.PARQUET:
            return True
        try:
            empty = self.arrow.schema([self.arrow.field("it", type)]).empty_table()
            self.arrow.parquet.write_table(empty, self.arrow.BufferOutputStream())
        except self.arrow.ArrowException:
            return False
        return True

    def begin(self, stem: Path) -> Part:
        return _TablePart(self, self._path(stem))

    def assemble(self, stems: Sequence[Path], target: Path) -> None:
        arrow = self.arrow
        paths = [self._path(stem) for stem in stems]
        fields = self._settle([self._schema(path) for path in paths])
        for name, field in fields.items():
            if field.metadata == _AS_JSON:
                self.notes.append(
                    f"the column {name!r} holds what has no one type in a table: written as JSON texts"
                )
        own = self.own_fields()
        schema = arrow.schema([own[0], *(fields[name] for name in self.layout.carried), *own[1:]])
        with target.open("wb") as file:
            if self.kind.format is Format.PARQUET:
                writer = arrow.parquet.ParquetWriter(
                    file,
                    schema,
                    compression="zstd",
                    use_dictionary=[*self.layout.carried, "sparse_tokens.list.element"],
                )
            else:
                writer = arrow.ipc.new_file(file, schema)
            with writer:
                for group in self._groups(paths, schema):
                    if self.kind.format is Format.PARQUET:
                        writer.write_table(group, row_group_size=GROUP_ROWS)
                    else:
                        writer.write_table(group, max_chunksize=GROUP_ROWS)
            sync(file)

    def own_fields(self) -> list[Any]:
        """Ours, index first."""
        arrow, layout = self.arrow, self.layout
        fields = [arrow.field(INDEX, arrow.int64())]
        if layout.sparse:
            types = (arrow.int32(), arrow.float32(), arrow.string())
            fields += [arrow.field(name, arrow.list_(type)) for name, type in zip(SPARSE, types, strict=True)]
        if layout.dimension is not None:
            number = {"float": arrow.float32(), "int8": arrow.int8(), "binary": arrow.uint8()}[
                layout.encoding
            ]
            fields.append(arrow.field(EMBEDDING, arrow.list_(number, layout.width)))
        if layout.scaled:
            fields.append(arrow.field(SCALE, arrow.float32()))
        return [*fields, arrow.field(TOKENS, arrow.int64())]

    def own_columns(self, blocks: Sequence[Block]) -> list[Any]:
        """The arrays of :meth:`own_fields`."""
        arrow, layout = self.arrow, self.layout
        columns = [arrow.array([row.index for block in blocks for row in block.rows], arrow.int64())]
        if layout.sparse:
            rows = [sparse for block in blocks for sparse in block.sparse or ()]
            ends = np.cumsum([0, *(len(sparse.indices) for sparse in rows)], dtype=np.int32)
            flat = (
                arrow.array(np.concatenate([np.empty(0, np.int32), *(s.indices for s in rows)])),
                arrow.array(np.concatenate([np.empty(0, np.float32), *(s.values for s in rows)])),
                arrow.array([token for sparse in rows for token in sparse.tokens], arrow.string()),
            )
            columns += [arrow.ListArray.from_arrays(ends, values) for values in flat]
        if layout.dimension is not None:
            own = [block.dense for block in blocks if block.dense is not None]
            number = self.own_fields()[len(columns)].type.value_type
            flat_dense = arrow.array(np.concatenate([part.ravel() for part in own]) if own else [], number)
            columns.append(arrow.FixedSizeListArray.from_arrays(flat_dense, layout.width))
        if layout.scaled:
            scales = [block.scales for block in blocks if block.scales is not None]
            columns.append(arrow.array(np.concatenate([np.empty(0, np.float32), *scales])))
        tokens = [count for block in blocks for count in block.tokens]
        return [*columns, arrow.array(tokens, arrow.int64())]

    def _path(self, stem: Path) -> Path:
        return stem.with_name(stem.name + ".arrow")

    def _schema(self, path: Path) -> Any:
        with self.arrow.memory_map(str(path)) as file:
            return self.arrow.ipc.open_file(file).schema

    def _settle(self, schemas: Sequence[Any]) -> dict[str, Any]:
        """The field of each carried column that holds what all parts have."""
        arrow, settled = self.arrow, {}
        for name in self.layout.carried:
            fields = [schema.field(name) for schema in schemas]
            settled[name] = arrow.field(name, arrow.string(), metadata=_AS_JSON)
            if not any(field.metadata == _AS_JSON for field in fields):
                try:
                    one = [arrow.schema([field]) for field in fields]
                    field = arrow.unify_schemas(one, promote_options="permissive").field(0)
                except arrow.ArrowException:
                    continue
                if self._carries(field.type):
                    settled[name] = field
        return settled

    def _groups(self, paths: Sequence[Path], schema: Any) -> Iterator[Any]:
        held: list[Any] = []
        for path in paths:
            with self.arrow.memory_map(str(path)) as file:
                table = self.arrow.ipc.open_file(file).read_all()
            held.append(self._conform(table, schema))
            while sum(table.num_rows for table in held) >= GROUP_ROWS:
                whole = self.arrow.concat_tables(held)
                yield whole.slice(0, GROUP_ROWS).combine_chunks()
                held = [whole.slice(GROUP_ROWS)]
        yield self.arrow.concat_tables(held).combine_chunks()

    def _conform(self, table: Any, schema: Any) -> Any:
        columns = []
        for field in schema:
            column, there = table.column(field.name), table.schema.field(field.name)
            if field.metadata == _AS_JSON and there.metadata != _AS_JSON:
                texts = [
                    None if value is None else dump_value(value).decode() for value in column.to_pylist()
                ]
                column = self.arrow.chunked_array([self.arrow.array(texts, self.arrow.string())])
            columns.append(column.cast(field.type))
        return self.arrow.table(columns, schema=schema)

    def carried_column(self, name: str, values: Sequence[Any], declared: Any) -> tuple[Any, Any]:
        """(field, array) of a carried column in one part."""
        arrow = self.arrow
        try:
            array = arrow.array(values, declared)
            if declared is None and any(isinstance(value, int) for value in values):
                _check_integers(arrow, array, values)
            return arrow.field(name, array.type), array
        except (arrow.ArrowException, OverflowError, UnicodeEncodeError, TypeError, ValueError):
            return arrow.field(name, arrow.string(), metadata=_AS_JSON), self._as_json(values)

    def _as_json(self, values: Sequence[Any]) -> Any:
        texts = [None if value is None else dump_value(value).decode() for value in values]
        return self.arrow.array(texts, self.arrow.string())


def _check_integers(arrow: Any, array: Any, values: Sequence[Any]) -> None:
    """Integers beside fractions become fractions: refuse that where it costs digits. Raises ValueError."""
    if arrow.types.is_floating(array.type) and any(isinstance(v, int) and abs(v) > 2**53 for v in values):
        raise ValueError("digits would be lost")


class _TablePart(Part):
    def __init__(self, output: TableOutput, path: Path) -> None:
        self._output = output
        self._path = path
        self._blocks: list[Block] = []

    def add(self, block: Block) -> None:
        self._blocks.append(block)

    def close(self) -> None:
        output, arrow = self._output, self._output.arrow
        rows = [row for block in self._blocks for row in block.rows]
        declared = rows[0].origin.types if rows else {}
        fields, columns = output.own_fields(), output.own_columns(self._blocks)
        for at, name in enumerate(output.layout.carried):
            values = [row.carried[at] for row in rows]
            field, column = output.carried_column(name, values, declared.get(name))
            fields.insert(1 + at, field)
            columns.insert(1 + at, column)
        with self._path.open("wb") as file:
            schema = arrow.schema(fields)
            with arrow.ipc.new_file(file, schema) as writer:
                writer.write_table(arrow.table(columns, schema=schema))
            sync(file)
