"""flash-linear-attention's functions of the rules gated and gated-delta, as nvidia.py times them.

Signatures are those of `fla-org/flash-linear-attention`, `fla/ops`, as of version 0.5.2.
"""

import rules

# Rule, whether each row of the state has a decay of its own, module, function, whether it is meant
# for single tokens. What is meant for prefill is left out where T is 1.
FUNCTIONS = [
    ("gated", False, "fla.ops.simple_gla", "chunk_simple_gla", False),
    ("gated", False, "fla.ops.simple_gla", "fused_recurrent_simple_gla", True),
    ("gated", True, "fla.ops.gla", "chunk_gla", False),
    ("gated", True, "fla.ops.gla", "fused_recurrent_gla", True),
    ("gated-delta", False, "fla.ops.gated_delta_rule", "chunk_gated_delta_rule", False),
    ("gated-delta", False, "fla.ops.gated_delta_rule", "fused_recurrent_gated_delta_rule", True),
    ("gated-delta", True, "fla.ops.kda", "chunk_kda", False),
    ("gated-delta", True, "fla.ops.kda", "fused_recurrent_kda", True),
]


def call(function, name):
    """A call of a function on rules.Inputs."""

    def run(inputs):
        q, k = inputs.q, inputs.k
        rest = {} if inputs.beta is None else {"beta": inputs.beta}
        if inputs.state is not None:
            rest |= {"initial_state": inputs.state, "output_final_state": True}
        # fused_recurrent_gla has a decay for rows (gk) and one for columns (gv).
        decay = "gk" if name == "fused_recurrent_gla" else "g"
        return function(q, k, inputs.v, **{decay: inputs.decay}, scale=q.shape[-1] ** -0.5,
                        **rest)[0]

    return run


def for_gated(inputs):
    """q and k for every value head: the functions without beta have no grouped heads."""
    repeated = inputs.first_tokens(inputs.v.shape[1])
    repeated.q, repeated.k = (rules.for_value_heads(x, inputs.v.shape[2], 2)
                              for x in (inputs.q, inputs.k))
    return repeated


def peers(functions, rule, shape, inputs_of):
    """Name, call and inputs for each function of a rule; `inputs_of(per_row)` draws the inputs."""
    grouped = shape[3] != shape[2]
    for of, per_row, _, name, is_step in FUNCTIONS:
        if of != rule or name not in functions or (shape[1] == 1 and not is_step):
            continue
        inputs, said = inputs_of(per_row), "row" if per_row else "head"
        title = f"fla {name}, a decay for each {said}"
        if rule == "gated" and grouped:
            inputs, title = for_gated(inputs), f"{title}, q and k repeated before"
        yield title, call(functions[name], name), inputs
