#!/usr/bin/env python3
"""Times flash-linear-attention and PyTorch's softmax attention on an NVIDIA GPU and prints the
rows that `linear-attention bench --against` reads.

    pip install torch flash-linear-attention
    python3 benches/peers/nvidia.py > nvidia.json
    linear-attention bench --against nvidia.json

Peers, in f32 and bf16, layout [B, T, H, D], forward alone:

- `chunk_linear_attn` and `fused_recurrent_linear_attn` of flash-linear-attention, normalised and
  not, scale 1. It has no feature map, so each has two rows: "map before" is given q and k to
  which elu + 1 was applied before the clock started, "map timed" applies it while it runs.
  A single token is timed with a state that goes in and comes out.
- `scaled_dot_product_attention(is_causal=True)` of PyTorch: softmax attention, without a map.

With --update-rule, its functions of the rules gated and gated-delta in their place, which
fla_rules.py names, with a decay for each head and for each row of the state; --shape is then
B,T,H:E,K,V, with E value heads. Decays are f32, q, k, v and beta of the row's type.

`ms` is the median and `min_ms` the least by CUDA events around each call, warm, with the calls
enqueued one after the other: where a call is shorter than its launch, the launch is what is
measured, as a caller would see it. Each peer is first checked against the definition in f64 on
its first tokens; `max_error` is the largest error over the largest output. f32 peers may multiply
in TF32 inside their kernels, which shows there. A peer that fails has an `error` in place
of its times, and the others go on.
"""

import argparse
import importlib
import statistics

try:
    import torch
except ImportError:
    raise SystemExit("PyTorch is not installed: pip install torch flash-linear-attention") from None

import fla_rules
import rules
from common import (
    CHECKED_TOKENS, definition, feature_map, feature_map_exact, note, parse_shapes, print_report,
    relative_error, row,
)

DEFAULT_SHAPES = [
    "1,4096,8,64", "1,16384,8,64", "1,8192,4,128", "1,65536,16,128", "8,4096,16,64",
    "8,4096,16,128", "32,1024,16,128", "1,1,32,128", "32,1,32,128", "256,1,32,128",
]
# f32 kernels may multiply in TF32, whose ten bits the first of these allows for.
DTYPES = {"F32": (torch.float32, 1e-2), "BF16": (torch.bfloat16, 5e-2)}
WARM_UPS = 5
# A row is measured for about so long, with at least and at most so many calls.
SECONDS, LEAST, MOST = 1.0, 5, 200


class Inputs:
    """q, k, v [B,T,H,D], q and k also after the map, and for one token a state."""

    def __init__(self, shape, dtype, device):
        b, t, h, key_dim, value_dim = shape
        draw = lambda *sizes: torch.rand(*sizes, device=device) * 2 - 1
        self.q, self.k, self.v = (draw(b, t, h, d).to(dtype) for d in (key_dim, key_dim, value_dim))
        self.mapped = feature_map(self.q), feature_map(self.k)
        self.state = None
        if t == 1:
            self.state = draw(b, h, key_dim, value_dim), draw(b, h, key_dim).abs() + 0.5

    def first_tokens(self, count):
        """The same, cut to the tokens that are checked; tokens before the cut see no others."""
        cut = object.__new__(Inputs)
        cut.q, cut.k, cut.v = (x[:, :count].contiguous() for x in (self.q, self.k, self.v))
        cut.mapped = tuple(x[:, :count].contiguous() for x in self.mapped)
        cut.state = self.state
        return cut


def heads_first(*tensors):
    return tuple(x.transpose(1, 2) for x in tensors)


def expected_linear(inputs, normalize, map_timed):
    """The definition's o [B,T,H,V], from what the peer is given: mapped values are rounded."""
    mapped = [feature_map_exact(x.double()) for x in (inputs.q, inputs.k)]
    q, k = mapped if map_timed else inputs.mapped
    o = definition(*heads_first(q, k, inputs.v), normalize=normalize, state=inputs.state)
    return o.transpose(1, 2)


def expected_softmax(inputs):
    q, k, v = (x.double() for x in heads_first(inputs.q, inputs.k, inputs.v))
    scores = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5
    ahead = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).triu(1)
    return (scores.masked_fill(ahead, -torch.inf).softmax(-1) @ v).transpose(1, 2)


