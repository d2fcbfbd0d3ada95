"""How far is a comment from the usual ones?"""

import dashscope
import numpy as np

dashscope.base_http_api_url = "http://127.0.0.1:8080/api/v1"


def cosine_similarity(a, b):
    return np.dot(a, b) / (np.linalg.norm(a) * np.linalg.norm(b))


def detect_anomaly(new_comment, normal_comments, threshold=0.6):
    all_texts = normal_comments + [new_comment]
    resp = dashscope.TextEmbedding.call(model="text-embedding-v4", input=all_texts, dimension=1024)
    embeddings = [item["embedding"] for item in resp.output["embeddings"]]
    normal_embeddings = np.array(embeddings[:-1])
    normal_center_vector = np.mean(normal_embeddings, axis=0)
    new_comment_embedding = np.array(embeddings[-1])
    similarity = cosine_similarity(new_comment_embedding, normal_center_vector)
    is_anomaly = similarity < threshold
    return (is_anomaly, similarity)


normal_user_comments = [
    "Today's meeting was productive",
    "The project is progressing smoothly",
    "The new version will be released next week",
    "User feedback is positive",
]
test_comments = {
    "Normal comment": "The feature works as expected",
    "Anomaly - meaningless garbled text": "asdfghjkl zxcvbnm",
}
print("--- Anomaly Detection Example ---")
for desc, comment in test_comments.items():
    is_anomaly, score = detect_anomaly(comment, normal_user_comments)
    result = "Yes" if is_anomaly else "No"
    print(f"Comment: '{comment}'")
    print(f"Is anomaly: {result} (Similarity to normal samples: {score:.3f})\n")
