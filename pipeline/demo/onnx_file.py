"""Writes a small ONNX file: the messages of onnx.proto that a convolutional network needs, in protobuf's wire format.

The `onnx` package and torch's exporter, which needs it, are no part of this project's installation; a dozen fields are
all there is to write.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

IR_VERSION, OPSET = 8, 13
FLOAT, INT, INTS = 1, 2, 7  # TensorProto.FLOAT, AttributeProto.INT and .INTS


@dataclass
class Graph:
    """A network under construction; values between nodes are known by name."""

    nodes: list[bytes] = field(default_factory=list)
    weights: list[bytes] = field(default_factory=list)

    def add(
        self,
        operator: str,
        inputs: Sequence[str],
        weights: Iterable[np.ndarray] = (),
        **attributes: int | Sequence[int],
    ) -> str:
        """A node with float32 `weights` after its inputs; returns the name of its only output."""
        output = f"v{len(self.nodes)}"
        named = list(inputs)
        for array in weights:
            named.append(f"w{len(self.weights)}")
            self.weights.append(_tensor(named[-1], array))
        fields = [*(_text(1, name) for name in named), _text(2, output), _text(4, operator)]
        self.nodes.append(b"".join(fields + [_bytes(5, _attribute(name, value)) for name, value in attributes.items()]))
        return output

    def write(self, path: Path, shape: tuple[int, ...], output: str, width: int) -> None:
        """Write the model: input `input` (n, *shape) float32, output `output` (n, width) float32, n left open."""
        nodes = [*self.nodes, b"".join([_text(1, output), _text(2, "output"), _text(4, "Identity")])]
        graph = [
            *(_bytes(1, node) for node in nodes),
            _text(2, "main"),
            *(_bytes(5, weight) for weight in self.weights),
        ]
        graph += [_bytes(11, _value("input", shape)), _bytes(12, _value("output", (width,)))]
        path.write_bytes(_number(1, IR_VERSION) + _bytes(7, b"".join(graph)) + _bytes(8, _number(2, OPSET)))


def _varint(number: int) -> bytes:
    digits = bytearray()
    while number > 127:
        digits.append(number & 127 | 128)
        number >>= 7
    return bytes([*digits, number])


def _number(place: int, number: int) -> bytes:
    return _varint(place << 3) + _varint(number)


def _bytes(place: int, content: bytes) -> bytes:
    return _varint(place << 3 | 2) + _varint(len(content)) + content


def _text(place: int, content: str) -> bytes:
    return _bytes(place, content.encode())


def _attribute(name: str, value: int | Sequence[int]) -> bytes:
    """AttributeProto: name 1, i 3, ints 8, type 20."""
    if isinstance(value, int):
        return _text(1, name) + _number(3, value) + _number(20, INT)
    return _text(1, name) + b"".join(_number(8, item) for item in value) + _number(20, INTS)


def _tensor(name: str, array: np.ndarray) -> bytes:
    """TensorProto: dims 1, data_type 2, name 8, raw_data 9."""
    sizes = b"".join(_number(1, size) for size in array.shape)
    return sizes + _number(2, FLOAT) + _text(8, name) + _bytes(9, np.ascontiguousarray(array, dtype="<f4").tobytes())


def _value(name: str, shape: tuple[int, ...]) -> bytes:
    """ValueInfoProto of a float tensor whose first size is open: TypeProto.tensor_type 1 { elem_type 1, shape 2 { dim 1
    { dim_value 1, dim_param 2 } } }.
    """
    sizes = b"".join([_bytes(1, _text(2, "n")), *(_bytes(1, _number(1, size)) for size in shape)])
    return _text(1, name) + _bytes(2, _bytes(1, _number(1, FLOAT) + _bytes(2, sizes)))
