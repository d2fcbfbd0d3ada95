"""A label for a text, chosen by similarity alone."""

import dashscope
import numpy as np

dashscope.base_http_api_url = "http://127.0.0.1:8080/api/v1"


def cosine_similarity(a, b):
    return np.dot(a, b) / (np.linalg.norm(a) * np.linalg.norm(b))


def classify_text_zero_shot(text, labels):
    resp = dashscope.TextEmbedding.call(model="text-embedding-v4", input=[text] + labels, dimension=1024)
    embeddings = resp.output["embeddings"]
    text_embedding = embeddings[0]["embedding"]
    label_embeddings = [emb["embedding"] for emb in embeddings[1:]]
    scores = [cosine_similarity(text_embedding, label_emb) for label_emb in label_embeddings]
    best_match_index = np.argmax(scores)
    return (labels[best_match_index], scores[best_match_index])


text_to_classify = "The fabric of this dress is comfortable and the style is nice"
possible_labels = ["Digital Products", "Apparel & Accessories", "Food & Beverage", "Home & Living"]
label, score = classify_text_zero_shot(text_to_classify, possible_labels)
print(f"Input text: '{text_to_classify}'")
print(f"Best matching category: '{label}' (Similarity: {score:.3f})")
