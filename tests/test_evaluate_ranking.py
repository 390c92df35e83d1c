"Metrics of rankings: against scikit-learn, and against all orders of tied candidates."
from itertools import permutations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings, strategies as st
from sklearn import metrics as sk

from sft_nb.core import InputError
from sft_nb.evaluate.compare import compare_predictions
from sft_nb.evaluate.evaluation import evaluate_predictions
from sft_nb.evaluate.intervals import estimate_metrics
from sft_nb.evaluate.metrics import compute_metric
from sft_nb.evaluate.ranking import ndcg, recall_at, reciprocal_rank
from sft_nb.records import Predictions
from sft_nb.report.page import build_payload, render_page

candidates = st.lists(st.tuples(st.integers(0, 3), st.sampled_from([.1, .5, .7, .9])), min_size=2, max_size=6)


@given(candidates)
@settings(max_examples=200, deadline=None)
def test_ndcg_is_scikit_learns(rows):
    relevance, score = np.array(rows, float).T[:, None]
    for k in (None, 1, 2, 4):
        if relevance.any(): assert ndcg(relevance, score, k)[0] == pytest.approx(sk.ndcg_score(relevance, score, k=k))
        else: assert np.isnan(ndcg(relevance, score, k)[0])


@given(candidates)
@settings(max_examples=100, deadline=None)
def test_ties_count_as_shuffled(rows):
    relevance, score = np.array(rows, float).T
    if not relevance.any(): return
    ranks, recalls = [], []
    for order in permutations(range(len(rows))):
        order = sorted(order, key=lambda i: -score[i]) # stable: within a tie, as permuted
        found = np.flatnonzero(relevance[order] > 0)
        ranks.append(1 / (1 + found[0]))
        recalls.append((found < 2).sum() / len(found))
    assert reciprocal_rank(relevance[None], score[None])[0] == pytest.approx(np.mean(ranks))
    assert recall_at(relevance[None], score[None], 2)[0] == pytest.approx(np.mean(recalls))


def test_one_relevant_candidate_is_a_label():
    "Then recall at k is the top-k accuracy, and the reciprocal rank the label-ranking average precision."
    rng = np.random.default_rng(0)
    score, label = rng.random((50, 6)), rng.integers(0, 6, 50)
    relevance = np.eye(6)[label]
    assert recall_at(relevance, score, 3).mean() == pytest.approx(sk.top_k_accuracy_score(label, score, k=3))
    assert reciprocal_rank(relevance, score).mean() == pytest.approx(sk.label_ranking_average_precision_score(relevance, score))


def searches(n=80, seed=0, skill=1., **columns):
    rng, rows = np.random.default_rng(seed), []
    for query in range(n):
        relevance = rng.choice([0, 0, 0, 1, 2], rng.integers(4, 15))
        own = np.random.default_rng([seed, query, int(100 * skill)])
        rows += [dict(query=f'q{query}', id=f'd{i}', target=r, score=skill * r + own.normal(), **{k: v[query] for k, v in columns.items()}) for i, r in enumerate(relevance)]
    return pd.DataFrame(rows)


def test_a_query_is_the_item():
    frame = searches()
    preds = Predictions.from_frame(frame)
    assert preds.task == 'ranking' and len(preds) == 80 and preds.score.shape == (80, frame.groupby('query').size().max())
    by_hand = [sk.ndcg_score([q.target], [q.score], k=10) for _, q in frame.groupby('query') if q.target.any()]
    table = estimate_metrics(preds, seed=0).set_index('metric')
    assert table.value['ndcg_10'] == pytest.approx(np.mean(by_hand)) and table.n['ndcg_10'] == len(by_hand) <= 80
    assert (table.low < table.value).all() and (table.value < table.high).all()
    assert Predictions.from_frame(frame.sample(frac=1, random_state=0)).score == pytest.approx(preds.score, nan_ok=True)


def test_saving_keeps_everything(tmp_path):
    preds = Predictions.from_frame(searches(user=[f'u{i // 4}' for i in range(80)]).rename(columns={'user': 'group'}))
    again = Predictions.load(preds.save(tmp_path/'p.parquet'))
    assert again.score == pytest.approx(preds.score, nan_ok=True) and again.target == pytest.approx(preds.target, nan_ok=True) and list(again.group) == list(preds.group)
    preds.to_frame().to_csv(tmp_path/'p.csv', index=False)
    assert Predictions.from_file(tmp_path/'p.csv').score == pytest.approx(preds.score, nan_ok=True)


def test_from_queries_to_a_report():
    market = ['en', 'de'] * 40
    good, bad = [Predictions.from_frame(searches(skill=s, market=market)) for s in (1., .2)]
    table = compare_predictions(good, bad, seed=0).set_index('metric')
    assert (table.low > 0).all() and (table.p_value < .01).all()
    evaluation = evaluate_predictions(good, seed=0, baselines={'weak': bad})
    assert set(evaluation.metrics.slice) == {'', 'market=en', 'market=de'} and 'NDCG at 10' in render_page(build_payload(evaluation))
    assert evaluation.examples.target.str.contains('relevant').all() and evaluation.examples.loss.is_monotonic_decreasing


def test_models_with_other_candidates_are_not_compared():
    short = searches()
    short = short[~((short['query'] == 'q3') & (short.id == 'd0'))]
    with pytest.raises(InputError, match='q3'): compare_predictions(Predictions.from_frame(searches()), Predictions.from_frame(short), seed=0)


@pytest.mark.parametrize('change, words', [
    (lambda d: pd.concat([d, d.head(2)]), 'candidates of a query to be unique'),
    (lambda d: d.assign(target=-1.), 'relevance at least 0'),
    (lambda d: d.assign(score='high'), 'column `score` to be numbers'),
    (lambda d: d.assign(score=d.score.where(d.index > 3)), 'column `score` to be filled in'),
    (lambda d: d.drop(columns='query'), 'column `query`'),
    (lambda d: d.assign(group=range(len(d))), 'the same for all candidates')])
def test_what_is_wrong_with_a_table_is_said(change, words):
    with pytest.raises(InputError, match=words): Predictions.from_frame(change(searches(5)), task='ranking')


def test_nothing_relevant_anywhere():
    preds = Predictions.from_frame(searches(5).assign(target=0))
    assert np.isnan(compute_metric(preds, 'mrr')) and (estimate_metrics(preds, seed=0).method == 'undefined: nothing is relevant to any query').all()


def test_a_column_of_candidates_is_not_a_slice():
    preds = Predictions.from_frame(searches(5, market=list('abcde')).assign(title=lambda d: d.id + d['query']))
    assert list(preds.slices.columns) == ['market']
