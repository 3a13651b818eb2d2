"""Scores during training, to choose the best weights; and the pictures of a few fixed samples.

They are proxies: every annotated frame counts, and the network may be an average or in the middle
of its training. Figures to publish come from `vsodpipe test` and `vsodpipe eval`.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from vsodpipe import feed, metrics, metrics_batch
from vsodpipe.errors import UsageError
from vsodpipe.infer import Predictor
from vsodpipe.learner import Learner
from vsodpipe.manifest import Source, Split
from vsodpipe.progress import Reporter
from vsodpipe.ranks import Ranks
from vsodpipe.recipe import Augment, Stage
from vsodpipe.stream import Files, Sample

Pair = tuple[NDArray[np.uint8], NDArray[np.bool_]]
"""A map and its mask, (H, W) each."""
SCORES = ("j", "f_boundary", "s", "f_adaptive", "mae")
"""What a validation measures, fields of `metrics.FrameScores`."""
TOGETHER = 8
"""Frames scored together on CUDA."""
PICTURES = 4
"""Samples whose maps are shown every epoch."""


def scores(
    model: str,
    learner: Learner,
    source: Source,
    splits: Sequence[Split],
    ranks: Ranks,
    say: Callable[[str], None],
) -> dict[str, float]:
    """Return the scores of a network on `splits`: the mean over a video's frames, then over videos.

    Maps are 8-bit at the size of the masks, as `vsodpipe test` writes them. Processes share the
    videos. Raises UsageError where no video has a mask.
    """
    videos = [(split, number) for split in splits for number in range(len(split.videos))]
    own = []
    with evaluating(learner.delivered) as network:
        device, stop = str(learner.device), threading.Event()
        predictor = Predictor(model, network, learner.stage, device, 0, None, stop, say)
        for split, number in videos[ranks.rank :: ranks.world]:
            own.append(_video(predictor, Files(source, split), number))
    found = [row for rows in ranks.gather(own) for row in rows if row]
    if not found:
        names = ", ".join(split.dataset for split in splits)
        raise UsageError(f"recipe key validate.split: {names} has no masks to validate with.")
    return {key: float(np.mean([row[key] for row in found])) for key in found[0]}


def better(stage: Stage, found: dict[str, float], best: float | None) -> bool:
    """Return whether scores beat the `best` so far by the recipe's metric."""
    value = found[stage.validate.metric]
    if best is None or math.isnan(best):
        return True
    return value < best if stage.validate.metric == "mae" else value > best


@contextmanager
def evaluating(network: nn.Module) -> Iterator[nn.Module]:
    """Yield the network in eval mode, without gradients; then it is in the mode it was in."""
    before = network.training
    try:
        with torch.inference_mode():
            yield network.eval()
    finally:
        network.train(before)


def _video(predictor: Predictor, files: Files, video: int) -> dict[str, float]:
    """Return the mean scores of a video's annotated frames; nothing without any."""
    annotated = files.annotated(video)
    waiting: list[Pair] = []
    found: list[metrics.FrameScores] = []
    for frame, saliency in predictor.video(files, video):
        if annotated[frame]:
            gt = files.read(video, frame, "gt").view(bool)
            waiting.append((predictor.finished(files, video, frame, saliency), gt))
        if len(waiting) == TOGETHER:
            found, waiting = found + frames_scores(waiting, predictor.device), []
    if waiting:
        found += frames_scores(waiting, predictor.device)
    return {n: float(np.mean([getattr(s, n) for s in found])) for n in SCORES} if found else {}


def frames_scores(pairs: Sequence[Pair], device: str) -> list[metrics.FrameScores]:
    """Return `SCORES` of maps and masks of one size; on CUDA they are counted there.

    A processor scores frame after frame many times as fast as a batch of tensors, to equal numbers.
    """
    wanted = frozenset(SCORES)
    if not device.startswith("cuda"):
        return [metrics.frame_scores(image, gt, wanted) for image, gt in pairs]
    images, gts = (torch.from_numpy(np.stack(part)).to(device) for part in zip(*pairs, strict=True))
    return metrics_batch.batch_scores(images, gts, wanted)


def fixed_samples(
    job: feed.Place, stage: Stage, data: feed.Feed, reporter: Reporter
) -> list[tuple[str, Sample]]:
    """Return the name and the sample of the first training clip of a few videos, as they are."""
    plain = replace(stage, augment=Augment())
    clips = feed.clips(plain, data, job, Ranks(), reporter)
    firsts: dict[tuple[int, int], int] = {}
    for number, (reader, video, _) in enumerate(np.asarray(clips.anchors).tolist()):
        firsts.setdefault((reader, video), number)
    samples = [clips.batch([(0, 0, number)]) for number in list(firsts.values())[:PICTURES]]
    return [("/".join(sample["key"][0][:2]), sample) for sample in samples]


def picture(model: str, learner: Learner, sample: Sample) -> NDArray[np.uint8]:
    """Return frame, mask and map of a batch's first frame side by side, uint8 RGB (H, 3W, 3).

    There is no mask where the recipe reads no labels.
    """
    data = learner.stage.data
    batch = feed.on_device(sample, learner.device, model, data)
    with evaluating(learner.delivered) as network, learner.autocast:
        logits = network(*(batch[key] for key in data.inputs))["saliency"]
    shape = batch["img"].shape[-2:]
    first = logits.float().sigmoid().cpu().reshape(-1, 1, *logits.shape[-2:])[:1]
    saliency = nn.functional.interpolate(first, shape, mode="bilinear")[0].expand(3, -1, -1)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (data.mean, data.std))
    img = batch["img"].cpu().reshape(-1, 3, *shape)[0] * std + mean
    masks = [batch["gt"].cpu().reshape(-1, 1, *shape)[0].expand(3, -1, -1)] if data.labels else []
    row = torch.cat((img, *masks, saliency), 2).clamp(0, 1).permute(1, 2, 0)
    return np.rint(row.numpy() * 255).astype(np.uint8)
