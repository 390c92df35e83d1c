"Metrics of texts: what they agree with, and that counts are enough for a corpus metric."
import re
import string
from collections import Counter
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import sacrebleu
from hypothesis import given, settings, strategies as st
from rouge_score.rouge_scorer import RougeScorer

from sft_nb.core import InputError
from sft_nb.evaluate.compare import compare_predictions
from sft_nb.evaluate.evaluation import evaluate_predictions
from sft_nb.evaluate.generation import bleu_counts, bleu_score, chrf_counts, chrf_score, exact_match, normalize_answer, rouge_f1, token_f1
from sft_nb.evaluate.intervals import estimate_metrics
from sft_nb.evaluate.metrics import METRICS, BoundMetric, compute_metric
from sft_nb.evaluate.slices import slice_metrics
from sft_nb.records import Predictions, make_predictions
from sft_nb.report.page import build_payload, render_page

words = st.lists(st.sampled_from('the cat sat on a mat. It, was: “fine” naïve 猫 –5 3.14 THE Don’t'.split()), max_size=14).map(' '.join)
pairs = st.lists(st.tuples(words.filter(str.strip), words), min_size=1, max_size=12)


def arrays(pairs):
    references = np.empty(len(pairs), object)
    references[:] = [(r,) if isinstance(r, str) else tuple(r) for r, _ in pairs]
    return references, np.array([t for _, t in pairs], object)


@given(pairs)
@settings(max_examples=150, deadline=None)
def test_corpus_scores_are_sacrebleus(pairs):
    references, texts = arrays(pairs)
    assert bleu_score(bleu_counts(references, texts).sum(0)) == pytest.approx(sacrebleu.corpus_bleu(list(texts), [[r for r, in references]]).score, abs=1e-9)
    assert chrf_score(chrf_counts(references, texts).sum(0)) == pytest.approx(sacrebleu.corpus_chrf(list(texts), [[r for r, in references]]).score, abs=1e-9)


def test_several_references():
    pairs = [(('the cat sat', 'a cat was sitting'), 'a cat sat'), (('no', 'not at all, sorry'), 'not at all'), (('it rains', 'rain'), 'rain today')]
    references, texts = arrays(pairs)
    streams = [[several[i] for several in references] for i in range(2)]
    assert bleu_score(bleu_counts(references, texts).sum(0)) == pytest.approx(sacrebleu.corpus_bleu(list(texts), streams).score)
    assert chrf_score(chrf_counts(references, texts).sum(0)) == pytest.approx(sacrebleu.corpus_chrf(list(texts), streams).score)
    for f in (token_f1, rouge_f1, exact_match):
        each = [f(arrays([(s[i], t) for s, t in pairs])[0], texts) for i in range(2)]
        assert (f(references, texts) == np.maximum(*each)).all(), f.__name__


@given(pairs)
@settings(max_examples=60, deadline=None)
def test_rouge_is_the_packages(pairs):
    references, texts = arrays(pairs)
    for kind in ('rouge1', 'rouge2', 'rougeL'):
        scorer = RougeScorer([kind], use_stemmer=False)
        assert rouge_f1(references, texts, kind) == pytest.approx([scorer.score(r, t)[kind].fmeasure for (r,), t in zip(references, texts)])


def test_answers_as_squad_scores_them():
    "The cases of SQuAD's definition, worked out by hand."
    cases = [('The Norman conquest', 'norman conquest', 1, 1.), ('in 1066', '1066', 0, 2 / 3), ('a, b and c', 'a b', 0, 1 / 2), ('yes', '', 0, 0.), ('the', 'a', 1, 1.), ('x x y', 'x y y', 0, 2 / 3)]
    for reference, text, match, f1 in cases:
        references, texts = arrays([(reference, text)])
        assert exact_match(references, texts, normalize_answer)[0] == match and token_f1(references, texts)[0] == pytest.approx(f1), reference
    references, texts = arrays([('-5', '5'), ('5', ' 5\n')])
    assert list(exact_match(references, texts)) == [False, True] and list(exact_match(references, texts, normalize_answer)) == [True, True]


def translations(n, seed=0, noise=.3, **kw):
    rng, vocabulary = np.random.default_rng(seed), np.array('the a cat dog sat ran on under mat house old new big red was is in it to we'.split())
    truth = [list(rng.choice(vocabulary, rng.integers(5, 15))) for _ in range(n)]
    texts = [' '.join(w if rng.random() > noise else rng.choice(vocabulary) for w in sentence) + '.' for sentence in truth]
    return make_predictions([f's{i}' for i in range(n)], [' '.join(t) + '.' for t in truth], texts, task='text', **kw)


def test_a_resample_is_a_corpus_of_copies():
    preds, rng = translations(40), np.random.default_rng(1)
    for metric, theirs in [('bleu', sacrebleu.corpus_bleu), ('chrf', sacrebleu.corpus_chrf)]:
        bound, counts = BoundMetric.of(preds, metric), rng.multinomial(40, np.full(40, 1 / 40), size=5)
        for count, value in zip(counts, bound(counts)):
            rows = np.repeat(np.arange(40), count)
            assert value == pytest.approx(theirs(list(preds.score[rows]), [[r for r, in preds.target[rows]]]).score)
        left_out = bound.leave_one_out()
        kept = np.delete(np.arange(40), 7)
        assert left_out[7] == pytest.approx(theirs(list(preds.score[kept]), [[r for r, in preds.target[kept]]]).score)


