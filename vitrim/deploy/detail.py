"""Where the time of one forward goes: attention, MLP, norms, the method's own steps, gathers, both ends, the rest."""

from __future__ import annotations

import functools
import time
from collections import defaultdict
from collections.abc import Generator, Iterable, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from ..backbones import find_family
from ..common.progress import counted_off
from ..core.reductions import Reduction
from ..core.tokens import Tokens
from ..evaluate.timing import as_dtype, evaluation_mode, inference
from ..methods import Method
from ..runtime.loop import Loop, Request
from ..runtime.model import ReducedViT, unwrap
from ..runtime.turns import Step, plan_turns
from .benchmark import Case
from .runtimes import prepare

ATTENTION, MLP, NORMS, DECIDING, GATHERS, ENDS, REST = PARTS = (
    *("attention", "MLP", "norms", "deciding", "gathers", "ends", "rest"),
)
RUNTIMES = ("eager", "packed")  # that go through vitrim's loop when they run
_OF_BACKBONE = {"attend": ATTENTION, "attend_prefix": ATTENTION, "mlp": MLP, "norm": NORMS, "embed": ENDS, "head": ENDS}
_OF_METHOD = {"observe": DECIDING, "update_outside": DECIDING}
_OF_REDUCTION = dict.fromkeys(("shrink", "restore", "take_rest", "put_rest"), GATHERS)
_NORMS: set[Any] = {functional.layer_norm, functional.rms_norm, torch.layer_norm, torch.rms_norm}


@dataclass(frozen=True)
class Detail:
    """One model's forward. ms: milliseconds of each part, of one batch; each moment belongs to one part.

    attention: projections, products and the residual sum; MLP: likewise; norms: wherever they are computed, also in the
    other parts; deciding: the method, with the evidence that it asks for; gathers: tokens taken out, merged, put back;
    ends: patch embedding, positions, pooling, classifier; rest: what is between these, the loop in Python for the most
    """

    label: str
    ms: Mapping[str, float]

    @property
    def whole(self) -> float:
        """Milliseconds of the forward."""
        return sum(self.ms.values())

    def share(self, part: str) -> float:
        """Of the whole, 0 to 1."""
        return self.ms[part] / self.whole


def detail(
    models: Mapping[str, nn.Module], images: Tensor, case: Case, rounds: int = 15
) -> tuple[list[Detail], dict[str, str]]:
    """Run models in turn on one batch, under a clock that stops between the parts of vitrim's loop; the mean over the
    middle half of the rounds. A dense model runs through the same loop, with nothing to reduce, which gives the same
    bits. The clock itself takes time, a few microseconds a part; on a GPU it waits for every part to end, which
    makes small parts dearer than they are. What is put in for the clock is gone when this returns.

    images: [b, c, height, width], at least `case.batch_size` of them
    Returns the rows, and of models that the runtime cannot run the reason by label. Raises ValueError for a runtime
    that does not go through the loop when it runs.

    Example:
        >>> rows, _ = detail({"evit": vitrim.reduce(model, "evit")}, images, Case(2, "eager", "float32"), rounds=2)
        >>> list(rows[0].ms)
        ['attention', 'MLP', 'norms', 'deciding', 'gathers', 'ends', 'rest']
    """
    if case.runtime not in RUNTIMES:
        raise ValueError(
            f"detail looks into the loop of {' and '.join(RUNTIMES)}; {case.runtime} does not go through it"
        )
    batch, refused = images[: case.batch_size], {}
    with evaluation_mode(models), inference(batch.device, as_dtype(case.precision, batch.device)):
        looped: dict[str, InLoop] = {}
        for label, model in models.items():
            try:
                looped[label] = InLoop(prepare(model, case.runtime, batch))
            except ValueError as error:
                refused[label] = str(error)
        turns = [label for _ in range(rounds + 1) for label in looped]  # the first round warms up
        spent = [(label, _watched(looped[label], batch)) for label in counted_off(turns, "timing the parts")]
    return [_middle(label, [parts for name, parts in spent if name == label][1:]) for label in looped], refused


