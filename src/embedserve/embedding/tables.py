"""Embeddings as tables of other libraries, which are imported here and nowhere earlier."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np

from embedserve.errors import EmbedserveError

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

    from embedserve.embedding.sparse import SparseVector
    from embedserve.embedding.vectors import Embeddings


def make_frame(embeddings: Embeddings, index: Any) -> pd.DataFrame:
    """See :meth:`Embeddings.to_pandas`."""
    try:
        import pandas as pd
    except ImportError:
        raise EmbedserveError("to_pandas needs pandas: pip install pandas") from None
    columns: dict[str, Any] = {}
    if embeddings.space.output_type != "sparse":
        columns["embedding"] = list(embeddings.dense)
    if embeddings.space.output_type != "dense":
        columns["sparse_indices"] = [vector.indices for vector in embeddings.sparse]
        columns["sparse_values"] = [vector.values for vector in embeddings.sparse]
        columns["sparse_tokens"] = [list(vector.tokens) for vector in embeddings.sparse]
    columns["tokens"] = [item.tokens for item in embeddings]
    frame = pd.DataFrame(columns, index=index)
    frame.attrs["embedserve"] = embeddings.space.describe()
    return frame


def make_table(embeddings: Embeddings) -> pa.Table:
    """See :meth:`Embeddings.to_arrow`."""
    try:
        import pyarrow as pa
    except ImportError:
        raise EmbedserveError("to_arrow needs pyarrow: pip install 'embedserve[parquet]'") from None
    columns: dict[str, Any] = {}
    if embeddings.space.output_type != "sparse":
        flat = pa.array(embeddings.dense.reshape(-1), pa.float32())
        columns["embedding"] = pa.FixedSizeListArray.from_arrays(flat, embeddings.space.dimension)
    if embeddings.space.output_type != "dense":
        sparse = embeddings.sparse

        def lists(entries: Callable[[SparseVector], Sequence[Any]], kind: Any) -> Any:
            ends = np.cumsum([0, *(len(vector.indices) for vector in sparse)]).astype(np.int32)
            flat = list(chain.from_iterable(map(entries, sparse)))
            return pa.ListArray.from_arrays(pa.array(ends), pa.array(flat, kind))

        columns["sparse_indices"] = lists(lambda vector: vector.indices.tolist(), pa.int32())
        columns["sparse_values"] = lists(lambda vector: vector.values.tolist(), pa.float32())
        columns["sparse_tokens"] = lists(lambda vector: vector.tokens, pa.string())
    columns["tokens"] = pa.array([item.tokens for item in embeddings], pa.int32())
    told = json.dumps(embeddings.space.describe(), ensure_ascii=False)
    return pa.table(columns).replace_schema_metadata({"embedserve": told})
