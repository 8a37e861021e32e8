"""What the encoders on PyTorch share: device, precision, the size of batches."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from cliplet.encoders.batching import BatchedEncoder
from cliplet.encoders.devices import read_device, read_precision
from cliplet.errors import DeviceMemoryError, InputError

if TYPE_CHECKING:
    import torch

TOKENIZER_PROBE = "A photo depicts Two dogs, it's 12 o'clock: naïve 狗"
"""Its token ids stand for the tokeniser in the fingerprint."""
PROBED = 8
"""Images in the batch that is measured to size the others."""
LARGEST_BATCH = 256
"""Images in a batch, at most: more are no faster."""
SHARE = 0.5
"""Of the free memory, that a batch may take: texts, fragments and other programs need some too."""


class TorchModelEncoder(BatchedEncoder):
    """A BatchedEncoder whose towers are a PyTorch module: it gives raw embeddings, and moves to any device.

    In ``bf16`` and ``fp16`` products are computed under ``torch.autocast``, with a copy of their weights in that
    precision: to cast them for each batch takes longer than the products save. ``model`` itself stays as it is, in
    fp32; weights that change afterwards are not seen. Embeddings are normalised and compared in fp32. Batches on a CUDA
    device are sized by its free memory.
    """

    raw = True
    model: Any
    computed: str = "fp32"
    """The precision of products."""
    _sized = True
    _cast: Any = None

    @property
    def towers(self) -> Any:
        """The module that computes: the model, or its copy in another precision."""
        if self.computed == "fp32":
            return self.model
        if self._cast is None:
            self._cast = cast_copy(self.model, _dtype(self.computed))
        return self._cast

    def settle(self, model: Any, device: str, precision: str, batch_size: int | None, usual: int) -> None:
        """Take the model to its device; batches of the usual size, unless the memory of a CUDA device sizes them.

        Raises:
            InputError: this machine has no such device, or it cannot compute in this precision.
        """
        place = torch_device(device)
        check_torch_precision(precision, place, type(self).__name__)
        self.computed, self.batch_size = precision, batch_size or usual
        self._sized = batch_size is not None or not place.startswith("cuda")
        self.model = model.to(place)

    @property
    def device(self) -> str:
        """Where the weights are, such as ``cpu`` or ``cuda:0``."""
        return str(next(self.model.parameters()).device)

    @property
    def provider(self) -> str:
        """PyTorch."""
        return "PyTorch"

    @property
    def numerics(self) -> str:
        """Device and precision; empty for fp32 on the CPU."""
        kind = self.device.partition(":")[0]
        return "" if (kind, self.computed) == ("cpu", "fp32") else f"{kind} {self.computed}"

    def to(self, device: str) -> None:
        """Move the weights."""
        place = torch_device(device)
        check_torch_precision(self.computed, place, self.card.name)
        self.model.to(place)
        self._cast = None
        self._sized = not place.startswith("cuda")

    def set_precision(self, precision: str) -> None:
        """Compute in ``fp32``, ``bf16`` or, on accelerators, ``fp16`` from now on."""
        check_torch_precision(precision, self.device, self.card.name)
        self.computed, self.card, self._cast = precision, replace(self.card, precision=precision), None

    @contextmanager
    def computing(self) -> "Iterator[None]":
        """No gradients, the precision, and an error of our own where the memory does not suffice."""
        import torch

        try:
            with torch.inference_mode():
                if self.computed == "fp32":
                    yield
                else:
                    kind, dtype = self.device.partition(":")[0], _dtype(self.computed)
                    with torch.autocast(kind, dtype):
                        yield
        except (RuntimeError, MemoryError) as error:
            if not _no_memory(error):
                raise
            raise DeviceMemoryError(str(error).partition("\n")[0]) from error

    def size_batches(self) -> None:
        """Set ``batch_size`` by the memory that a small batch takes on a CUDA device, once a device."""
        if self._sized:
            return
        self._sized = True
        import torch
        from PIL import Image

        blank = self.prepare_image(Image.new("RGB", (self.card.image.size,) * 2))
        place = self.device
        torch.cuda.synchronize(place)
        before = torch.cuda.memory_allocated(place)
        torch.cuda.reset_peak_memory_stats(place)
        try:
            self.embed_images([blank] * PROBED)
        except DeviceMemoryError:
            self.batch_size = PROBED  # halved when it comes to it
            return
        each = (torch.cuda.max_memory_allocated(place) - before) / PROBED
        self.batch_size = sized_batch(torch.cuda.mem_get_info(place)[0], each)


def cast_copy(model: Any, dtype: "torch.dtype") -> Any:
    """A module that shares everything with ``model`` but the weights of its products, which it has in ``dtype``."""
    import copy

    from torch import nn

    products: dict[int, Any] = {}
    others = set()
    for module in model.modules():
        for weight in module.parameters(recurse=False):
            if isinstance(module, (nn.Linear, nn.Conv2d, nn.MultiheadAttention)):
                products[id(weight)] = weight
            else:
                others.add(id(weight))  # such as a word embedding that a last layer shares
    memo: dict[int, Any] = {id(t): t for t in (*model.parameters(), *model.buffers())}
    memo |= {
        key: nn.Parameter(weight.detach().to(dtype), requires_grad=False)
        for key, weight in products.items()
        if key not in others
    }
    made = copy.deepcopy(model, memo).eval()
    for module in made.modules():
        if isinstance(module, nn.MultiheadAttention) and module.batch_first:
            module.batch_first = False
            module.register_forward_pre_hook(_sequence_first, with_kwargs=True)
            module.register_forward_hook(_batch_first)
    return made


def _sequence_first(module: Any, args: Any, kwargs: Any) -> tuple[Any, Any]:
    """Attention's inputs as contiguous ``[t, n, d]``: PyTorch on a CPU copies bf16 weights ``t`` times otherwise."""
    turned: dict[
        int, Any
    ] = {}  # one tensor given three times stays one: its projections are one product then

    def turn(x: Any) -> Any:
        if x.dim() < 3:  # a single sequence, which has no batch
            return x
        return turned.setdefault(id(x), x.transpose(0, 1).contiguous())

    named = {k: turn(v) if k in ("query", "key", "value") else v for k, v in kwargs.items()}
    return (*map(turn, args[:3]), *args[3:]), named