def linear(function, normalize, map_timed):
    """A call of one of flash-linear-attention's functions on inputs."""

    def call(inputs):
        q, k = (feature_map(inputs.q), feature_map(inputs.k)) if map_timed else inputs.mapped
        state = {}
        if inputs.state is not None:
            mu, nu = inputs.state
            initial = (mu, nu.unsqueeze(1)) if normalize else mu
            state = {"initial_state": initial, "output_final_state": True}
        return function(q, k, inputs.v, scale=1.0, normalize=normalize, **state)[0]

    return call


def softmax(inputs):
    """The layout is [B,T,H,D] as for the others: heads are brought forward by strides alone."""
    attention = torch.nn.functional.scaled_dot_product_attention
    return attention(*heads_first(inputs.q, inputs.k, inputs.v), is_causal=True).transpose(1, 2)


def peers(functions, shape):
    """Name, what it computes, how it is called and what must come out, for each peer."""
    for name, function in functions.items():
        for normalize in (True, False):
            for map_timed in (True, False):
                said = "normalised" if normalize else "not normalised"
                yield (
                    f"{name}, {said}, map {'timed' if map_timed else 'before'}", "linear",
                    linear(function, normalize, map_timed),
                    lambda inputs, n=normalize, m=map_timed: expected_linear(inputs, n, m),
                )
    if shape[1] > 1:
        yield "PyTorch softmax attention", "softmax", softmax, expected_softmax


def time_ms(run, seconds=SECONDS):
    """The median and the least, by events on the device's own clock."""
    event = lambda: torch.cuda.Event(enable_timing=True)

    def timed(count):
        pairs = [(event(), event()) for _ in range(count)]
        for begin, end in pairs:
            begin.record()
            run()
            end.record()
        torch.cuda.synchronize()
        return [begin.elapsed_time(end) for begin, end in pairs]

    once = max(statistics.median(timed(WARM_UPS)), 1e-3)
    times = timed(int(min(max(1e3 * seconds / once, LEAST), MOST)))
    return {"ms": statistics.median(times), "min_ms": min(times)}


def measured(name, computes, call, expect, inputs, shape, dtype_name, tolerance, **said):
    """The row of a peer; of a failure what went wrong, for the others go on."""
    try:
        first = inputs.first_tokens(CHECKED_TOKENS)
        error = relative_error(call(first), expect(first))
        if not error <= tolerance:
            raise ValueError(f"expected an error of at most {tolerance:.0e}, found {error:.1e}")
        return row(name, shape, dtype_name, computes, max_error=error, **said,
                   **time_ms(lambda: call(inputs)))
    except Exception as error:  # Whatever a peer may raise is its row's, not this script's.
        text = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        note(f"{name}, {shape}, {dtype_name}: {text}")
        return row(name, shape, dtype_name, computes, error=text, **said)


def rule_rows(functions, rule, shape, dtype_name, device="cuda"):
    """A row for each function of a rule, for a shape (B,T,H,E,K,V)."""
    dtype, tolerance = DTYPES[dtype_name]
    b, t, h, e, key_dim, value_dim = shape
    expect = lambda inputs: rules.recurrence(inputs)[0]
    of = lambda per_row: rules.Inputs(shape, rule, dtype, device, per_row)
    sizes, said = (b, t, h, key_dim, value_dim), {"update_rule": rule, "value_heads": e}
    try:
        for name, call, inputs in fla_rules.peers(functions, rule, shape, of):
            yield measured(name, "linear", call, expect, inputs, sizes, dtype_name, tolerance,
                           **said)
    except torch.cuda.OutOfMemoryError as error:
        yield row("inputs", sizes, dtype_name, error=str(error)[:300], **said)


