"""One process of the tests of slices of time: runs every case that lies in a folder.

In: rank, number of processes, a folder with cases.  Out: a file of results for each case, in the
same folder.  Started by `tests/test_slices.py`.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
import torch.distributed as dist


def work(rank: int, count: int, folder: str) -> None:
    """All cases, one after the other."""
    torch.set_num_threads(1)
    if not torch.cuda.is_available():
        os.environ["TRITON_INTERPRET"] = "1"
    place = Path(folder)
    dist.init_process_group(
        "gloo", init_method=f"file://{place}/meeting", rank=rank, world_size=count
    )
    for file in sorted(place.glob("*.case")):
        case = torch.load(file, weights_only=False)
        torch.save(_run(case, rank), place / f"{file.stem}.{rank}")
    dist.destroy_process_group()


def _run(case: dict[str, Any], rank: int) -> dict[str, Any]:
    if case.get("wrong"):
        return {"error": _error(case, rank)}
    module = _module(case["module"])
    begin = sum(case["lengths"][:rank])
    end = begin + case["lengths"][rank]
    dtype = case["dtype"]
    tensors = [
        (x[:, begin:end] if name in case["inputs"] else x).to(dtype, copy=True).requires_grad_()
        for name, x in case["tensors"].items()
    ]
    states = [_leaf(x, dtype) for x in case["state"]] if case["state"] else None
    cu = case["cu_seqlens"]
    found = getattr(module, case["scan"])(
        *tensors,
        initial_state=None if states is None else states[0] if len(states) == 1 else tuple(states),
        output_final_state=case["final"],
        cu_seqlens=cu,
        backend=case["backend"],
        group=dist.group.WORLD,
    )
    outputs, final = found[:-1], found[-1]
    ends = [] if final is None else [final] if torch.is_tensor(final) else list(final)
    loss = sum((o * w[:, begin:end]).sum() for o, w in zip(outputs, case["weights"], strict=True))
    # the loss on the final state is taken on one rank: losses of all ranks are summed
    pairs = zip(ends, case["end_weights"], strict=False)
    parts = [(x * w).sum() for x, w in pairs if x.is_floating_point() or x.is_complex()]
    if rank == case["judge"]:
        loss = loss + sum(parts)
    loss = loss + 0 * sum(parts)
    (loss.real if loss.is_complex() else loss).backward()
    return {
        "outputs": [o.detach() for o in outputs],
        "ends": [x.detach().clone() for x in ends],  # they may lie in one room
        "gradients": [x.grad for x in tensors],
        "state_gradients": [None if x.grad is None else x.grad.clone() for x in states or []],
    }


def _leaf(x: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    if x.is_complex():
        return x.to(dtype.to_complex(), copy=True).requires_grad_()
    if not x.is_floating_point():
        return x.clone()
    return x.to(dtype, copy=True).requires_grad_()


def _error(case: dict[str, Any], rank: int) -> str:
    """What a call says in which the ranks do not agree."""
    call = dict(case["calls"][rank])
    try:
        getattr(_module(case["module"]), case["scan"])(**call, group=dist.group.WORLD)
    except (ValueError, TypeError, RuntimeError) as error:
        return str(error)
    return ""


def _module(file: str) -> ModuleType:
    name = f"sliced_{Path(file).stem}"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, file)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
    return sys.modules[name]