def _batch_first(module: Any, args: Any, output: Any) -> Any:
    return (output[0].transpose(0, 1) if output[0].dim() == 3 else output[0], *output[1:])


def sized_batch(free: float, each: float) -> int:
    """Images in a batch: the largest power of two whose memory is at most a share of what is free.

    Args:
        free: bytes.
        each: bytes that one image takes.
    """
    fits = max(1.0, SHARE * free / max(each, 1.0))
    return min(LARGEST_BATCH, 1 << (int(fits).bit_length() - 1))


def torch_device(asked: str | None) -> str:
    """PyTorch's name of a device, which is there: ``cpu``, ``cuda:0``, ``mps``.

    ``auto`` is the first CUDA device, else Apple's GPU, else the CPU. None is the CPU.

    Raises:
        InputError: no such name, or this machine or this PyTorch lacks it.
    """
    device = read_device(asked or "cpu")
    if device.kind == "cpu":
        return "cpu"  # CUDA is not asked then: a process that has asked it cannot fork
    import torch

    cuda, mps = torch.cuda.is_available(), torch.backends.mps.is_available()
    if device.kind == "auto":
        return "cuda:0" if cuda else "mps" if mps else "cpu"
    if device.kind == "mps" and mps:
        return "mps"
    if device.kind == "cuda" and cuda:
        count, index = torch.cuda.device_count(), device.index or 0
        if index < count:
            return f"cuda:{index}"
        there = "cuda:0" if count == 1 else f"cuda:0 to cuda:{count - 1}"
        raise InputError(f"device {device}: there is no such GPU here; give {there}, auto or cpu")
    if device.kind == "cuda":
        built = torch.version.cuda
        why = (
            f"PyTorch {torch.__version__} is built without CUDA"
            if built is None
            else "PyTorch finds no GPU here"
        )
        raise InputError(f"device {device}: {why}; give auto or cpu")
    if device.kind == "mps":
        raise InputError(
            f"device mps: PyTorch {torch.__version__} finds no GPU of Apple here; give auto or cpu"
        )
    raise InputError(f"device {device} is for model folders; a PyTorch model takes auto, cpu, cuda or mps")


def check_torch_precision(precision: str, device: str, name: str) -> None:
    """Refuse a precision that PyTorch cannot or should not compute in there (InputError)."""
    read_precision(precision)
    if precision == "int8":
        raise InputError(
            f"{name}: a PyTorch model does not compute in int8; cliplet export MODEL OUT --calibrate PHOTOS writes a "
            "folder that does, for --model OUT"
        )
    if precision == "fp16" and device == "cpu":
        raise InputError(
            f"{name}: fp16 is for GPUs; on the CPU give bf16 or fp32, or make a small file: "
            "cliplet export MODEL OUT --fp16"
        )


def _dtype(precision: str) -> "torch.dtype":
    import torch

    return torch.bfloat16 if precision == "bf16" else torch.float16


def _no_memory(error: BaseException) -> bool:
    """Whether PyTorch, on any device, says that there is too little memory."""
    import torch

    kinds: Any = (torch.cuda.OutOfMemoryError, MemoryError)
    said = str(error)
    return isinstance(error, kinds) or "out of memory" in said or "can't allocate memory" in said