def ceilings():
    """What the device does at most: bytes of a copy, and operations of square matrix products."""
    source = torch.empty(1 << 28, device="cuda")
    target = torch.empty_like(source)
    bytes_moved = 2 * source.numel() * source.element_size()
    found = {"copy_gb_s": 1e-6 * bytes_moved / time_ms(lambda: target.copy_(source))["ms"]}
    del source, target
    size = 8192
    allowed = torch.backends.cuda.matmul.allow_tf32
    for name, dtype, tf32 in [
        ("matmul_f32_gflop_s", torch.float32, False),
        ("matmul_tf32_gflop_s", torch.float32, True),
        ("matmul_bf16_gflop_s", torch.bfloat16, allowed),
    ]:
        torch.backends.cuda.matmul.allow_tf32 = tf32
        a, b = (torch.rand(size, size, device="cuda", dtype=dtype) for _ in range(2))
        found[name] = 1e-6 * 2 * size**3 / time_ms(lambda: a @ b)["ms"]
    torch.backends.cuda.matmul.allow_tf32 = allowed
    return found


def self_test():
    """What needs no GPU: the definitions against a recurrence and against PyTorch, on the CPU."""
    torch.manual_seed(0)
    shape = 2, 37, 3, 8, 5
    inputs = Inputs(shape, torch.float64, "cpu")
    q, k, v = heads_first(*inputs.mapped, inputs.v)
    for normalize in (True, False):
        for state in (None, (torch.rand(2, 3, 8, 5), torch.rand(2, 3, 8))):
            mu, nu = (x.double().clone() for x in state or (torch.zeros(2, 3, 8, 5), torch.zeros(2, 3, 8)))
            rows = []
            for t in range(shape[1]):
                mu = mu + k[:, :, t, :, None] * v[:, :, t, None, :]
                nu = nu + k[:, :, t]
                o = (q[:, :, t, None] @ mu).squeeze(-2)
                rows.append(o / ((q[:, :, t] * nu).sum(-1, keepdim=True) + 1e-6) if normalize else o)
            found = definition(q, k, v, normalize=normalize, state=state)
            assert relative_error(torch.stack(rows, 2), found) < 1e-12
    for map_timed in (True, False):
        assert relative_error(expected_linear(inputs, True, map_timed).transpose(1, 2),
                              definition(q, k, v)) < 1e-12
    assert relative_error(softmax(inputs), expected_softmax(inputs)) < 1e-12
    long = Inputs((1, CHECKED_TOKENS + 1, 1, 2, 2), torch.float32, "cpu")
    first = long.first_tokens(CHECKED_TOKENS)
    assert first.q.shape == (1, CHECKED_TOKENS, 1, 2) and first.state is None
    decode = Inputs((2, 1, 3, 8, 5), torch.float32, "cpu")

    # As flash-linear-attention takes and returns them, so that the calls themselves are tested.
    def one_token(q, k, v, scale, normalize, initial_state, output_final_state):
        mu, nu = initial_state if normalize else (initial_state, None)
        mu = mu + k[:, 0, :, :, None] * v[:, 0, :, None, :]
        o = (q[:, 0, :, None] @ mu).transpose(1, 2)
        if normalize:
            o = o / (q * (nu + k)).sum(-1, keepdim=True)
        return scale * o, output_final_state

    for name, computes, call, expect in peers({"one token": one_token}, (2, 1, 3, 8, 5)):
        assert computes == "linear" and relative_error(call(decode), expect(decode)) < 1e-5, name
    rules_self_test()
    print("self-test: 1 passed")


