"""Text to vectors: tokenise, encode, pool, cut, normalise. The one place where a vector is made."""
