"""Features of a few rows by every map, in float64, from PyTorch: what tests/feature_maps
compares the reference with. Written from the papers' formulas and apart from the crate.

    python tests/data/feature_maps.py    # writes feature_maps.safetensors beside it
"""

import math
import pathlib

import torch
from safetensors.torch import save_file

torch.manual_seed(20)
D = 6
X = torch.cat(
    [
        torch.randn(4, D),
        torch.tensor([[0.0, -0.0, -17.0, -18.0, -30.0, -87.0], [5.0, -5.0, 2.5, 0.1, -0.1, 20.0]]),
        torch.zeros(1, D),
    ]
)


def t2r(x, w, b):
    return torch.relu(x @ w.T + b)


def hedgehog(x, w, b):
    y = x @ w.T + b
    return torch.cat([torch.softmax(y, -1), torch.softmax(-y, -1)], -1)


def hedgehog_joint(x, w, b):
    y = x @ w.T + b
    return torch.softmax(torch.cat([2 * y, -2 * y], -1), -1)


def product(x, w, b):
    y = x @ w.T + b
    first, second = y.chunk(2, -1)
    return first * second


def favor(x, w, _):
    x = x * D**-0.25
    half = (x * x).sum(-1, keepdim=True) / 2
    return torch.exp(x @ w.T - half) / math.sqrt(w.shape[0])


def favor_hyperbolic(x, w, _):
    x = x * D**-0.25
    half = (x * x).sum(-1, keepdim=True) / 2
    y = x @ w.T
    return torch.exp(torch.cat([y, -y], -1) - half) / math.sqrt(2 * w.shape[0])


def fourier(x, w, _):
    y = x * D**-0.25 @ w.T
    return torch.cat([torch.cos(y), torch.sin(y)], -1) / math.sqrt(w.shape[0])


def taylor(x):
    x = x * D**-0.25
    i, j = torch.triu_indices(D, D, offset=1)
    one = torch.ones_like(x[..., :1])
    return torch.cat([one, x, x * x / math.sqrt(2), x[..., i] * x[..., j]], -1)


def dpfp(x, nu):
    r = torch.cat([torch.relu(x), torch.relu(-x)], -1)
    return torch.cat([r * torch.roll(r, j, -1) for j in range(1, nu + 1)], -1)


def l2_norm(x):
    return x / torch.sqrt((x * x).sum(-1, keepdim=True) + 1e-6)


PLAIN = {
    "identity": lambda x: x,
    "relu": torch.relu,
    "relu-squared": lambda x: torch.relu(x) ** 2,
    "elu": lambda x: torch.where(x >= 0, x + 1, torch.exp(x)),
    "exp": torch.exp,
    "silu": torch.nn.functional.silu,
    "sigmoid": torch.sigmoid,
    "softmax": lambda x: torch.softmax(x, -1),
    "taylor": taylor,
    "dpfp:1": lambda x: dpfp(x, 1),
    "dpfp:3": lambda x: dpfp(x, 3),
}
# The map, and the rows of W.
PROJECTED = {
    "t2r:5": (t2r, 5),
    "hedgehog": (hedgehog, D),
    "hedgehog-joint": (hedgehog_joint, D),
    "product:5": (product, 10),
    "favor:7": (favor, 7),
    "favor-hyperbolic:8": (favor_hyperbolic, 4),
    "fourier:8": (fourier, 4),
}

tensors = {"x": X}
x = X.double()
for name, phi in PLAIN.items():
    tensors[name] = phi(x)
    tensors[f"l2 {name}"] = phi(l2_norm(x))
for name, (phi, rows) in PROJECTED.items():
    # Numbers of f32, so that both sides have the same.
    w, b = torch.randn(rows, D), torch.randn(rows)
    if "favor" in name or name.startswith("fourier"):
        b = torch.zeros(rows)
    tensors[f"{name} weight"], tensors[f"{name} bias"] = w, b
    tensors[name] = phi(x, w.double(), b.double())
    tensors[f"l2 {name}"] = phi(l2_norm(x), w.double(), b.double())
path = pathlib.Path(__file__).with_suffix(".safetensors")
save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)
