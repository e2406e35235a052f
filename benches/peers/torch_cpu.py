#!/usr/bin/env python3
"""Times PyTorch's chunked linear attention on the CPU and prints the rows that
`linear-attention bench --against` reads.

    pip install torch
    python3 benches/peers/torch_cpu.py > peers.json
    linear-attention bench --against peers.json

What is timed is the chunked form as a user of PyTorch would write it: elu + 1, one
matrix product for each of scores, outputs and chunk states, `cumsum` over the chunks,
`tril` for the mask, the division at the end; f32, inputs already laid out [B, H, T, D].
A single token is timed as a step of decoding: `baddbmm` for mu, a sum for nu, `bmm` for o, once
with the state updated in place and once with a new state, as `torch.baddbmm` gives it. --decode
adds such shapes.
With --update-rule, the rules gated and gated-delta are timed in place of linear attention: chunked,
and a step of decoding, as rules.py has them; --shape is then B,T,H:E,K,V, with E value heads.
With --softmax, causal softmax attention (scaled_dot_product_attention) is timed too, where
a call takes at most a few seconds. Each shape is first checked against the definition in f64
on its first tokens.

`ms` is the median and `min_ms` the least: new pages make single calls take twice as long.
"""

import argparse
import os
import statistics
import time

import torch

import rules
from common import (
    CHECKED_TOKENS, EPS, definition, feature_map, feature_map_exact, note, parse_shapes, parse_step,
    print_report, relative_error, row,
)

DEFAULT_SHAPES = ["1,4096,8,64", "1,16384,8,64", "1,8192,4,128", "1,1,32,128", "32,1,32,128"]
CHUNKS = [64, 128]
RULE_CHUNKS = [32, 64]
TOLERANCE = 2e-5
WARM_UPS = 3
# Tokens from whose time that of softmax attention on more of them is foretold.
PROBED_TOKENS = 1024


