"""A recipe: the ordered kernels of a job with their parameters; what a unit carries instead of code.

A later step may read columns that earlier steps added. It does NOT hold data, and its JSON holds no code: a volunteer
looks the ids up among the kernels that it has installed. Build digests are in ``identity``, not in the JSON.

Invariants: parameters are stored normalised (every default filled in), so that equal recipes have equal JSON and equal
identity; output columns never clash; parsing is bounded, because volunteers parse what comes over the network.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import blake3
import pyarrow as pa

from muster.errors import KernelError, KernelInputError
from muster.kernels import registry
from muster.kernels.kernel import Kernel

MAX_JSON_NBYTES = 64 * 1024
MAX_STEPS = 32
_POSITION_AND_REJECT_NBYTES = 8 + 1 + 256  # of each row of the result table, beside the kernels' columns
_FRAMING_NBYTES = 64 * 1024


@dataclass(frozen=True)
class Step:
    """One kernel and all of its parameters as JSON values."""

    kernel: str
    params: dict[str, Any]

    @property
    def found(self) -> Kernel:
        """The kernel itself; not kept here, so that a recipe stays plain data that any process can unpickle."""
        return registry.get(self.kernel)


@dataclass(frozen=True)
class Recipe:
    """Steps in order. Make one with :meth:`of`, :meth:`parse` or :meth:`from_json`, which check and normalise."""

    steps: tuple[Step, ...]

    @classmethod
    def of(cls, steps: Iterable[tuple[str, Mapping[str, Any]]]) -> Recipe:
        """Make a recipe of (kernel id, parameters) pairs.

        Raises ``KernelError`` on none or too many steps, an unknown kernel, wrong parameters or clashing columns.
        """
        made = []
        for kernel_id, params in steps:
            values = registry.get(kernel_id).parse_params(params)
            made.append(Step(kernel_id, values.model_dump(mode="json")))
        if not 1 <= len(made) <= MAX_STEPS:
            raise KernelError(f"a recipe has 1 to {MAX_STEPS} kernels, found {len(made)}")
        recipe = cls(tuple(made))
        recipe._schemas  # noqa: B018 - raises on clashing columns
        return recipe

    @classmethod
    def parse(cls, texts: Iterable[str]) -> Recipe:
        """Make a recipe of texts such as ``text.minhash@1`` or ``text.minhash@1:column=body,ngram=5``."""
        return cls.of([_parse_step(text) for text in texts])

    @classmethod
    def from_json(cls, text: str) -> Recipe:
        """Make a recipe of what :meth:`to_json` wrote; strict and bounded. Raises ``KernelError``."""
        if len(text) > MAX_JSON_NBYTES:
            raise KernelError(f"recipe: {len(text)} characters of JSON, at most {MAX_JSON_NBYTES} allowed")
        try:
            value = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise KernelError(f"recipe: not JSON: {error}") from None
        if not isinstance(value, dict) or value.keys() != {"v", "steps"} or value["v"] != 1:
            raise KernelError('recipe: expected {"v": 1, "steps": [...]}')
        steps = value["steps"]
        if not isinstance(steps, list) or len(steps) > MAX_STEPS:
            raise KernelError(f"recipe: expected a list of at most {MAX_STEPS} steps")
        return cls.of([_check_step(step) for step in steps])

    def to_json(self) -> str:
        """Return canonical JSON: sorted keys, no spaces, ASCII."""
        steps = [{"kernel": step.kernel, "params": step.params} for step in self.steps]
        return json.dumps({"v": 1, "steps": steps}, sort_keys=True, separators=(",", ":"))

    @cached_property
    def identity(self) -> str:
        """Blake3 (hex) over ids, normalised parameters and the build digests of the kernels installed here."""
        builds = "".join(f"{step.kernel} {step.found.build_digest}\n" for step in self.steps)
        return str(blake3.blake3(f"muster recipe 1\n{self.to_json()}\n{builds}".encode()).hexdigest())

    @cached_property
    def _schemas(self) -> tuple[pa.Schema, pa.Schema]:
        needed: dict[str, pa.Field] = {}
        added: dict[str, pa.Field] = {}
        for step in self.steps:
            for field in step.found.input_schema(step.params):
                source = added if field.name in added else needed
                known = source.setdefault(field.name, field)
                if known.type != field.type:
                    raise KernelError(
                        f"recipe: {step.kernel} reads column {field.name!r} as {field.type}, found {known.type}"
                    )
            for field in step.found.output_schema(step.params):
                if field.name in added or field.name in needed:
                    raise KernelError(f"recipe: {step.kernel} makes column {field.name!r}, which is there already")
                added[field.name] = field
        return pa.schema(list(needed.values())), pa.schema(list(added.values()))

    @property
    def input_schema(self) -> pa.Schema:
        """The columns that must come from the source."""
        return self._schemas[0]

    @property
    def output_schema(self) -> pa.Schema:
        """The new columns of all steps, in order, all nullable."""
        return self._schemas[1]

    @property
    def row_wise(self) -> bool:
        """Whether every kernel treats each row by itself."""
        return all(step.found.row_wise for step in self.steps)

    @property
    def exact(self) -> bool:
        """Whether every kernel gives the same bits on every machine."""
        return all(step.found.exact for step in self.steps)

    def max_result_nbytes(self, n_rows: int) -> int:
        """Bound the Arrow memory of a result table of ``n_rows``: position, reject (256 bytes) and kernel columns."""
        per_row = sum(step.found.max_output_nbytes_per_row(step.params) for step in self.steps)
        return _FRAMING_NBYTES + n_rows * (_POSITION_AND_REJECT_NBYTES + per_row)

    def cost_s(self, nbytes: int, n_rows: int) -> float:
        """Predict seconds on one core of the reference machine for ``nbytes`` of input columns in ``n_rows``."""
        return sum(step.found.cost_s(step.params, nbytes, n_rows) for step in self.steps)

    def run(self, table: pa.Table, backend: str = "cpu") -> pa.Table:
        """Return the new columns of all steps for every row of ``table``, on one thread.

        Raises ``KernelInputError`` for columns that are missing or of a wrong type, or that would be overwritten.
        """
        current = table
        for step in self.steps:
            made = step.found.run(current, step.params, backend=backend)
            for field, column in zip(made.schema, made.columns, strict=True):
                if field.name in current.column_names:
                    raise KernelInputError(f"kernel {step.kernel}: column {field.name!r} is in the input already")
                current = current.append_column(field, column)
        return current.select(self.output_schema.names)

    def warm(self) -> None:
        """Compile all kernels, or load them from the compile cache."""
        for step in self.steps:
            step.found.warm()


def _parse_step(text: str) -> tuple[str, dict[str, Any]]:
    kernel_id, _, rest = text.strip().partition(":")
    params: dict[str, Any] = {}
    for item in rest.split(",") if rest else ():
        name, equals, value = item.partition("=")
        if not equals or not name.strip():
            raise KernelError(f"recipe {text[:100]!r}: expected name=value after the colon, found {item[:100]!r}")
        if name.strip() in params:
            raise KernelError(f"recipe {text[:100]!r}: parameter {name.strip()!r} is given twice")
        params[name.strip()] = value.strip()
    return kernel_id, params


def _check_step(step: object) -> tuple[str, dict[str, Any]]:
    if not isinstance(step, dict) or step.keys() != {"kernel", "params"}:
        raise KernelError('recipe: expected each step to be {"kernel": id, "params": {...}}')
    kernel_id, params = step["kernel"], step["params"]
    if not isinstance(kernel_id, str) or not isinstance(params, dict):
        raise KernelError("recipe: a step's kernel is a string and its params an object")
    return kernel_id, params
