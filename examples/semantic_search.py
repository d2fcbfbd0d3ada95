"""Which of a few sentences answers a question?"""

import dashscope
import numpy as np
from dashscope import TextEmbedding

dashscope.base_http_api_url = "http://127.0.0.1:8080/api/v1"


def cosine_similarity(a, b):
    return np.dot(a, b) / (np.linalg.norm(a) * np.linalg.norm(b))


def semantic_search(query, documents, top_k=5):
    query_resp = TextEmbedding.call(model="text-embedding-v4", input=query, dimension=1024)
    query_embedding = query_resp.output["embeddings"][0]["embedding"]
    doc_resp = TextEmbedding.call(model="text-embedding-v4", input=documents, dimension=1024)
    similarities = []
    for i, doc_emb in enumerate(doc_resp.output["embeddings"]):
        similarity = cosine_similarity(query_embedding, doc_emb["embedding"])
        similarities.append((i, similarity))
    similarities.sort(key=lambda x: x[1], reverse=True)
    return [(documents[i], sim) for i, sim in similarities[:top_k]]


documents = [
    "Artificial intelligence is a branch of computer science",
    "Machine learning is an important method for achieving artificial intelligence",
    "Deep learning is a subfield of machine learning",
]
query = "What is AI?"
results = semantic_search(query, documents, top_k=2)
for doc, sim in results:
    print(f"Similarity: {sim:.3f}, Document: {doc}")
