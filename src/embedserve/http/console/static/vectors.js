/** What is computed from vectors: scores of pairs, and which tokens made them. */

export const SPARSE_SHARE = 0.05;

export function dot(a, b) {
  let sum = 0;
  for (let i = 0; i < a.length; i++) sum += a[i] * b[i];
  return sum;
}

/** Of a reply's row: the vector's length is kept, so that a cosine is one, whatever the server sends. */
export function readRow(row, text) {
  const dense = Float64Array.from(row.embedding ?? []);
  const sparse = row.sparse_embedding ?? [];
  return {
    text,
    dense,
    norm: Math.sqrt(dot(dense, dense)),
    sparse,
    weights: new Map(sparse.map((entry) => [entry.index, entry.value])),
    error: row.error,
  };
}

/** Tokens that both have, the one that adds most first: [{index, token, a, b, product}]. */
export function shared(a, b) {
  return a.sparse
    .filter((entry) => b.weights.has(entry.index))
    .map(({ index, token, value }) => {
      const other = b.weights.get(index);
      return { index, token, a: value, b: other, product: value * other };
    })
    .sort((x, y) => y.product - x.product);
}

export function compare(a, b) {
  const norms = a.norm * b.norm;
  const dense = norms > 0 ? dot(a.dense, b.dense) / norms : 0;
  const sparse = shared(a, b).reduce((sum, { product }) => sum + product, 0);
  return { dense, sparse, sum: dense + SPARSE_SHARE * sparse };
}
