"""A query with an instruction."""

import dashscope

dashscope.base_http_api_url = "http://127.0.0.1:8080/api/v1"
resp = dashscope.TextEmbedding.call(
    model="text-embedding-v4",
    input="Research papers on machine learning",
    text_type="query",
    instruct="Given a research paper query, retrieve relevant research paper",
)
print(resp.output["embeddings"][0]["embedding"][:3])
