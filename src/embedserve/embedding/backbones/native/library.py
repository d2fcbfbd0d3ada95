"""The compiled core, loaded by ctypes (which gives the interpreter's lock back during every call)."""

from __future__ import annotations

import ctypes
from ctypes import POINTER, Structure, c_char_p, c_double, c_float, c_int, c_size_t, c_uint64, c_void_p
from functools import cache
from pathlib import Path
from typing import Any

ABI = 1
OUT_OF_MEMORY = 2
ISAS = ("avx512vnni", "avxvnni", "avx2", "neon", "scalar")


class NativeUnavailable(RuntimeError):
    """The core was not built here or cannot do what was asked; the message says what to do."""


class Shape(Structure):
    """``embedserve::Shape`` of core/shape.h."""

    _fields_ = (
        ("hidden", c_int),
        ("layers", c_int),
        ("heads", c_int),
        ("ffn", c_int),
        ("positions", c_int),
        ("vocabulary", c_int),
        ("eps", c_float),
    )


class DecoderShape(Structure):
    """``embedserve::DecoderShape`` of core/decoder_shape.h."""

    _fields_ = (
        ("hidden", c_int),
        ("layers", c_int),
        ("heads", c_int),
        ("kv_heads", c_int),
        ("head_size", c_int),
        ("ffn", c_int),
        ("positions", c_int),
        ("vocabulary", c_int),
        ("eps", c_float),
        ("rope_theta", c_float),
    )


SIGNATURES: dict[str, tuple[Any, list[Any]]] = {
    "error": (c_char_p, []),
    "abi": (c_int, []),
    "isa": (c_char_p, [c_char_p]),
    "model_create": (c_void_p, [POINTER(Shape), c_char_p, c_int]),
    "model_set_fp32": (c_int, [c_void_p, c_char_p, c_void_p, c_int, c_int]),
    "model_set_q4": (c_int, [c_void_p, c_char_p, c_void_p, c_int, c_int]),
    "model_pack": (c_int, [c_void_p]),
    "model_encode": (c_int, [c_void_p, c_void_p, c_void_p, c_void_p, c_int, c_void_p]),
    "model_bytes": (c_size_t, [c_void_p]),
    "model_destroy": (None, [c_void_p]),
    "decoder_create": (c_void_p, [POINTER(DecoderShape), c_char_p, c_int]),
    "decoder_set": (c_int, [c_void_p, c_char_p, c_void_p, c_int, c_int, c_int]),
    "decoder_pack_layer": (c_int, [c_void_p]),
    "decoder_finish": (c_int, [c_void_p]),
    "decoder_encode": (
        c_int,
        [*(c_void_p, c_void_p, c_void_p, c_void_p, c_int), *(c_void_p, c_void_p, c_void_p, c_void_p)],
    ),
    "decoder_bytes": (c_size_t, [c_void_p]),
    "decoder_destroy": (None, [c_void_p]),
    "unigram_create": (c_void_p, [c_char_p, c_void_p, c_void_p, c_int, c_int, c_double]),
    "unigram_encode": (c_int, [c_void_p, c_char_p, c_void_p, c_int, c_void_p, c_void_p]),
    "unigram_destroy": (None, [c_void_p]),
    # A model whose kernels are timed, for benchmarks (core/profile.cpp).
    "profile_model_create": (c_void_p, [POINTER(Shape), c_char_p, c_int]),
    "profile_clock": (c_uint64, []),
    "profile_read": (c_int, [c_void_p, c_void_p, c_void_p]),
    # Single kernels, for tests and benchmarks (core/kernel_hooks.cpp).
    "kernel_quantise": (None, [c_char_p, c_void_p, c_int, c_void_p, c_void_p]),
    "kernel_layer_norm": (None, [c_char_p, c_void_p, c_void_p, c_void_p, c_int, c_float, c_void_p]),
    "kernel_embed": (None, [c_char_p, c_void_p, c_void_p, c_void_p, c_int, c_void_p]),
    "kernel_attention": (None, [c_char_p, c_void_p, c_int, c_int, c_int, c_void_p]),
    "kernel_gemm": (
        None,
        [
            c_char_p,
            *(c_void_p, c_void_p, c_int),
            *(c_void_p, c_int, c_int, c_void_p),
            *(c_int, c_void_p, c_void_p, c_int),
        ],
    ),
}


class Library:
    """The functions of the C ABI under their names without the ``embedserve_`` prefix."""

    def __init__(self, path: Path) -> None:
        try:
            handle = ctypes.CDLL(str(path))
        except OSError as error:
            raise NativeUnavailable(f"cannot load the native core {path}: {error}") from error
        for name, (result, arguments) in SIGNATURES.items():
            try:
                function = handle[f"embedserve_{name}"]
            except AttributeError:
                raise NativeUnavailable(
                    f"the native core {path} is of another release: reinstall embedserve"
                ) from None
            function.restype, function.argtypes = result, arguments
            setattr(self, name, function)
        if self.abi() != ABI:
            raise NativeUnavailable(f"the native core {path} is of another release: reinstall embedserve")

    def __getattr__(self, name: str) -> Any:  # for the type checker; functions are set in __init__
        raise AttributeError(name)

    def last_error(self) -> str:
        return str(self.error().decode(errors="replace"))

    def check(self, status: int) -> None:
        """Of a call that returns one (``embedserve::Status`` of core/api.h).

        Raises:
            MemoryError: the system gave none, or no thread; the model is as it was before the call.
            NativeUnavailable: the core refused.
        """
        if status == OUT_OF_MEMORY:
            raise MemoryError(f"the native core: {self.last_error()}")
        if status:
            raise NativeUnavailable(self.last_error())


@cache
def load_library() -> Library:
    """The core.

    Raises:
        NativeUnavailable: it was not built when embedserve was installed.
    """
    found = sorted(Path(__file__).parent.glob("_core*.so"))
    if not found:
        raise NativeUnavailable(
            "embedserve was installed without its native core (no C++ compiler was found): install one "
            "(Debian: `apt install g++`, macOS: `xcode-select --install`) and run "
            "`pip install --force-reinstall --no-deps --no-binary embedserve embedserve`"
        )
    return Library(found[-1])


def find_isa(name: str = "auto") -> str:
    """The instruction set that ``name`` stands for on this CPU; ``auto`` is the fastest.

    Raises:
        NativeUnavailable: unknown, or this CPU lacks it.
    """
    chosen = load_library().isa(name.encode())
    if chosen is None:
        raise NativeUnavailable(
            f"the instruction set {name!r} is not available on this CPU: EMBEDSERVE_ISA may be auto, "
            + ", ".join(available_isas())
        )
    return str(chosen.decode())


def available_isas() -> list[str]:
    """The instruction sets this CPU can run, fastest first."""
    library = load_library()
    return [name for name in ISAS if library.isa(name.encode()) is not None]
