"""Memory of the device: whether it ran out, and how it is returned."""

__all__ = ["is_out_of_memory", "released"]

TEXTS = ("out of memory", "not enough memory", "can't allocate memory")
"""How torch's allocators name the error for which they raise RuntimeError: CUDA, the CPU, MPS."""


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether the error is that an allocation was refused."""
    import torch

    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error).lower() for text in TEXTS)


def released() -> None:
    """Return memory that no tensor uses to the device."""
    import gc

    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
