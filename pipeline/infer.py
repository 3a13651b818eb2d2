"""One video through a network: frames in, 8-bit saliency maps at the size of the frames out.

A video is cut into groups of consecutive frames, several of which make a batch; the last group is
moved left to stay full. A network with references is also shown frames spread over the video, once.
While a batch is in the network, a thread reads the next one. Legend: B groups, T frames of a group,
N references, H W rows and columns.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from vsodpipe import crf, models, recipe, sampling, transforms
from vsodpipe.checkpoint import Checkpoint
from vsodpipe.errors import VsodpipeError
from vsodpipe.flow_ahead import ahead
from vsodpipe.frames import Reader, is_still, load_clip
from vsodpipe.recipe import Data, Maps, Stage

Sample = dict[str, Tensor]
Saliency = NDArray[np.float32]
Grey = NDArray[np.uint8]
Ask = Callable[[Sample], dict[str, Tensor]]
"""A batch on the device to the logits of its frames."""

FRAMES_ON_CUDA = 8
"""Frames in a batch there, unless said otherwise; on the CPU a batch is one group."""


@runtime_checkable
class Remembering(Protocol):
    """A network that sees references (1, N, 3, H, W) once, and then frames by what it kept."""

    def remember(self, *references: Tensor) -> Any: ...
    def segment(self, *given: Any) -> dict[str, Tensor]: ...


class Stopped(VsodpipeError):
    """The rest of the work failed, or was interrupted."""


@dataclass
class Predictor:
    """A network on its device, and how it is asked."""

    model: str
    network: nn.Module
    stage: Stage
    device: str
    batch: int
    """Groups at once; 0: FRAMES_ON_CUDA, or one group on the CPU. Halved where memory ends."""
    crf: str | None
    """Name of the parameters of the dense CRF that refines the maps."""
    stop: threading.Event
    """Set from outside to end the work."""
    say: Callable[[str], None]
    """Told when a batch is halved."""

    def __post_init__(self) -> None:
        if self.batch == 0:
            most = FRAMES_ON_CUDA if self.device.startswith("cuda") else 1
            self.batch = max(1, most // group_length(self.stage.data))

    def video(self, files: Reader, video: int) -> Generator[tuple[int, Saliency]]:
        """Yield (frame, map) of a video in order; the maps are what `finished` takes.

        The frames of two batches are held. Raises DataError for a frame that does not decode, and
        Stopped.
        """
        data, size = self.stage.data, files.size(video)
        count = len(files.frames(video))
        groups = sampling.windows(count, group_length(data))
        refined = crf.find(self.crf) if self.crf else None
        target = size if refined is None or refined.native else data.size
        ask = self._asker(files, video, count)
        waiting: dict[int, list[NDArray[np.float32]]] = {}
        done = 0
        with ahead(((g, _load(files, video, g, data)) for g in groups), self.batch) as samples:
            for taken in _batches(samples, lambda: self.batch):
                if self.stop.is_set():
                    raise Stopped("stopped.")
                maps = self._maps([sample for _, sample in taken], ask, target)
                frames = [frame for group, _ in taken for frame in group]
                for frame, made in zip(frames, maps, strict=True):
                    waiting.setdefault(frame, []).append(made)
                done += len(taken)
                following = groups[done] if done < len(groups) else range(0)
                for frame in sorted(f for f in waiting if f not in following):
                    kept = waiting.pop(frame)
                    first = self.stage.maps.twice == "first"
                    yield frame, kept[0] if first else np.mean(kept, axis=0)

    @torch.inference_mode()
    def _asker(self, files: Reader, video: int, count: int) -> Ask:
        """Return the network as it is asked in this video.

        Its references are the same for every frame. What a network can keep of them, by its methods
        `remember` and `segment`, is computed here, once; any other is shown them again each time.
        """
        data, network = self.stage.data, self.network
        own = [key for key in data.inputs if not key.startswith("ref_")]
        beside = [key for key in data.inputs if key.startswith("ref_")]
        if not beside:
            return lambda batch: network(*(batch[key] for key in own))
        frames = sampling.even_references(count, data.references)
        sample = _load(files, video, frames, data)
        shown = {k: sample[k.removeprefix("ref_")].to(self.device)[None] for k in beside}
        if isinstance(network, Remembering):
            try:
                kept = network.remember(*shown.values())
            except torch.OutOfMemoryError as error:
                raise self._too_small() from error
            return lambda batch: network.segment(*(batch[key] for key in own), kept)

        def ask(batch: Sample) -> dict[str, Tensor]:
            each = {k: v.expand(len(batch["img"]), -1, -1, -1, -1) for k, v in shown.items()}
            logits: dict[str, Tensor] = network(*({**batch, **each}[key] for key in data.inputs))
            return logits

        return ask

    def _maps(
        self, samples: Sequence[Sample], ask: Ask, target: tuple[int, int]
    ) -> NDArray[np.float32]:
        """Return the maps (frames, H, W) of some groups; where memory ends, of half at a time."""
        try:
            return self._forward(samples, ask, target)
        except torch.OutOfMemoryError as error:
            if len(samples) == 1:
                raise self._too_small() from error
        torch.cuda.empty_cache()
        half = len(samples) // 2
        if half < self.batch:
            self.batch = half
            self.say(f"{self.device}: out of memory, --batch {self.batch} from here on")
        return np.concatenate(
            [self._maps(part, ask, target) for part in (samples[:half], samples[half:])]
        )

    def _too_small(self) -> VsodpipeError:
        height, width = self.stage.data.size
        return VsodpipeError(
            f"{self.device}: its memory does not hold one group of frames at "
            f"{width}x{height}. Use a larger device, or --device cpu."
        )

    @torch.inference_mode()
    def _forward(
        self, samples: Sequence[Sample], ask: Ask, target: tuple[int, int]
    ) -> NDArray[np.float32]:
        batch = {
            key: torch.stack([sample[key] for sample in samples]).to(self.device)
            for key in samples[0]
        }
        if models.load(self.model).SAMPLING != "clip":
            batch = {key: value.flatten(0, 1) for key, value in batch.items()}
        logits = ask(batch)["saliency"]
        maps = to_maps(logits.float().flatten(0, -4), self.stage.maps, target)
        result: NDArray[np.float32] = maps[:, 0].cpu().numpy()
        return result

    def finished(self, files: Reader, video: int, frame: int, saliency: Saliency) -> Grey:
        """Return a map of `video` as uint8 (H, W), refined where that was asked for."""
        if self.crf is None:
            return np.rint(saliency * 255).astype(np.uint8)
        data, (height, width) = self.stage.data, files.size(video)
        if crf.find(self.crf).native:
            img = files.read(video, frame, "img")
            return (crf.refine(img, saliency, self.crf) * 255).astype(np.uint8)
        clip = load_clip(files, video, [frame], ("img",))
        clip = transforms.resize(clip, data.size, data.resize)
        img = crf.restored(clip["img"][0].permute(1, 2, 0).numpy(), data.mean, data.std)
        return crf.mask(crf.refine(img, saliency, self.crf), (height, width))


def decided_by(saved: Checkpoint, crf: str | None) -> dict[str, Any]:
    """Return what of a checkpoint decides the maps, and the name of their CRF, as plain JSON."""
    digest = hashlib.sha256()
    for key, value in sorted(saved.state_dict.items()):
        bytes_ = value.contiguous().flatten().view(torch.uint8).numpy()
        digest.update(key.encode() + bytes_.tobytes())
    values = recipe.to_dict(saved.stage.data)
    return {
        "model": saved.model,
        "weights_sha256": digest.hexdigest(),
        "size": values["size"],
        "resize": values["resize"],
        "frames": group_length(saved.stage.data),
        "maps": recipe.to_dict(saved.stage.maps),
        "crf": crf,
    }


def group_length(data: Data) -> int:
    """Return how many consecutive frames are predicted together."""
    return data.predict_frames or data.clip


def to_maps(logits: Tensor, options: Maps, size: tuple[int, int]) -> Tensor:
    """Return logits (frames, 1, h, w) as maps (frames, 1, H, W) in 0..1, step by step."""
    maps = logits
    for step in options.steps:
        if step == "sigmoid":
            maps = maps.sigmoid()
        elif step == "resize":
            maps = nn.functional.interpolate(
                maps, size, mode="bilinear", align_corners=options.aligned
            )
        else:
            low, high = maps.amin((-1, -2), keepdim=True), maps.amax((-1, -2), keepdim=True)
            maps = (maps - low) / (high - low + 1e-8)
    return maps


def _load(files: Reader, video: int, frames: Sequence[int], data: Data) -> Sample:
    """Return the float32 tensors (T, 3, h, w) of some frames, at the size of the network."""
    still = is_still(files.has_flow, data)
    keys = dict.fromkeys(("img", *(key.removeprefix("ref_") for key in data.inputs)))
    read = tuple(key for key in keys if not (still and key == "flow"))
    clip = load_clip(files, video, frames, read, data.flow)
    clip = transforms.resize(clip, data.size, data.resize)
    sample = transforms.to_float(clip, data)
    if still and "flow" in keys:
        sample["flow"] = torch.zeros_like(sample["img"])
    return sample


def _batches(
    samples: Iterable[tuple[range, Sample]], size: Callable[[], int]
) -> Iterator[list[tuple[range, Sample]]]:
    """Yield the samples in lists of `size()`, which may change on the way."""
    taken = []
    for sample in samples:
        taken.append(sample)
        if len(taken) >= size():
            yield taken
            taken = []
    if taken:
        yield taken
