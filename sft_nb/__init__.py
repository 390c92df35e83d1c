"""Modules:

- `sft_nb.all`: Every name that a notebook needs, in one import.
- `sft_nb.assets`: Real data and real pretrained weights on a machine that can reach nothing but a package index.
- `sft_nb.bench.job`: From a configuration file to a verdict: audit, split, train, evaluate, report, in one call.
- `sft_nb.bench.standard`: State beforehand what a model must reach, and let the end of an interval decide, not its middle.
- `sft_nb.cli`: `sft-nb init`, `audit`, `run`, `report`, `predict`: the main job from a terminal.
- `sft_nb.config`: One commented YAML file says what a run is; everything that is wrong with it is said at once.
- `sft_nb.core`: The few things that every module needs: one sentence for an error, one number from many seeds, one file that is whole or absent.
- `sft_nb.data.audit`: Look at the data before the model does: copies across splits, broken files, missing labels, and labels that are probably wrong.
- `sft_nb.data.augment`: Show the model each image a little differently every epoch, and the same way in every repetition of the run.
- `sft_nb.data.items`: One table with one row an example, made from a folder, a table or a file, and checked before anything is trained on it.
- `sft_nb.data.splits`: Decide once, by a rule that anyone can repeat, which examples the model learns from and which it is judged by.
- `sft_nb.data.store`: Decode every image once, and read it from then on at the speed of memory.
- `sft_nb.evaluate.compare`: Is it better, or was it luck? On the same items, in pairs, and corrected for how often we asked.
- `sft_nb.evaluate.curves`: What happens at every other threshold, and whether 80 % means 80 %.
- `sft_nb.evaluate.evaluation`: From predictions to every number of a report, in one call.
- `sft_nb.evaluate.intervals`: How far the number could be off, by a method that was tried and named.
- `sft_nb.evaluate.metrics`: Each metric is defined once, agrees with scikit-learn, and is computed for a thousand resamples as easily as for one.
- `sft_nb.evaluate.slices`: Good on average is not good everywhere: the same metrics for each part of the data.
- `sft_nb.models.adapt`: Which layers learn, and how fast: groups in the model's own order, from the pixels to the head.
- `sft_nb.models.backbones`: Any timm model by name, with pretrained weights and a new head for your labels.
- `sft_nb.models.weights`: Pretrained weights from a checksummed package, a file of yours, or the hub; never silently random.
- `sft_nb.records`: The two frozen tables that carry a result from training to the report: what the model said, and what that is worth.
- `sft_nb.report.card`: What stands on the box: results with their intervals, limits, licences, and what it was made from.
- `sft_nb.report.displays`: Each figure of a result as an object: take it from an `Evaluation`, plot it where you like, change it afterwards.
- `sft_nb.report.example`: A complete evaluation with pictures, made in a second without a model: to try a report on, and to show what one looks like.
- `sft_nb.report.page`: One HTML file that holds a whole result: it opens anywhere, asks for nothing from outside, and says the uncomfortable things first.
- `sft_nb.report.widgets`: The same report inside Jupyter: click, drag, and read from Python what is on the screen, or set it.
- `sft_nb.tasks.image`: A table of images and labels becomes a fastai `DataBlock`; what the network says becomes `Predictions`.
- `sft_nb.tasks.targets`: What there is to predict: how labels become numbers, which loss fits them, and how outputs become `Predictions`.
- `sft_nb.train.checkpoint`: Stop a training at any time, and go on to exactly the weights it would have had.
- `sft_nb.train.learner`: A plain fastai `Learner`, set up so that the same seed gives the same weights.
- `sft_nb.train.probe`: The baseline that is always there, and the best first step of fine-tuning: a linear model on what the frozen backbone sees.
- `sft_nb.train.run`: A folder that holds everything about one training: what went in, what came out, and what it was made with.
- `sft_nb.train.schedule`: Fine-tune from the head down: which groups learn in which epoch, how fast, and when to stop."""

__version__ = "0.1.0"
