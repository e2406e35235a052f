"""What the peer scripts share: shapes, the definition to check against, the file they print."""

import datetime
import json
import sys

import torch

EPS = 1e-6
CHECKED_TOKENS = 512


def parse_shape(text):
    """`B,T,H,K[,V]`, or `B,FIRST..LAST,H,K[,V]` with T doubling, to a list of (B,T,H,K,V)."""
    try:
        b, t, h, k, *rest = text.split(",")
        (v,) = rest or [k]
        first, _, last = t.partition("..")
        b, h, k, v, t, last = (int(x) for x in (b, h, k, v, first, last or first))
    except ValueError:
        t = 0
    if t < 1 or min(b, h, k, v) < 1 or last < t:
        raise SystemExit(
            f"--shape: expected B,T,H,K[,V] or B,FIRST..LAST,H,K[,V] with sizes above 0, found {text}"
        )
    shapes = []
    while t <= last:
        shapes.append((b, t, h, k, v))
        t *= 2
    return shapes


def parse_shapes(texts):
    """Every shape of every text, each once, in order."""
    return list(dict.fromkeys(shape for text in texts for shape in parse_shape(text)))


def parse_step(text):
    """`N,H,K[,V]`, a step of decoding, to (N,1,H,K,V)."""
    try:
        n, h, k, *rest = text.split(",")
        (v,) = rest or [k]
        n, h, k, v = (int(x) for x in (n, h, k, v))
    except ValueError:
        n = 0
    if n < 1 or min(h, k, v) < 1:
        raise SystemExit(f"--decode: expected N,H,K[,V] with sizes above 0, found {text}")
    return n, 1, h, k, v


def feature_map(x):
    """elu + 1."""
    return torch.nn.functional.elu(x) + 1


def feature_map_exact(x):
    """The same without the cancellation that elu(x) + 1 has below zero; for the definition."""
    return torch.where(x >= 0, x + 1, x.clamp(max=0).exp())


def definition(q, k, v, normalize=True, state=None):
    """Causal linear attention in f64 by its definition, which costs the square of T.

    q, k [B,H,T,K] after the feature map, v [B,H,T,V], state (mu [B,H,K,V], nu [B,H,K]) or
    None; returns o [B,H,T,V].
    """
    q, k, v = (x.double() for x in (q, k, v))
    scores = (q @ k.transpose(-1, -2)).tril()
    o, denominator = scores @ v, scores.sum(-1, keepdim=True)
    if state is not None:
        mu, nu = (x.double() for x in state)
        o, denominator = o + q @ mu, denominator + q @ nu.unsqueeze(-1)
    return o / (denominator + EPS) if normalize else o


def relative_error(found, expected):
    """The largest difference over the largest expected number."""
    return ((found.double() - expected).abs().max() / expected.abs().max()).item()


def row(peer, shape, dtype, computes="linear", update_rule="linear", value_heads=None, **rest):
    """A row as `linear-attention bench --against` reads it, with H value heads unless given."""
    b, t, h, k, v = shape
    sizes = {"b": b, "t": t, "h": h, "g": h, "e": value_heads or h, "k": k, "v": v}
    made = {"peer": peer, "update_rule": update_rule, **sizes, "dtype": dtype,
            "computes": computes, **rest}
    if "ms" in made:
        made["tokens_s"] = 1e3 * b * t / made["ms"]
    return made


def print_report(adapter, driver, rows, **rest):
    """The whole file, on standard output."""
    date = datetime.datetime.now(datetime.timezone.utc).date().isoformat()
    report = {"adapter": adapter, "driver": driver, "date": date, **rest, "rows": rows}
    print(json.dumps(report, indent=2))


def note(text):
    """What a person watching wants to know, off the file."""
    print(text, file=sys.stderr, flush=True)
