"""The rules gated and gated-delta in PyTorch, from the formulas: a recurrence to check against, the
chunked forms, and a step of decoding.

With q, k [..,K], v [..,V] and a = exp(decay), which is a number for each head or for each row of
the state mu, a token does

    mu = a mu
    u = v,  or with beta  u = beta (v - k mu)
    mu = mu + k^T u
    o = q mu / sqrt(K)

Value head e reads query and key head e / (E/H). In chunks, with G the running sum of the decays in
the chunk, D[t,s] = exp(G_t - G_s) where s <= t, else 0, and S the state before the chunk:

    L = strict_tril(beta (K K^T * D))
    U = (I + L)^-1 [beta V] - (I + L)^-1 [beta e^G K] S          or, without beta, U = V
    O = (e^G Q S + (Q K^T * D) U) / sqrt(K)
    S = e^{G_C} S + (e^{G_C - G} K)^T U

Only differences that are not positive are exponentiated, so nothing overflows.
"""

import torch

RULES = ["gated", "gated-delta"]
# B, T, H, E, K, V. Heads of Qwen3-Next, and of Qwen3.6-27B; as many value heads as key heads;
# lightning attention; Mamba-2's default, whose groups are the heads of q and k.
DEFAULT_SHAPES = {
    "gated-delta": ["1,4096,16:32,128", "1,4096,16:48,128", "1,4096,16,128", "1,1,16:32,128",
                    "32,1,16:32,128"],
    "gated": ["1,4096,16:32,128", "1,4096,64,128", "1,4096,8:128,128,64", "1,1,64,128"],
}


def parse_shape(text):
    """`B,T,H[:E],K[,V]`, for H query and key heads and E value heads, to (B,T,H,E,K,V)."""
    try:
        b, t, heads, k, *rest = text.split(",")
        (v,) = rest or [k]
        h, _, e = heads.partition(":")
        shape = tuple(int(x) for x in (b, t, h, e or h, k, v))
    except ValueError:
        shape = (0,)
    if min(shape) < 1 or shape[3] % shape[2]:
        raise SystemExit("--shape: expected B,T,H[:E],K[,V] with sizes above 0 and E a multiple of "
                         f"H, found {text}")
    return shape


def parse_step(text):
    """`N,H[:E],K[,V]`, a step of decoding, to (N,1,H,E,K,V)."""
    n, _, rest = text.partition(",")
    return parse_shape(f"{n},1,{rest}")


class Inputs:
    """q, k [B,T,H,K], v [B,T,E,V], decay [B,T,E] or [B,T,E,K] in log space, beta [B,T,E] or None,
    and for one token a state [B,E,K,V].

    q and k have an L2 norm of 1, as in every model with a delta rule. Decays are -A dt, with A and
    dt of the ranges that Mamba-2 and Gated DeltaNet are initialised with.
    """

    def __init__(self, shape, rule, dtype=torch.float32, device="cpu", per_row=False):
        b, t, h, e, key_dim, value_dim = shape
        draw = lambda *sizes: torch.rand(*sizes, device=device) * 2 - 1
        unit = torch.nn.functional.normalize
        self.q, self.k = (unit(draw(b, t, h, key_dim), dim=-1).to(dtype) for _ in range(2))
        self.v = draw(b, t, e, value_dim).to(dtype)
        dt = 1e-3 * 100 ** torch.rand(b, t, e, *[key_dim] * per_row, device=device)
        self.decay = -16 * torch.rand(e, *[1] * per_row, device=device) * dt
        self.beta = torch.rand(b, t, e, device=device).to(dtype) if rule == "gated-delta" else None
        self.state = draw(b, e, key_dim, value_dim) if t == 1 else None

    def first_tokens(self, count):
        """The same, cut to the tokens that are checked."""
        cut = object.__new__(Inputs)
        for name in ("q", "k", "v", "decay", "beta"):
            x = getattr(self, name)
            setattr(cut, name, x if x is None else x[:, :count].contiguous())
        cut.state = self.state
        return cut

    def heads_first(self):
        """q, k [B,H,T,K], v [B,E,T,V], decay, beta [B,E,T], contiguous."""
        tensors = (self.q, self.k, self.v, self.decay, self.beta)
        return [x if x is None else x.transpose(1, 2).contiguous() for x in tensors]


