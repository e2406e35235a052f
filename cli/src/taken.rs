//! A command takes some tensors of a file, and refuses any other by name.

use linear_attention::Config;
use safetensors::SafeTensors;

use crate::rule::RuleName;

/// Softmax attention and every map are computed from these.
const COMPARED: [&str; 5] = ["q", "k", "v", "cu_seqlens", "attention_mask"];

/// Names that other programs give to these tensors, and the names that they have here.
const OTHER_NAMES: [(&str, &str); 5] = [
    ("g", "decay"),
    ("gk", "decay"),
    ("log_decay", "decay"),
    ("initial_state", "initial_mu"),
    ("h0", "initial_mu"),
];

/// Refuses a tensor that `run` would not use with `config`, whose rule has this name if the caller
/// gave one, and says what it takes.
pub(crate) fn check_run(
    tensors: &SafeTensors<'_>,
    config: &Config,
    named: Option<RuleName>,
) -> Result<(), String> {
    let has = |name: &str| tensors.tensor(name).is_ok();
    let rule = config.update_rule;
    let mut taken = COMPARED.to_vec();
    // Without a named rule each of them is taken: the file then implies another rule.
    let any_rule = named.is_none();
    taken.extend((any_rule || rule.decay().is_some()).then_some("decay"));
    taken.extend((any_rule || rule.beta().is_some()).then_some("beta"));
    taken.push("initial_mu");
    taken.extend(config.is_normalized().then_some("initial_nu"));
    let maps = [config.key_map(), config.query_map()];
    for (map, names) in
        maps.into_iter().zip([["key_weight", "key_bias"], ["query_weight", "query_bias"]])
    {
        if map.projections(config.key_dim) > 0 {
            // A bias without its weight would go unread.
            taken.extend(&names[..if has(names[0]) { 2 } else { 1 }]);
        }
    }
    refuse_others(tensors, &taken, |name| match name {
        "initial_nu" => Some("o is not normalised".to_owned()),
        "decay" | "beta" => Some(format!("the update rule is {}", rule.name())),
        "key_bias" | "query_bias" if taken.contains(&name.replace("bias", "weight").as_str()) => {
            Some(format!("the file has no {}", name.replace("bias", "weight")))
        }
        "key_weight" | "key_bias" | "query_weight" | "query_bias" => {
            Some("the feature map has no weights".to_owned())
        }
        _ => None,
    })
}

/// Refuses a tensor that `compare` would not use.
pub(crate) fn check_compare(tensors: &SafeTensors<'_>) -> Result<(), String> {
    refuse_others(tensors, &COMPARED, |name| match name {
        "decay" | "beta" => Some("softmax attention has no update rule".to_owned()),
        "initial_mu" | "initial_nu" => Some("softmax attention begins with no state".to_owned()),
        "key_weight" | "key_bias" | "query_weight" | "query_bias" => {
            Some("weights are drawn for every map that has any".to_owned())
        }
        _ => None,
    })
}

fn refuse_others(
    tensors: &SafeTensors<'_>,
    taken: &[&str],
    why: impl Fn(&str) -> Option<String>,
) -> Result<(), String> {
    let mut names = tensors.names();
    names.sort_unstable();
    let Some(other) = names.into_iter().find(|name| !taken.contains(name)) else { return Ok(()) };
    let why = why(other).map(|why| format!(", since {why}")).unwrap_or_default();
    let here = OTHER_NAMES.iter().find(|(name, _)| *name == other);
    let here = match here {
        Some((_, here)) if taken.contains(here) => format!("; here {other} is called {here}"),
        _ => String::new(),
    };
    let taken = taken.join(", ");
    Err(format!("tensor {other}: expected none{why}, found one (it takes {taken}{here})"))
}
