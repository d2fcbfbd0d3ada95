"""Two groups of headlines. Needs scikit-learn."""

import dashscope
import numpy as np
from sklearn.cluster import KMeans

dashscope.base_http_api_url = "http://127.0.0.1:8080/api/v1"


def cluster_texts(texts, n_clusters=2):
    resp = dashscope.TextEmbedding.call(model="text-embedding-v4", input=texts, dimension=1024)
    embeddings = np.array([item["embedding"] for item in resp.output["embeddings"]])
    kmeans = KMeans(n_clusters=n_clusters, random_state=0, n_init="auto").fit(embeddings)
    clusters = {i: [] for i in range(n_clusters)}
    for i, label in enumerate(kmeans.labels_):
        clusters[label].append(texts[i])
    return clusters


documents_to_cluster = [
    "Mobile phone company A releases a new phone",
    "Search engine company B launches a new system",
    "World Cup final: Argentina vs. France",
    "China wins another gold medal at the Olympics",
    "A company releases its latest AI chip",
    "European Cup match report",
]
clusters = cluster_texts(documents_to_cluster, n_clusters=2)
for cluster_id, docs in clusters.items():
    print(f"--- Cluster {cluster_id} ---")
    for doc in docs:
        print(f"- {doc}")
