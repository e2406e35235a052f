"""Copies ONNX's node tests of LinearAttention into one safetensors file.

    pip install onnx==1.22.0
    python extract.py

Each tensor is `<case>/<name>`, bit by bit as the wheel's .pb file has it; the attributes of each
case are in the metadata. Later wheels have no test data.
"""

import json
import pathlib
import struct

import onnx
from onnx import helper, numpy_helper

HERE = pathlib.Path(__file__).parent
NODES = pathlib.Path(onnx.__file__).parent / "backend/test/data/node"
PREFIX = "test_linear_attention_"
DTYPES = {"float32": "F32", "float16": "F16"}


def read(path):
    return numpy_helper.to_array(onnx.TensorProto.FromString(path.read_bytes()))


header, data, metadata = {}, b"", {}
for folder in sorted(NODES.glob(PREFIX + "*")):
    case = folder.name.removeprefix(PREFIX)
    if case.endswith("_expanded"):
        continue
    node = onnx.load(folder / "model.onnx").graph.node[0]
    attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    rule = attributes.get("update_rule", b"gated_delta").decode()
    scale = attributes.get("scale", 0.0)
    heads = attributes["q_num_heads"], attributes["kv_num_heads"]
    metadata[case] = f"{rule} {scale} {heads[0]} {heads[1]}"
    # Files are numbered without the inputs that a node leaves out.
    names = [("input", [n for n in node.input if n]), ("output", list(node.output))]
    for kind, tensors in names:
        for i, name in enumerate(tensors):
            array = read(folder / f"test_data_set_0/{kind}_{i}.pb")
            raw = array.tobytes()
            header[f"{case}/{name}"] = {
                "dtype": DTYPES[str(array.dtype)],
                "shape": list(array.shape),
                "data_offsets": [len(data), len(data) + len(raw)],
            }
            data += raw
header["__metadata__"] = metadata
text = json.dumps(header).encode()
text += b" " * (-len(text) % 8)
(HERE / "linear_attention.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + data)
