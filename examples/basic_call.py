"""One text to one vector, through the OpenAI-compatible API."""

import os
from openai import OpenAI

input_text = "The quality of the clothes is excellent"
client = OpenAI(api_key=os.getenv("DASHSCOPE_API_KEY"), base_url="http://127.0.0.1:8080/compatible-mode/v1")
completion = client.embeddings.create(model="text-embedding-v4", input=input_text)
print(completion.model_dump_json())
