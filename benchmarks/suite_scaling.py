"""How the cost of a suite grows with its cells and its workers, and what of it is the engine's own.

Two kinds of cell. Empty ones do next to nothing, and so what they take is the engine's: handing out, locking, writing down, the bar. Real ones are the smallest that
there are: the linear probe of a network of a few thousand weights on 60 small pictures, with audit, baselines, evaluation and report. Each count of cells is run from
nothing in one process, and on a Ray cluster of one and of two workers, one core each, which is started once; the first call there loads the libraries into the workers, and is not
counted but shown. Then what 10,000 cells on 100 machines would cost, on paper.

    python benchmarks/suite_scaling.py            # 1, 3, 10, 30 and 100 cells
    python benchmarks/suite_scaling.py --quick    # 1, 3 and 10

The last line is JSON with all figures.
"""
import os
os.environ.update(OMP_NUM_THREADS='1', CI='1')
import argparse, json, shutil, tempfile, time, warnings
from pathlib import Path

warnings.filterwarnings('ignore')
import numpy as np
from PIL import Image

from sft_nb.bench.cluster import connect_cluster, fan_out
from sft_nb.bench.suite import make_suite, run_suite
from sft_nb.core import write_text
from sft_nb.train.guard import hold_folder


def draw(folder: Path):
    "Two tints."
    rng = np.random.default_rng(0)
    for label, shift in [('plain', 0), ('tinted', 40)]:
        (folder/label).mkdir(parents=True)
        for i in range(30): Image.fromarray((rng.normal(120, 50, (40, 40, 3)) + np.array([shift, 0, -shift])).clip(0, 255).astype(np.uint8)).save(folder/label/f'{i}.png')


def tiny_suite(photos: Path, cells: int):
    "The smallest real cells."
    task = dict(data=dict(path=str(photos)), model=dict(backbone='test_efficientnet', weights='none', size=32), split=dict(valid=.25, test=.35), evaluate=dict(n_resamples=200))
    return make_suite(dict(name='scaling', tasks=dict(tints=task), recipes=dict(probe=dict(train=dict(epochs=0))), seeds=list(range(cells))))


def empty_cell(folder, i):
    "What is done around a cell, and nothing in it."
    with hold_folder(Path(folder)/str(i)): write_text(Path(folder)/str(i)/'evaluation.json', '{}')


def seconds(work) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def measure(home, photos, cells, on) -> dict:
    "Seconds of so many empty and real cells."
    folder = Path(tempfile.mkdtemp(dir=home))
    empty = seconds(lambda: [*fan_out(empty_cell, [(str(folder/'empty'), i) for i in range(cells)], **on)])
    suite = tiny_suite(photos, cells)
    def run():
        made = run_suite(suite, folder/'real', say=lambda line: None, **on)
        assert (made.state == 'done').all(), made.why.tolist()
    real = seconds(run)
    again = seconds(run)
    shutil.rmtree(folder)
    return dict(cells=cells, empty=empty, real=real, again=again)


def paper(per_task, warm, load) -> dict:
    "10,000 cells of ten minutes on 100 machines of one worker each, and of eight, as if the head did by itself all that an empty cell takes, one after the other."
    out, cells, nodes, minutes = {}, 10_000, 100, 10
    for workers in (1, 8):
        slots = nodes * workers
        rounds = -(-cells // slots) # the last one is not full, unless it fits
        busy = rounds * minutes * 60
        submit, start = cells * per_task, load + warm
        out[f'{workers} workers a machine'] = dict(hours=round((busy + submit + start) / 3600, 2), of_which_engine_seconds=round(submit + start, 1), core_hours=round(cells * minutes / 60), lost_to_the_last_round=round(1 - cells / (rounds * slots), 3))
    return out


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--quick', action='store_true', help='up to 10 cells')
    a = p.parse_args()
    counts, rows, warm, started = (1, 3, 10) if a.quick else (1, 3, 10, 30, 100), {}, {}, {}
    with tempfile.TemporaryDirectory(prefix='s') as home:
        os.environ['SFT_NB_CACHE'] = f'{home}/cache'
        photos = Path(home)/'photos'
        draw(photos)
        measure(home, photos, 1, {}) # libraries, the store of decoded images
        rows['one process'] = [measure(home, photos, n, {}) for n in counts]
        for workers in (1, 2):
            name = f'Ray, {workers} worker{"s" * (workers > 1)}'
            on = dict(on='ray', num_cpus=os.cpu_count() / workers) # so many fit
            began = time.perf_counter()
            with connect_cluster(say=lambda line: None):
                started[name] = time.perf_counter() - began
                warm[name] = seconds(lambda: measure(home, photos, workers, on))
                rows[name] = [measure(home, photos, n, on) for n in counts]
    figures = {}
    for name, found in rows.items():
        figures[name] = dict(rows=[{k: round(v, 3) for k, v in r.items()} for r in found], **{f'ms_per_{what}_cell': round(1000 * found[-1][what] / counts[-1], 1) for what in ('empty', 'real', 'again')})
        print(f'{name}:', *(f"  {r['cells']:3d} cells: empty {r['empty']:.2f} s, real {r['real']:.1f} s, called again {r['again']:.2f} s" for r in found), sep='\n')
    one, two = (figures[k]['rows'][-1]['real'] for k in ('one process', 'Ray, 2 workers'))
    estimate = paper(figures['Ray, 1 worker']['ms_per_empty_cell'] / 1000, warm['Ray, 2 workers'], started['Ray, 2 workers'])
    print(json.dumps(dict(benchmark='suite_scaling', quick=a.quick, cores=os.cpu_count(), load=[round(v, 1) for v in os.getloadavg()], figures=figures, seconds_to_start_a_cluster={k: round(v, 1) for k, v in started.items()},
                          seconds_of_the_first_cells={k: round(v, 1) for k, v in warm.items()}, speed_up_with_two_workers=round(one / two, 2), cells_10000_on_100_machines=estimate)))


if __name__ == '__main__': main()
