"""Modules:

- `sft_nb.assets`: Real data and real pretrained weights on a machine that can reach nothing but a package index.
- `sft_nb.core`: The few things that every module needs: one sentence for an error, one number from many seeds, one file that is whole or absent.
- `sft_nb.data.augment`: Show the model each image a little differently every epoch, and the same way in every repetition of the run.
- `sft_nb.data.items`: One table with one row an example, made from a folder, a table or a file, and checked before anything is trained on it.
- `sft_nb.data.store`: Decode every image once, and read it from then on at the speed of memory.
- `sft_nb.evaluate.intervals`: How far the number could be off, by a method that was tried and named.
- `sft_nb.evaluate.metrics`: Each metric is defined once, agrees with scikit-learn, and is computed for a thousand resamples as easily as for one.
- `sft_nb.models.adapt`: Which layers learn, and how fast: groups in the model's own order, from the pixels to the head.
- `sft_nb.models.backbones`: Any timm model by name, with pretrained weights and a new head for your labels.
- `sft_nb.models.weights`: Pretrained weights from a checksummed package, a file of yours, or the hub; never silently random.
- `sft_nb.records`: The two frozen tables that carry a result from training to the report: what the model said, and what that is worth.
- `sft_nb.report.example`: A complete evaluation with pictures, made in a second without a model: to try a report on, and to show what one looks like.
- `sft_nb.report.page`: One HTML file that holds a whole result: it opens anywhere, asks for nothing from outside, and says the uncomfortable things first."""

__version__ = "0.1.0"