def for_value_heads(x, value_heads, dim=1):
    """Each head as often as value heads read it, neighbours together."""
    times = value_heads // x.shape[dim]
    return x if times == 1 else x.repeat_interleave(times, dim)


def recurrence(inputs, scale=None):
    """o [B,T,E,V] and the last state [B,E,K,V] in f64, a token after the other."""
    q, k, v, decay, beta = (x if x is None else x.double() for x in inputs.heads_first())
    b, e, t, value_dim = v.shape
    q, k = (for_value_heads(x, e) for x in (q, k))
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    state = q.new_zeros(b, e, q.shape[-1], value_dim)
    if inputs.state is not None:
        state = inputs.state.double()
    rows = []
    for i in range(t):
        # [B,E,1,1], or [B,E,K,1] where each row has its own.
        state = state * decay[:, :, i].exp().reshape(b, e, -1, 1)
        u = v[:, :, i, None]
        if beta is not None:
            u = beta[:, :, i, None, None] * (u - k[:, :, i, None] @ state)
        state = state + k[:, :, i, :, None] * u
        rows.append(scale * (q[:, :, i, None] @ state).squeeze(-2))
    return torch.stack(rows, 1), state


def chunked(q, k, v, decay, beta, size):
    """q, k [B,H,T,K], v [B,E,T,V], decay, beta [B,E,T] to o [B,E,T,V]; T a multiple of the size."""
    b, e, t, value_dim = v.shape
    key_dim = q.shape[-1]
    q, k, v = (x.reshape(b, x.shape[1], -1, size, x.shape[-1]) for x in (q * key_dim**-0.5, k, v))
    total = decay.reshape(b, e, -1, size).cumsum(-1)
    ahead = torch.ones(size, size, dtype=torch.bool, device=q.device).triu(1)
    # Masked before the exponential: a difference ahead of the token is positive.
    between = (total.unsqueeze(-1) - total.unsqueeze(-2)).masked_fill(ahead, -torch.inf).exp()
    weights = for_value_heads(q @ k.transpose(-1, -2), e) * between
    alike = for_value_heads(k @ k.transpose(-1, -2), e) if beta is not None else None
    q, k = (for_value_heads(x, e) for x in (q, k))
    since_start, to_end = total.exp().unsqueeze(-1), (total[..., -1:] - total).exp().unsqueeze(-1)
    kept = total[..., -1, None, None].exp()
    if beta is None:
        return gated_outputs(q * since_start, k * to_end, v, kept, weights).reshape(b, e, t, -1)
    beta = beta.reshape(b, e, -1, size, 1)
    sides = torch.cat([v, k * since_start], -1) * beta
    # Forward substitution. It reads what is below the diagonal alone, and takes that to be 1.
    solved = torch.linalg.solve_triangular(
        alike * between * beta, sides, upper=False, unitriangular=True)
    u, w = solved.split([value_dim, key_dim], -1)
    q, k = q * since_start, (k * to_end).transpose(-1, -2)
    state, o = v.new_zeros(b, e, key_dim, value_dim), torch.empty_like(v)
    for i in range(v.shape[2]):
        written = u[:, :, i] - w[:, :, i] @ state
        o[:, :, i] = q[:, :, i] @ state + weights[:, :, i] @ written
        state = kept[:, :, i] * state + k[:, :, i] @ written
    return o.reshape(b, e, t, -1)


def gated_outputs(q, k, v, kept, weights):
    """The same without beta, where the states of all chunks are known before any output is."""
    added = k.transpose(-1, -2) @ v
    states = torch.empty_like(added)
    state = torch.zeros_like(added[:, :, 0])
    for i in range(v.shape[2]):
        states[:, :, i] = state
        state = kept[:, :, i] * state + added[:, :, i]
    return q @ states + weights @ v


def step(q, k, v, decay, beta, state, in_place):
    """One token for each of B E heads: q, k [BE,K], v [BE,V], decay, beta [BE], state [BE,K,V].

    Returns o [BE,V] and the state, which without `in_place` is a new one.
    """
    kept, k = decay.exp()[:, None, None], k.unsqueeze(-1)
    state = state.mul_(kept) if in_place else state * kept
    u = v.unsqueeze(-2)
    if beta is not None:
        u = beta[:, None, None] * (u - k.transpose(-1, -2) @ state)
    state = state.baddbmm_(k, u)
    return (q.unsqueeze(-2) * q.shape[-1] ** -0.5 @ state).squeeze(-2), state