def rules_self_test():
    """The chunked form and the step against the recurrence, and calls of functions that take what
    flash-linear-attention's take."""

    def stand_in(q, k, v, scale, g=None, gk=None, beta=None, initial_state=None,
                 output_final_state=False):
        made = object.__new__(rules.Inputs)
        made.q, made.k, made.v, made.beta, made.state = q, k, v, beta, initial_state
        made.decay = gk if g is None else g
        return rules.recurrence(made, scale)[0], output_final_state

    functions = {name: stand_in for _, _, _, name, _ in fla_rules.FUNCTIONS}
    for rule in rules.RULES:
        shape = 2, 64, 2, 6, 8, 5
        inputs = rules.Inputs(shape, rule, torch.float64)
        inputs.decay = inputs.decay.double()
        o, state = rules.recurrence(inputs)
        for size in (16, 64):
            found = rules.chunked(*inputs.heads_first(), size).transpose(1, 2)
            assert relative_error(found, o) < 1e-12, (rule, size)
        # Each token as a step from the state that the tokens before it left.
        before = inputs.first_tokens(63)
        flat = [x if x is None else rules.for_value_heads(x[:, 63], 6).flatten(0, 1)
                for x in (inputs.q, inputs.k, inputs.v, inputs.decay, inputs.beta)]
        for in_place in (True, False):
            kept = rules.recurrence(before)[1].flatten(0, 1)
            found, last = rules.step(*flat, kept, in_place)
            assert relative_error(found, o[:, 63].flatten(0, 1)) < 1e-12, (rule, in_place)
            assert relative_error(last, state.flatten(0, 1)) < 1e-12, (rule, in_place)
        for shape in ((1, 9, 2, 4, 8, 5), (2, 1, 2, 4, 8, 5)):
            calls = list(fla_rules.peers(functions, rule, shape, lambda per_row: rules.Inputs(
                shape, rule, per_row=per_row)))
            assert len(calls) == (2 if shape[1] == 1 else 4), (rule, shape)
            for name, call, inputs in calls:
                assert relative_error(call(inputs), rules.recurrence(inputs)[0]) < 1e-12, name


def fla_functions(rule):
    """flash-linear-attention's functions by name, as far as they can be imported; versions."""
    functions, versions = {}, f"PyTorch {torch.__version__}, CUDA {torch.version.cuda}"
    wanted = [("fla.ops.linear_attn", name)
              for name in ("chunk_linear_attn", "fused_recurrent_linear_attn")]
    if rule != "linear":
        wanted = [(module, name) for of, _, module, name, _ in fla_rules.FUNCTIONS if of == rule]
    for module, name in wanted:
        try:
            key = f"fla {name}" if rule == "linear" else name
            functions[key] = getattr(importlib.import_module(module), name)
        except Exception as error:  # Triton, which it imports, raises more than ImportError.
            note(f"{name} is not measured, for it cannot be imported: {error}")
            note("pip install flash-linear-attention")
    if functions:
        version = getattr(importlib.import_module("fla"), "__version__", "unknown")
        versions += f", flash-linear-attention {version}"
    return functions, versions


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--shape", action="append", metavar="B,T,H,K[,V]",
                        help="any number of times; T may be FIRST..LAST, which doubles")
    parser.add_argument("--update-rule", choices=["linear", *rules.RULES], default="linear")
    parser.add_argument("--dtype", action="append", choices=DTYPES, help="default: both")
    parser.add_argument("--self-test", action="store_true",
                        help="check what needs no GPU, on the CPU, and measure nothing")
    args = parser.parse_args()
    if args.self_test:
        self_test()
        return
    rule = args.update_rule
    if rule == "linear":
        shapes = parse_shapes(args.shape or DEFAULT_SHAPES)
    else:
        shapes = [rules.parse_shape(text) for text in args.shape or rules.DEFAULT_SHAPES[rule]]
    if not torch.cuda.is_available():
        raise SystemExit("no CUDA device: expected an NVIDIA GPU and a PyTorch built for it; "
                         "benches/peers/torch_cpu.py measures on the CPU")
    functions, versions = fla_functions(rule)
    torch.manual_seed(0)
    rows = []
    with torch.inference_mode():
        try:
            limits = ceilings()
        except Exception as error:  # They are for context alone.
            note(f"no ceilings: {error}")
            limits = {}
        for shape in shapes:
            for dtype_name in args.dtype or DTYPES:
                dtype, tolerance = DTYPES[dtype_name]
                note(f"measuring {shape}, {dtype_name}")
                if rule != "linear":
                    rows += rule_rows(functions, rule, shape, dtype_name)
                    continue
                try:
                    inputs = Inputs(shape, dtype, "cuda")
                except torch.cuda.OutOfMemoryError as error:
                    rows.append(row("inputs", shape, dtype_name, error=str(error)[:300]))
                    continue
                for peer in peers(functions, shape):
                    rows.append(measured(*peer, inputs, shape, dtype_name, tolerance))
    print_report(torch.cuda.get_device_name(), versions, rows, **limits)


if __name__ == "__main__":
    main()