def test_intervals_of_corpus_scores_cover():
    "The truth is the score of a corpus of 20,000."
    truth = {m: compute_metric(translations(20_000, seed=99), m) for m in ('bleu', 'chrf', 'token_f1')}
    table = pd.concat([estimate_metrics(translations(60, seed=s), list(truth), seed=0) for s in range(200)])
    covered = (table.low <= table.metric.map(truth)) & (table.metric.map(truth) <= table.high)
    assert covered.groupby(table.metric).mean().between(.89, .99).all()
    assert table.method.str.contains('jackknife').all()


def answers(n, seed, right=.2):
    "Some word for word, the others hardly at all: what a small model says to questions."
    rng, vocabulary = np.random.default_rng(seed), np.array('the a cat dog sat ran on under mat house old new big red was is in it to we'.split())
    truth = [list(rng.choice(vocabulary, rng.integers(2, 15))) for _ in range(n)]
    texts = [' '.join(t if rng.random() < right else [rng.choice(vocabulary) if rng.random() < .9 else w for w in t]) for t in truth]
    return make_predictions([f's{i}' for i in range(n)], list(map(' '.join, truth)), texts, task='text')


def test_no_interval_leaves_the_range_of_its_metric():
    "Also of two texts, of texts that are all right or all wrong, of slices, and by any method."
    best, names = {m.name: m.bounds[1] for m in METRICS.values() if 'text' in m.tasks}, ['bleu', 'chrf', 'token_f1', 'rougel', 'exact_match']
    for n in (2, 3, 5, 10, 19, 40):
        for seed, right in enumerate((0., .2, .5, .9, 1.)):
            preds = answers(n, seed, right)
            tables = [estimate_metrics(preds, names, seed=0), *([estimate_metrics(preds, names, seed=0, method='percentile', n_resamples=100)] if n == 5 else [])]
            if n == 10: tables.append(slice_metrics(replace(preds, slices=pd.DataFrame({'half': ['a', 'b'] * 5})), metrics=names, min_n=2, seed=0))
            for t in tables: assert (t.low >= 0).all() and (t.low <= t.value).all() and (t.value <= t.high).all() and (t.high <= t.metric.map(best) + 1e-9).all(), t
            assert n > 19 or (tables[0].high - tables[0].low > .1 * tables[0].metric.map(best)).all() # so few say little, however alike they are


def test_few_texts_do_not_claim_to_have_seen_everything():
    truth = {m: compute_metric(answers(4000, 99), m) for m in ('bleu', 'chrf', 'rougel')}
    for n in (5, 20):
        table = pd.concat([estimate_metrics(answers(n, s), list(truth), seed=0) for s in range(100)])
        assert ((table.low <= table.metric.map(truth)) & (table.metric.map(truth) <= table.high)).groupby(table.metric).mean().min() >= .9


def test_a_better_system_is_told_from_a_worse():
    good, bad = translations(150, noise=.2), translations(150, noise=.4)
    table = compare_predictions(good, bad, seed=0).set_index('metric')
    assert (table.loc[['bleu', 'chrf', 'token_f1', 'rougel'], 'low'] > 0).all() and (table.loc[['bleu', 'chrf', 'token_f1', 'rougel'], 'p_value'] < 1e-3).all()
    assert 'McNemar' in table.method['exact_match']


def test_from_a_table_to_a_report(tmp_path):
    preds = translations(60, slices=pd.DataFrame({'topic': ['news', 'law'] * 30}))
    path = tmp_path/'answers.csv'
    preds.to_frame().to_csv(path, index=False)
    again = Predictions.from_file(path)
    assert again.task == 'text' and list(again.score) == list(preds.score) and list(again.target) == list(preds.target)
    saved = Predictions.load(replace(preds, target=np.array([(*t, 'another') for t in preds.target] + [None], object)[:-1]).save(tmp_path/'p.parquet'))
    assert saved.target[0] == (*preds.target[0], 'another')
    evaluation = evaluate_predictions(again, seed=0, baselines={'worse': translations(60, noise=.6)})
    assert {'exact_match', 'token_f1', 'rougel', 'bleu', 'chrf'} == set(evaluation.metrics.metric) and set(evaluation.metrics.slice) == {'', 'topic=law', 'topic=news'}
    assert evaluation.metrics[['low', 'high']].notna().all().all() and evaluation.examples.loss.is_monotonic_decreasing
    assert evaluation.examples.target[0] in {t for t, in preds.target} and 'chrF' in render_page(build_payload(evaluation))


def test_what_is_wrong_with_a_table_is_said():
    with pytest.raises(InputError, match='nothing in 1 of 3 rows'): Predictions.from_frame(pd.DataFrame(dict(id=range(3), target=['x y', None, 'z'], prediction=['x', 'y', 'z'])), task='text')
    with pytest.raises(InputError, match='`prediction`'): Predictions.from_frame(pd.DataFrame(dict(id=range(3), target=['x', 'y', 'z'])), task='text')
    empty = Predictions.from_frame(pd.DataFrame(dict(id=range(3), target=['x', 'y', 'z'], prediction=['x', None, ''])), task='text')
    assert list(empty.score) == ['x', '', ''] and compute_metric(empty, 'exact_match') == pytest.approx(1 / 3)
    numbers = pd.DataFrame(dict(id=range(4), target=['007', '1.0', 'NA', '5'], prediction=['7', '1.0', 'NA', '-5']))
    assert compute_metric(Predictions.from_frame(numbers, task='text'), 'exact_match') == .5


def test_numbers_in_a_file_stay_as_written(tmp_path):
    (tmp_path/'sums.csv').write_text('id,target,prediction\n1,007,7\n2,1.0,1.0\n3,NA,NA\n4,5,\n')
    preds = Predictions.from_file(tmp_path/'sums.csv', task='text')
    assert list(preds.score) == ['7', '1.0', 'NA', ''] and [t for t, in preds.target] == ['007', '1.0', 'NA', '5']
