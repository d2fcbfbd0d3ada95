"""The server most people would write: sentence-transformers behind FastAPI, OpenAI-shaped.

    python benchmarks/st_server.py MODEL_FOLDER PORT

Runs in an environment with sentence-transformers, fastapi and uvicorn; imports nothing of embedserve.
"""

from __future__ import annotations

import base64
import sys

import numpy as np
import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel
from sentence_transformers import SentenceTransformer

app = FastAPI()
model = SentenceTransformer(sys.argv[1], device="cpu")


class Body(BaseModel):
    model: str
    input: str | list[str]
    encoding_format: str = "float"


# A plain `def`: FastAPI runs it in its thread pool, so the event loop stays free.
@app.post("/v1/embeddings")
def create_embeddings(body: Body) -> dict[str, object]:
    texts = [body.input] if isinstance(body.input, str) else body.input
    vectors = model.encode(texts, normalize_embeddings=True, show_progress_bar=False)
    data = [
        {
            "object": "embedding",
            "index": i,
            "embedding": base64.b64encode(row.astype(np.float32).tobytes()).decode()
            if body.encoding_format == "base64"
            else row.tolist(),
        }
        for i, row in enumerate(vectors)
    ]
    return {"object": "list", "model": body.model, "data": data, "usage": {}}


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[2]), log_level="warning")