class InLoop:
    """A reduced or dense model as vitrim's loop runs it.

    Example:
        >>> torch.equal(InLoop(model)(images), model(images))
        True
    """

    def __init__(self, model: Any):
        self.model = unwrap(model)
        reduced = isinstance(self.model, ReducedViT)
        self.body = self.model.body if reduced else find_family(self.model)(self.model)
        self.methods = list(self.model.methods) if reduced else []

    def __call__(self, images: Tensor) -> Tensor:
        if isinstance(self.model, ReducedViT):
            return self.model(images)
        body = self.body
        loop = Loop(body, plan_turns([], body.depth), Request(prediction=True))
        tokens, _, _ = loop.run(body.begin(body.embed(body.receive(images))))
        tokens = body.finish(tokens)
        return body.deliver(body.head(tokens.with_x(body.norm(tokens.x))))


def _middle(label: str, spent: list[dict[str, float]]) -> Detail:
    """Means over the rounds whose whole lies in the middle half."""
    ordered = sorted(spent, key=lambda parts: sum(parts.values()))
    quarter = len(ordered) // 4
    middle = ordered[quarter : len(ordered) - quarter]
    return Detail(label, {part: 1000 * sum(parts[part] for parts in middle) / len(middle) for part in PARTS})


def _watched(model: InLoop, batch: Tensor) -> dict[str, float]:
    """Seconds of each part in one forward."""
    clock = Clock(batch.device)
    with watching(clock, model), clock.part(REST):
        model(batch)
    return {part: clock.spent[part] for part in PARTS}


class Clock:
    """Seconds of each part; of parts inside of others, the inner one's time is its own alone.

    Example:
        >>> clock = Clock(torch.device("cpu"))
        >>> with clock.part("outer"), clock.part("inner"):
        ...     pass
        >>> sorted(clock.spent)
        ['inner', 'outer']
    """

    def __init__(self, device: torch.device):
        self.spent: defaultdict[str, float] = defaultdict(float)
        self._device, self._since = device, 0.0
        self._open: list[str] = []

    @contextmanager
    def part(self, name: str) -> Generator[None]:
        """What runs in here is of this part."""
        self._turn()
        self._open.append(name)
        try:
            yield
        finally:
            self._turn()
            self._open.pop()

    def _turn(self) -> None:
        """Give what has passed since the last turn to the part that is open."""
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        now = time.perf_counter()
        if self._open:
            self.spent[self._open[-1]] += now - self._since
        self._since = now


@contextmanager
def watching(clock: Clock, model: InLoop) -> Generator[None]:
    """The loop's parts tell the clock when they run, as long as this is open: in the whole process, so that nothing
    is put on the model."""
    with ExitStack() as stack:
        for owner, name, part in _places(model):
            stack.enter_context(_told(clock, owner, name, part))
        stack.enter_context(_Norms(clock))
        yield


def _places(model: InLoop) -> Iterable[tuple[type, str, str]]:
    """(class, method's name, part) of all that the loop calls."""
    yield from ((Tokens, name, GATHERS) for name in ("shrink", "restore"))
    yield from ((Step, "decide", DECIDING),)
    methods = {cls for method in model.methods for cls in type(method).__mro__ if issubclass(cls, Method)}
    for classes, parts in (
        ({type(model.body)}, {"probe": DECIDING, **_OF_BACKBONE}),
        (methods, _OF_METHOD),
        (_with_heirs(Reduction), _OF_REDUCTION),
    ):
        for cls in sorted(classes, key=lambda each: each.__qualname__):
            inherited = classes == {type(model.body)}
            yield from ((cls, name, part) for name, part in parts.items() if inherited or name in vars(cls))


def _with_heirs(cls: type) -> set[type]:
    return {cls}.union(*(_with_heirs(heir) for heir in cls.__subclasses__()))


@contextmanager
def _told(clock: Clock, owner: type, name: str, part: str) -> Generator[None]:
    """A method of a class under the clock, and back as it was."""
    own, method = vars(owner).get(name), getattr(owner, name)

    @functools.wraps(method)
    def timed(*args, **options):
        with clock.part(part):
            return method(*args, **options)

    setattr(owner, name, timed)
    try:
        yield
    finally:
        if own is None:
            delattr(owner, name)
        else:
            setattr(owner, name, own)


class _Norms(TorchFunctionMode):
    """Norms wherever they are computed: they are functions of torch, and hooks on their modules would change what the
    loop does around them."""

    def __init__(self, clock: Clock):
        super().__init__()
        self.clock = clock

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func not in _NORMS:
            return func(*args, **(kwargs or {}))
        with self.clock.part(NORMS):
            return func(*args, **(kwargs or {}))
