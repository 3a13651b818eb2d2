"""What an epoch is made of, as a digest, for a test in this process and for one in another."""

import hashlib

from vsodpipe import inputs, models, recipe, stream


def digest(place: str, *options: str) -> list[str | int]:
    """Return hash of the manifest, samples, and hash of the batches of TINY_train's first epoch."""
    stage = recipe.override(models.stages("dbsnet")["debug"], list(options))
    found = inputs.open_manifest(place)
    clips = stream.Clips([stream.open_reader(found, "TINY_train", stage.data.source)], stage)
    made = hashlib.sha256()
    for batch in stream.loader(clips, 0, 0, 2):
        for key in sorted(batch):
            plain = key in ("key", "size")
            made.update(str(batch[key]).encode() if plain else batch[key].numpy().tobytes())
    return [found.sha256(), len(clips), made.hexdigest()]