def chunked(q, k, v, chunk):
    """q, k [B,H,T,K], v [B,H,T,V] to o [B,H,T,V]; T a multiple of the chunk."""
    b, h, t, _ = q.shape
    q, k = feature_map(q), feature_map(k)
    q, k, v = (x.reshape(b, h, t // chunk, chunk, -1) for x in (q, k, v))
    added = k.transpose(-1, -2) @ v
    mu = added.cumsum(2) - added
    added = k.sum(-2, keepdim=True)
    nu = added.cumsum(2) - added
    scores = (q @ k.transpose(-1, -2)).tril()
    o = q @ mu + scores @ v
    denominator = q @ nu.transpose(-1, -2) + scores.sum(-1, keepdim=True) + EPS
    return (o / denominator).reshape(b, h, t, -1)


def step(q, k, v, mu, nu, in_place):
    """One token for each of B H heads: q, k [BH,K], v [BH,V], mu [BH,K,V], nu [BH,K].

    Returns o and the state, which without `in_place` is a new one, as `torch.baddbmm` makes it.
    """
    q, k = feature_map(q), feature_map(k)
    if in_place:
        mu.baddbmm_(k.unsqueeze(-1), v.unsqueeze(-2))
        nu.add_(k)
    else:
        mu, nu = torch.baddbmm(mu, k.unsqueeze(-1), v.unsqueeze(-2)), nu + k
    o = torch.bmm(q.unsqueeze(-2), mu).squeeze(-2)
    return o / ((q * nu).sum(-1, keepdim=True) + EPS), mu, nu


def step_rows(shape, q, k, v, iterations):
    b, _, h, key_dim, value_dim = shape
    mapped = [feature_map_exact(x) for x in (q, k)]
    state = torch.rand(b, h, key_dim, value_dim), torch.rand(b, h, key_dim) + 0.5
    expected = definition(*mapped, v, state=state).reshape(b * h, value_dim)
    flat = [x.reshape(b * h, -1) for x in (q, k, v)]
    mu, nu = state[0].reshape(b * h, key_dim, value_dim), state[1].reshape(b * h, key_dim)
    for name, in_place in (("step in place", True), ("step", False)):
        found, _, _ = step(*flat, mu.clone(), nu.clone(), in_place)
        checked(name, found, expected)
        kept = [mu.clone(), nu.clone()]

        def run():
            _, *kept[:] = step(*flat, *kept, in_place)

        yield row(f"PyTorch CPU, {name}", shape, "F32", **time_ms(run, iterations))


def softmax(q, k, v):
    return torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)


def checked(name, found, expected):
    error = relative_error(found, expected)
    if not error < TOLERANCE:
        raise SystemExit(f"{name}: expected an error below {TOLERANCE:.0e}, found {error:.1e}")


def time_ms(run, iterations):
    """The median and the least, after warm-ups."""
    for _ in range(WARM_UPS):
        run()
    times = []
    for _ in range(iterations):
        start = time.perf_counter()
        run()
        times.append(1e3 * (time.perf_counter() - start))
    return {"ms": statistics.median(times), "min_ms": min(times)}


def linear_rows(shape, q, k, v, iterations):
    b, t, h, key_dim, value_dim = shape
    mapped = [feature_map_exact(x[:, :, :CHECKED_TOKENS]) for x in (q, k)]
    first = [x[:, :, :CHECKED_TOKENS] for x in (q, k, v)]
    if t == 1:
        yield from step_rows(shape, q, k, v, iterations)
        return
    expected = definition(*mapped, first[2])
    for chunk in CHUNKS:
        if t % chunk:
            note(f"{shape}: no row of chunks of {chunk}, which do not divide T")
            continue
        # Sequences shorter than what is checked are whole chunks; longer ones are cut to some.
        checked(f"chunk {chunk}", chunked(*first, chunk), expected)
        yield row(f"PyTorch CPU, C = {chunk}", shape, "F32",
                  **time_ms(lambda: chunked(q, k, v, chunk), iterations))


def softmax_rows(shape, q, k, v, iterations, limit_s):
    t = shape[1]
    probed = min(t, PROBED_TOKENS)
    head = [x[:, :, :probed] for x in (q, k, v)]
    foretold_s = 1e-3 * time_ms(lambda: softmax(*head), 3)["min_ms"] * (t / probed) ** 2
    if foretold_s > limit_s:
        note(f"{shape}: no row of softmax attention, a call would take {foretold_s:.0f} s")
        return
    yield row("PyTorch CPU, softmax attention", shape, "F32", "softmax",
              **time_ms(lambda: softmax(q, k, v), iterations))


def rule_rows(shape, rule, iterations):
    """The rows of a rule with decays, for a shape (B,T,H,E,K,V)."""
    b, t, h, e, key_dim, value_dim = shape
    inputs = rules.Inputs(shape, rule)
    first = inputs.first_tokens(CHECKED_TOKENS)
    expected = rules.recurrence(first)[0].transpose(1, 2)
    made = lambda name, run: row(
        f"PyTorch CPU, {name}", (b, t, h, key_dim, value_dim), "F32", update_rule=rule,
        value_heads=e, **time_ms(run, iterations))
    if t == 1:
        q, k, v, decay, beta = inputs.heads_first()
        q, k = (rules.for_value_heads(x, e) for x in (q, k))
        flat = [x if x is None else x.reshape(b * e, *x.shape[3:]) for x in (q, k, v, decay, beta)]
        state = inputs.state.reshape(b * e, key_dim, value_dim)
        for name, in_place in (("step in place", True), ("step", False)):
            found, _ = rules.step(*flat, state.clone(), in_place)
            checked(name, found, expected.reshape(b * e, value_dim))
            kept = [state.clone()]

            def run():
                kept[0] = rules.step(*flat, kept[0], in_place)[1]

            yield made(name, run)
        return
    whole = inputs.heads_first()
    for chunk in RULE_CHUNKS:
        if t % chunk:
            note(f"{shape}: no row of chunks of {chunk}, which do not divide T")
            continue
        checked(f"chunk {chunk}", rules.chunked(*first.heads_first(), chunk), expected)
        yield made(f"C = {chunk}", lambda: rules.chunked(*whole, chunk))


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--shape", action="append", metavar="B,T,H,K[,V]",
                        help="any number of times; T may be FIRST..LAST, which doubles")
    parser.add_argument("--decode", action="append", metavar="N,H,K[,V]", default=[],
                        help="a step of decoding, any number of times")
    parser.add_argument("--update-rule", choices=["linear", *rules.RULES], default="linear")
    parser.add_argument("--softmax", action="store_true", help="causal softmax attention too")
    parser.add_argument("--softmax-limit", type=float, default=3.0, metavar="SECONDS",
                        help="no row of softmax attention where a call takes longer")
    parser.add_argument("--iterations", type=int, default=10)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    args = parser.parse_args()
    if args.iterations < 1 or args.threads < 1:
        raise SystemExit("--iterations and --threads: expected at least 1")
    if args.softmax and args.update_rule != "linear":
        raise SystemExit("--softmax: expected the rule linear beside it")
    if args.update_rule == "linear":
        steps = [parse_step(text) for text in args.decode]
        shapes = parse_shapes(args.shape or ([] if steps else DEFAULT_SHAPES)) + steps
    else:
        steps = [rules.parse_step(text) for text in args.decode]
        texts = args.shape or ([] if steps else rules.DEFAULT_SHAPES[args.update_rule])
        shapes = [rules.parse_shape(text) for text in texts] + steps
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    rows = []
    with torch.inference_mode():
        for shape in shapes:
            note(f"measuring {shape}")
            if args.update_rule != "linear":
                rows += rule_rows(shape, args.update_rule, args.iterations)
                continue
            b, t, h, k, v = shape
            inputs = [torch.rand(b, h, t, d) * 2 - 1 for d in (k, k, v)]
            rows += linear_rows(shape, *inputs, args.iterations)
            if args.softmax and t > 1:
                rows += softmax_rows(shape, *inputs, args.iterations, args.softmax_limit)
    if not rows:
        raise SystemExit("--shape: expected a T that a chunk divides, found none")
    device = f"PyTorch {torch.__version__}, CPU, {args.threads} threads"
    print_report(device, torch.__version__, rows)


if __name__ == "__main__":
    main()
