import numpy as np
import pytest

from embedserve import hybrid_scores
from embedserve.embedding.hybrid import sparse_scores
from embedserve.embedding.sparse import SparseVector

pytestmark = pytest.mark.quick


def sparse(**terms):
    ids = np.array([int(name[1:]) for name in terms], np.int32)
    return SparseVector(ids, np.array(list(terms.values()), np.float32), tuple(terms))


DOCUMENTS = [sparse(t5=0.5, t2=0.25), sparse(), sparse(t9=1.0, t5=0.125)]


def test_sparse_scores_are_dot_products():
    queries = [sparse(t5=1.0, t2=2.0), sparse(t7=1.0), sparse(), sparse(t250000=1.0)]
    scores = sparse_scores(queries, DOCUMENTS)
    assert scores.tolist() == [[1.0, 0.0, 0.125], [0.0] * 3, [0.0] * 3, [0.0] * 3]


def test_hybrid_adds_a_share_of_the_sparse_score():
    dense = np.eye(3, dtype=np.float32)
    scores = hybrid_scores(dense[:1], dense, [sparse(t5=1.0)], DOCUMENTS, weight=0.5)
    assert scores.tolist() == [[1.25, 0.0, 0.0625]]


def test_empty_sides_score_nothing():
    assert sparse_scores([sparse(t1=1.0)], [sparse(), sparse()]).tolist() == [[0.0, 0.0]]
    assert sparse_scores([], DOCUMENTS).shape == (0, 3)


def test_collection_scores_prefer_what_is_rare_here():
    documents = [sparse(t1=0.5, t2=0.5), sparse(t1=0.5, t3=0.5), sparse(t1=0.5)]
    query = [sparse(t1=0.5, t2=0.4)]
    plain = sparse_scores(query, documents)[0]
    aware = sparse_scores(query, documents, collection=True)[0]
    assert aware[0] / aware[1] > 2 * plain[0] / plain[1]


def test_long_documents_are_led_by_their_terms():
    filler = {f"t{i}": 0.1 for i in range(1000, 1300)}
    documents = [sparse(t5=0.3, **filler), sparse(t6=0.3, **filler)]
    dense = np.array([[0.8, 0.6], [0.6, 0.8]], np.float32)
    scores = hybrid_scores(dense[1:], dense, [sparse(t5=0.4)], documents)
    assert scores[0, 0] > scores[0, 1]
    assert hybrid_scores(dense[1:], dense, [sparse(t5=0.4)], documents, weight=0.05)[0].argmax() == 1
