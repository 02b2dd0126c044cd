"""The network calls of the pipeline's iterations: made, noted, or answered from what was executed."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import attrs
import torch

from paracore_diffusers.calls import Call, mapped, same, stand_in
from paracore_diffusers.errors import UnsupportedPipelineError

__all__ = ["REMEMBERS", "Recording"]

REMEMBERS = (
    "the same state at the same node gives another {what} after other nodes were visited{much}: the pipeline's loop "
    "remembers earlier steps (guidance with momentum, a count of its own) or draws random numbers; switch that off, or "
    "use on_unsupported='sequential'"
)


def _ignored(_: Any) -> None:
    return None


@attrs.define(eq=False)
class Recording:
    """What becomes of a network call.

    Attributes:
        mode: ``"outside"`` the loop, in its ``"first"`` iteration, or in one that makes its calls ``"inline"``, notes
            them (``"record"``) or has them answered (``"replay"``).
        check: refuses a network whose answers depend on earlier calls.
        first: the calls of the first iteration, with their answers.
        visit: the calls of the iteration under way.
        made: calls made, merged ones counted singly.
        copied: arguments that the pipeline writes into after its calls, as ``(call, argument)``: the place of the call
            in the iteration, the place or name of the argument. Copies of them are noted.
        dependent: calls depend on answers of the same iteration: none are noted any more.
        verdicts: why calls of a network are made one by one, by its class.
    """

    mode: str = "outside"
    check: Callable[[Any], None] = _ignored
    first: list[Call] = attrs.field(factory=list)
    visit: list[Call] = attrs.field(factory=list)
    made: int = 0
    copied: set[tuple[int, int | str]] = attrs.field(factory=set)
    dependent: bool = False
    verdicts: dict[str, str] = attrs.field(factory=dict)
    _at: int = 0
    _checking: bool = False
    _templates: dict[Any, Any] = attrs.field(factory=dict)
    _denoisers: set[type] = attrs.field(factory=set)

    def arrive(self) -> None:
        """An iteration begins."""
        self.visit, self._at = self.visit if self.mode == "replay" else [], 0

    def replay(self, visit: list[Call], *, checking: bool = False) -> None:
        """Answer the next iteration with these calls' results; ``checking``: it must make the very same calls."""
        self.mode, self.visit, self._checking = "replay", visit, checking

    def unwritten(self, visits: Iterable[list[Call]]) -> bool:
        """Whether what was noted is still what the pipeline gave; if not, copies are noted from now on."""
        noted = [call for visit in visits for call in visit]
        written = {(call.ordinal, name) for call in noted for name in call.written} - self.copied
        self.copied |= written
        return not written

    def leave(self) -> None:
        """An iteration has reached its step."""
        if self.mode == "replay" and self._at != len(self.visit):
            self._differs(self.visit[self._at].module)

    def keep_first(self) -> None:
        """The first iteration is over. The networks whose calls may wait: the one called last, and all of its class."""
        self.first = self.visit
        self._denoisers = {type(self.first[-1].module)}
        for call in self.first:
            if type(call.module) in self._denoisers:
                self._templates[call.key] = call.result

    def call(self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any], node: int) -> Any:
        """The answer to a call inside the loop."""
        self.check(module)
        if self.mode == "first":
            return self._first_call(module, args, kwargs, node)
        if self.mode == "record":
            return self._noted(module, args, kwargs, node)
        if self.mode == "replay":
            known = self.visit[self._at] if self._at < len(self.visit) else None
            self._at += 1
            if known is not None and module is known.module and same((args, kwargs), (known.args, known.kwargs)):
                return mapped(known.result, torch.clone) if self._checking else known.result
            self._differs(module)
            self._at = len(self.visit)  # the rest of this iteration is made here too
        self.made += 1
        return module(*args, **kwargs)

    def _first_call(self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any], node: int) -> Any:
        # Arguments and answer are kept, and a pipeline may write into its own: copies.
        call = Call(module, mapped(args, torch.clone), mapped(kwargs, torch.clone), len(self.visit), node)
        self.visit.append(call)
        answer = module(*args, **kwargs)
        call.result, call.done = mapped(answer, torch.clone), True
        self.made += 1
        return answer

    def _noted(self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any], node: int) -> Any:
        ordinal = len(self.visit)
        if self.copied:
            own = {name for place, name in self.copied if place == ordinal}
            args = tuple([mapped(v, torch.clone) if i in own else v for i, v in enumerate(args)])
            kwargs = {name: mapped(v, torch.clone) if name in own else v for name, v in kwargs.items()}
        call = Call(module, args, kwargs, ordinal, node)
        self.visit.append(call)
        may_wait = type(module) in self._denoisers
        template = self._templates.get(call.key) if may_wait else None
        if template is not None:
            call.like = template
            return stand_in(template)
        call.result, call.done = call.run(), True  # what feeds another network, or was never seen in this shape
        self.made += 1
        if may_wait:
            self._templates[call.key] = call.result
        return mapped(call.result, torch.clone)  # kept for the replay: a pipeline may write into its own

    def _differs(self, module: Any) -> None:
        """A replayed iteration calls its networks in another way than when it was recorded (answered with zeros): its
        calls depend on each other's answers. From now on the pipeline makes them itself."""
        if self._checking:
            raise UnsupportedPipelineError(REMEMBERS.format(what="network input", much=""))
        self.dependent = True
        self.verdicts[type(module).__name__] = "one by one: its input depends on answers in the same iteration"
