"""torch.compile without its silent ways back: what cannot be compiled fails, in one line."""

from collections.abc import Callable
from typing import Any

import torch
from torch._dynamo.exc import TorchDynamoException
from torch._inductor.exc import CppCompileError, InvalidCxxCompiler

from vsodpipe.errors import VsodpipeError

# Sizes for which one program compiles; torch's own limit, 8, is less than a data set has.
_SIZES = 256


def compiled(function: Callable[..., tuple[torch.Tensor, ...]]) -> Callable[..., Any]:
    """Return `function` compiled at its first call for each size, with CUDA graphs on a GPU.

    A call raises VsodpipeError where compilation is not possible.
    """
    # fullgraph: torch runs what it cannot compile as it is otherwise, and says nothing.
    fast = torch.compile(function, fullgraph=True, dynamic=False)
    graphs = torch.compile(function, fullgraph=True, dynamic=False, mode="reduce-overhead")

    def call(first: torch.Tensor, *rest: Any) -> tuple[torch.Tensor, ...]:
        try:
            # recompile_limit, by the name that torch 2.6 knows too
            with torch._dynamo.config.patch(cache_size_limit=_SIZES):
                if not first.is_cuda:
                    return tuple(fast(first, *rest))
                # The next run of a CUDA graph overwrites what this one returns.
                torch.compiler.cudagraph_mark_step_begin()
                return tuple(result.clone() for result in graphs(first, *rest))
        except (TorchDynamoException, CppCompileError, InvalidCxxCompiler) as error:
            reason = next((line for line in str(error).splitlines() if line.strip()), "")
            raise VsodpipeError(
                f"optical flow: expected to compile the network, got {type(error).__name__}: "
                f"{reason} Install a C++ compiler, such as g++, or leave --compile out."
            ) from error

    return call
