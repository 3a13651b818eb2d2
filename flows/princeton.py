"""The published RAFT checkpoints (github.com/princeton-vl/RAFT) in torchvision's words.

    state = princeton.translated(torch.load("raft-things.pth"))  # or None: not princeton's keys

Both are the same network, so the table is all there is to it: the flow is equal to the bit.
"""

import re
from collections.abc import Mapping

from torch import Tensor

# What a princeton key begins with, and how the rest is told apart from another network's.
_SIGNATURE = ("fnet.", "cnet.")

# In this order; each rule applies to what the ones before have made. None: the key is dropped.
_TABLE: tuple[tuple[str, str | None], ...] = (
    # Registered twice: as the third (large) or fourth (small) norm and inside downsample.
    (r"^[fc]net\.layer\d\.\d\.(norm3|norm4)\..*$", None),
    (r"^([fc]net\.layer\d\.\d)\.conv(\d)\.", r"\1.convnormrelu\2.0."),
    (r"^([fc]net\.layer\d\.\d)\.norm(\d)\.", r"\1.convnormrelu\2.1."),
    (r"^([fc]net)\.conv1\.", r"\1.convnormrelu.0."),
    (r"^([fc]net)\.norm1\.", r"\1.convnormrelu.1."),
    (r"^([fc]net)\.conv2\.", r"\1.conv."),
    (r"^fnet\.", "feature_encoder."),
    (r"^cnet\.", "context_encoder."),
    (r"^update_block\.encoder\.convc(\d)\.", r"update_block.motion_encoder.convcorr\1.0."),
    (r"^update_block\.encoder\.convf(\d)\.", r"update_block.motion_encoder.convflow\1.0."),
    (r"^update_block\.encoder\.conv\.", "update_block.motion_encoder.conv.0."),
    (r"^update_block\.gru\.conv([zrq])(\d)\.", r"update_block.recurrent_block.convgru\2.conv\1."),
    (r"^update_block\.gru\.conv([zrq])\.", r"update_block.recurrent_block.convgru1.conv\1."),
    (r"^update_block\.mask\.0\.", "mask_predictor.convrelu.0."),
    (r"^update_block\.mask\.2\.", "mask_predictor.conv."),
)


def translated(state: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
    """Return `state` under torchvision's keys, or None if its keys are not princeton's.

    A key that the table does not know keeps its name.
    """
    if not all(any(key.startswith(prefix) for key in state) for prefix in _SIGNATURE):
        return None
    named = ((_name(key), tensor) for key, tensor in state.items())
    return {name: tensor for name, tensor in named if name is not None}


def _name(key: str) -> str | None:
    for pattern, ours in _TABLE:
        if ours is None:
            if re.match(pattern, key):
                return None
        else:
            key = re.sub(pattern, ours, key)
    return key
