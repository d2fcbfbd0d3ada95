import numpy as np
import pytest

from embedserve import hybrid_scores
from embedserve.embedding.hybrid import add_coverage, sparse_scores
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


def test_hybrid_adds_what_the_documents_cover_in_spreads_of_the_cosine():
    query, documents = np.array([[1, 0]], np.float32), np.array([[1, 0], [0, 1], [0, 1]], np.float32)
    both = [query, documents, [sparse(t2=1.0)], DOCUMENTS]
    alone, once, twice = (hybrid_scores(*both, weight=weight)[0] for weight in (0, 3, 6))
    assert alone.tolist() == [1, 0, 0]
    assert once[0] > alone[0]
    assert once[1:].tolist() == [0, 0]
    assert twice[0] - alone[0] == pytest.approx(2 * (once[0] - alone[0]))


def test_a_query_whose_words_occur_nowhere_keeps_its_dense_ranking():
    dense = np.linalg.qr(np.arange(9, dtype=np.float32).reshape(3, 3) % 5)[0]
    scores = hybrid_scores(dense[:2], dense, [sparse(t77=0.5), sparse()], DOCUMENTS)
    assert np.array_equal(scores, dense[:2] @ dense.T)


def test_a_query_without_a_clear_dense_match_leans_on_its_terms():
    documents = [sparse(**{f"t{i}": 0.5}) for i in range(40)]
    clear, unclear = np.full((2, 40), 0.5, np.float32)
    clear[0], unclear[::2] = 0.9, 0.6
    cosine = np.stack([clear, unclear])
    covered = sparse_scores([sparse(t7=0.5)] * 2, documents, collection=True)
    gained = (add_coverage(cosine, covered, 1) - cosine)[:, 7] / cosine.std(axis=1)
    assert gained[1] > 2 * gained[0] > 0


def test_one_document_or_none_is_no_trouble():
    one = np.ones((1, 1), np.float32)
    assert hybrid_scores(one, one, [sparse(t5=1.0)], [sparse(t5=1.0)]).tolist() == [[1.0]]
    assert hybrid_scores(one, one[:0], [sparse(t5=1.0)], []).shape == (1, 0)


def test_empty_sides_score_nothing():
    assert sparse_scores([sparse(t1=1.0)], [sparse(), sparse()]).tolist() == [[0.0, 0.0]]
    assert sparse_scores([], DOCUMENTS).shape == (0, 3)


def test_collection_scores_prefer_what_is_rare_here():
    documents = [sparse(t1=0.5, t2=0.5), sparse(t1=0.5, t3=0.5), sparse(t1=0.5)]
    query = [sparse(t1=0.5, t2=0.4)]
    plain = sparse_scores(query, documents)[0]
    aware = sparse_scores(query, documents, collection=True)[0]
    assert 1 >= aware.max() > aware.min() >= 0
    assert aware[0] / aware[1] > 2 * plain[0] / plain[1]


def test_long_documents_are_led_by_their_terms():
    dense = np.array([[0.8, 0.6], [0.6, 0.8]], np.float32)

    def rank(filler):
        documents = [sparse(t5=0.3, t7=0.1, **filler), sparse(t6=0.3, t7=0.1, **filler)]
        return hybrid_scores(dense[1:], dense, [sparse(t5=0.1, t9=0.2)], documents, weight=2)[0].argmax()

    assert rank({}) == 1
    assert rank({f"t{i}": 0.1 for i in range(1000, 1600)}) == 0
