"""What a kernel is: a versioned pure function from Arrow columns to new Arrow columns.

A kernel has an id (``name@version``), parameters (a pydantic model), an input and an output schema, a cost model and a
build digest. It does NOT read files, clocks or random sources, and knows nothing of jobs, chunks or volunteers.

Invariants: same input, parameters and build digest give the same output; an *exact* kernel gives the same bits on
every CPU and GPU; a *row-wise* one gives the same rows for any slicing or chunking of its input; a change of behaviour
is a new version, and old versions stay.
"""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal

import blake3
import pyarrow as pa
from pydantic import BaseModel, ValidationError

from muster.errors import KernelError

Arithmetic = Literal["integer", "ordered_float64", "no_fma", "explicit_fma"]
Backend = Literal["cpu", "cuda", "reference"]
BACKENDS: tuple[Backend, ...] = ("cpu", "cuda", "reference")
Params = Mapping[str, Any] | BaseModel


class Kernel(ABC):
    """One version of one operation. Subclasses set the class variables and implement the abstract methods.

    ``arithmetic`` states why an exact kernel is exact: ``integer`` (integers and correctly rounded divisions only),
    ``ordered_float64`` (float64 additions in a fixed order), ``no_fma`` or ``explicit_fma`` (float32 rules).
    ``dependencies`` are the declared requirements that the result depends on; ``shared_sources`` are files of this
    room (names in ``kernels/``) that the kernel uses beside its own folder. Both go into the build digest.
    """

    name: ClassVar[str]
    version: ClassVar[int]
    summary: ClassVar[str]
    row_wise: ClassVar[bool] = True
    exact: ClassVar[bool] = True
    arithmetic: ClassVar[Arithmetic] = "integer"
    params_model: ClassVar[type[BaseModel]]
    dependencies: ClassVar[tuple[str, ...]] = ()
    shared_sources: ClassVar[tuple[str, ...]] = ()

    @property
    def id(self) -> str:
        """The kernel's name and version, such as ``text.minhash@1``."""
        return f"{self.name}@{self.version}"

    @abstractmethod
    def input_schema(self, params: Params) -> pa.Schema:
        """Return the columns that the kernel reads."""

    @abstractmethod
    def output_schema(self, params: Params) -> pa.Schema:
        """Return the new columns, all nullable; never one of the input."""

    @abstractmethod
    def max_output_nbytes_per_row(self, params: Params) -> int:
        """Return an upper bound, in bytes, of one output row in Arrow memory, validity bits included."""

    @abstractmethod
    def cost_s(self, params: Params, nbytes: int, n_rows: int) -> float:
        """Predict the seconds that one core of the reference machine needs for ``nbytes`` of input in ``n_rows``."""

    @abstractmethod
    def run(
        self,
        table: pa.Table,
        params: Params | None = None,
        assets: Mapping[str, Any] | None = None,
        backend: str = "cpu",
    ) -> pa.Table:
        """Return a table of the new columns only, with as many rows as ``table``; null in, null out.

        Raises ``KernelInputError`` for a missing or wrongly typed column, ``KernelError`` for wrong parameters or an
        unknown or missing backend.
        """

    @abstractmethod
    def warm(self) -> None:
        """Compile the kernel, or load it from the compile cache, so that the first real run does not pay for it."""

    def parse_params(self, params: Params | None) -> Any:
        """Return ``params`` as an instance of ``params_model``; ``KernelError`` names what is wrong."""
        if isinstance(params, self.params_model):
            return params
        values = params.model_dump() if isinstance(params, BaseModel) else dict(params or {})
        try:
            return self.params_model.model_validate(values)
        except ValidationError as error:
            wrong = "; ".join(map(_said, error.errors(include_url=False)[:5]))
            known = ", ".join(self.params_model.model_fields)
            raise KernelError(f"kernel {self.id}: wrong parameters: {wrong}", hint=f"parameters: {known}") from None

    @cached_property
    def build_digest(self) -> str:
        """Blake3 (hex) of what the result depends on: id, declared dependencies, sources and tables.

        The same on every platform and Python version: line ends are normalised, and nothing about the machine enters.
        """
        module = sys.modules[type(self).__module__].__file__
        if module is None:
            raise KernelError(f"kernel {self.id}: its sources can't be found, so its build can't be named")
        room = Path(__file__).parent
        own = sorted(path for path in Path(module).parent.iterdir() if path.suffix in {".py", ".npy"})
        digest = blake3.blake3(f"muster kernel build 1\n{self.id}\n".encode())
        digest.update("".join(f"{line}\n" for line in sorted(self.dependencies)).encode())
        for path in [*own, *(room / name for name in sorted(self.shared_sources))]:
            content = path.read_bytes()
            if path.suffix == ".py":
                content = content.replace(b"\r\n", b"\n")
            digest.update(f"{path.name}\n{len(content)}\n".encode())
            digest.update(content)
        return str(digest.hexdigest())


def _said(error: Any) -> str:
    """Return one of pydantic's findings as a user would say it."""
    name = ".".join(map(str, error["loc"])) or "parameters"
    if error["type"] == "extra_forbidden":
        return f"there is no parameter {name!r}"
    if error["type"] == "missing":
        return f"parameter {name!r} is required"
    message = str(error["msg"]).removeprefix("Value error, ").removeprefix("Input should be ")
    expected = message if message == error["msg"] else f"expected {message.split(',')[0]}"
    return f"{name}: {expected}, found {str(error['input'])[:100]!r}"
