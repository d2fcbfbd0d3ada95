"""A vector of another size."""

import os
from openai import OpenAI

client = OpenAI(api_key=os.getenv("DASHSCOPE_API_KEY"), base_url="http://127.0.0.1:8080/compatible-mode/v1")
resp = client.embeddings.create(
    model="text-embedding-v4", input=["I like it and will buy from here again"], dimensions=256
)
print(f"Embedding dimensions: {len(resp.data[0].embedding)}")
