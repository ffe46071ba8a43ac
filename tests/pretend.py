"""A device that torch takes for another one and that computes on the CPU, to the same bit.

Tensors there are wrapped tensors of the CPU; an operator that is given both kinds fails in torch's
own words, as on a GPU. It cannot be taken back: use it in a process of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_flatten, tree_map

NAME = "there"


class There(torch.Tensor):
    """A tensor on the pretended device."""

    own: torch.Tensor

    @staticmethod
    def __new__(cls, own: torch.Tensor) -> There:
        made: There = torch.Tensor._make_wrapper_subclass(
            cls,
            own.size(),
            strides=own.stride(),
            storage_offset=own.storage_offset(),
            dtype=own.dtype,
            device=torch.device(NAME, 0),
        )
        made.own = own
        return made

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls,
        func: Any,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Compute on the CPU."""
        return _computed(func, args, dict(kwargs or {}))


def _computed(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    found = [leaf for leaf in tree_flatten((args, kwargs))[0] if isinstance(leaf, torch.Tensor)]
    there = any(isinstance(leaf, There) for leaf in found)
    asked = kwargs.get("device")
    copies = func in (torch.ops.aten.copy_.default, torch.ops.aten._to_copy.default)
    if there and not copies and any(_mixes(leaf) for leaf in found):
        raise RuntimeError(
            f"Expected all tensors to be on the same device, but found at least two devices, "
            f"{NAME}:0 and cpu! (when checking arguments of {func})"
        )
    goes = there if asked is None else torch.device(asked).type == NAME
    if func is torch.ops.aten.copy_.default:
        goes = isinstance(args[0], There)
    if goes and asked is not None:
        kwargs["device"] = torch.device("cpu")
    plain_args, plain = tree_map(_unwrapped, (args, kwargs))
    made = func(*plain_args, **plain)
    if not goes:
        return made
    made = tree_map(lambda leaf: There(leaf) if type(leaf) is torch.Tensor else leaf, made)
    if there:
        made = return_and_correct_aliasing(func, args, kwargs, made)  # type: ignore[no-untyped-call]
    return made


def _mixes(leaf: torch.Tensor) -> bool:
    # Single numbers may come from the CPU on a GPU as well.
    return not isinstance(leaf, There) and leaf.dim() > 0


def _unwrapped(leaf: Any) -> Any:
    return leaf.own if isinstance(leaf, There) else leaf


class _Mode(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        return _computed(func, args, dict(kwargs or {}))


@contextmanager
def device() -> Iterator[str]:
    """Yield the name of the device, which exists inside the block."""
    from torch.utils import backend_registration

    setup: Callable[[str], None] = backend_registration._setup_privateuseone_for_python_backend
    setup(NAME)
    with _Mode():  # type: ignore[no-untyped-call]
        yield NAME
