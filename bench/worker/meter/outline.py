"""What one micro-batch does with the model's parameters, watched once: all that theory needs to know of a model."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn

from bench.results.metered import ModuleOutline, Outline, ParameterOutline, VisitKind


class OutlineWatch:
    """Watches the first micro-batch of `model`, forward and backward, and takes its hooks away when the second begins.

    Made after the strategy wrapped the model: its hooks then see the very tensors on which DeepSpeed's own hooks sit, so that
    entering and leaving a module means here what it means to ZeRO-3. They read nothing but identities.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._parameters = dict(model.named_parameters())
        self._modules = dict(model.named_modules())
        self._visits: list[tuple[VisitKind, nn.Module]] = []
        self._ready: list[Tensor] = []
        self._hooks: list[Any] = []
        for module in self._modules.values():
            self._hooks.append(module.register_forward_pre_hook(self._enter))
            self._hooks.append(module.register_forward_hook(self._leave))
        for parameter in self._parameters.values():
            hook = parameter.register_post_accumulate_grad_hook(self._ready.append)  # type: ignore[no-untyped-call]
            self._hooks.append(hook)

    def outline(self) -> Outline:
        """What was seen; called after at least one whole micro-batch."""
        self._close()
        place = {id(parameter): number for number, parameter in enumerate(self._parameters.values())}
        called = {id(module) for _, module in self._visits}
        modules = [(name, module) for name, module in self._modules.items() if id(module) in called]
        module_place = {id(module): number for number, (_, module) in enumerate(modules)}
        return Outline(
            # ZeRO-3 leaves of a parameter's own elements none behind.
            parameters=[
                ParameterOutline(
                    name=name,
                    num_elements=getattr(parameter, "ds_numel", parameter.numel()),
                    num_rows=next(iter(getattr(parameter, "ds_shape", parameter.shape)), 1),
                )
                for name, parameter in self._parameters.items()
            ],
            modules=[
                ModuleOutline(name=name, parameters=[place[id(p)] for p in module.parameters(recurse=False)])
                for name, module in modules
            ],
            visits=[(kind, module_place[id(module)]) for kind, module in self._visits],
            ready=[place[id(parameter)] for parameter in self._ready],
            num_buffers=sum(1 for _ in self._model.buffers()),
            own_rules=[name for name, module in self._modules.items() if _has_own_rules(module)],
        )

    def _close(self) -> None:
        for hook in self._hooks:
            hook.remove()
        self._hooks = []

    def _enter(self, module: nn.Module, inputs: Any) -> None:
        if module is self._model and self._visits:
            self._close()
        if not self._hooks:
            return  # the hooks of the call that closed it
        self._visits.append(("enter_forward", module))
        waited_for = [tensor for tensor in tensors_in(inputs) if tensor.requires_grad]
        remaining = len(waited_for)

        def passed(gradient: Tensor) -> None:
            nonlocal remaining
            remaining -= 1
            if remaining == 0:
                self._visits.append(("leave_backward", module))

        for tensor in waited_for:
            tensor.register_hook(passed)  # type: ignore[no-untyped-call]

    def _leave(self, module: nn.Module, inputs: Any, output: Any) -> None:
        def entered(gradient: Tensor) -> None:
            self._visits.append(("enter_backward", module))

        self._visits.append(("leave_forward", module))
        for tensor in tensors_in(output):
            if tensor.requires_grad:
                tensor.register_hook(entered)  # type: ignore[no-untyped-call]


def _has_own_rules(module: nn.Module) -> bool:
    """Whether DeepSpeed marked the module as a leaf of ZeRO-3, or as a user of parameters that it does not own."""
    return bool(getattr(module, "_z3_leaf", False) or getattr(module, "_external_params", None))


def tensors_in(value: Any) -> Iterator[Tensor]:
    """The tensors in an argument or a result: a tensor, or any nesting of tuples, lists and dictionaries of them."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, tuple | list | dict):
        for part in value.values() if isinstance(value, dict) else value:
            yield from tensors_in(part)
