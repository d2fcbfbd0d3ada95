"""Films in the order of somebody's taste."""

import dashscope
import numpy as np
from dashscope import TextEmbedding

dashscope.base_http_api_url = "http://127.0.0.1:8080/api/v1"


def cosine_similarity(a, b):
    return np.dot(a, b) / (np.linalg.norm(a) * np.linalg.norm(b))


def build_recommendation_system(user_history, all_items, top_k=10):
    history_resp = TextEmbedding.call(model="text-embedding-v4", input=user_history, dimension=1024)
    user_embedding = np.mean([emb["embedding"] for emb in history_resp.output["embeddings"]], axis=0)
    items_resp = TextEmbedding.call(model="text-embedding-v4", input=all_items, dimension=1024)
    recommendations = []
    for i, item_emb in enumerate(items_resp.output["embeddings"]):
        score = cosine_similarity(user_embedding, item_emb["embedding"])
        recommendations.append((all_items[i], score))
    recommendations.sort(key=lambda x: x[1], reverse=True)
    return recommendations[:top_k]


user_history = ["Science Fiction", "Action", "Suspense"]
all_movies = ["Future World", "Space Adventure", "Ancient War", "Romantic Journey", "Superhero"]
recommendations = build_recommendation_system(user_history, all_movies)
for movie, score in recommendations:
    print(f"Recommendation Score: {score:.3f}, Movie: {movie}")
