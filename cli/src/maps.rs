//! The feature maps of a command's options, and their weights.

use std::fmt;

use linear_attention::error::ConfigError;
use linear_attention::feature_map::{Projection, Weights};
use linear_attention::{Config, FeatureMap};
use safetensors::{Dtype, SafeTensors};

use crate::tensors::{expect_dtype, expect_shape, required, to_f32};

#[derive(clap::Args)]
pub(crate) struct Maps {
    /// φ: identity, relu, relu-squared, elu, exp, silu, sigmoid, softmax, hedgehog,
    /// hedgehog-joint, taylor, dpfp:NU, or of F features t2r:F, product:F, favor:F,
    /// favor-hyperbolic:F, fourier:F
    /// [default: elu with the update rule linear, identity with the others]
    #[arg(long, value_name = "MAP")]
    feature_map: Option<FeatureMap>,
    /// Another φ for q, of as many features
    #[arg(long, value_name = "MAP")]
    query_map: Option<FeatureMap>,
    /// Divide rows of q and k by their lengths before φ
    #[arg(long)]
    l2_norm: bool,
    /// The seed of random features, where the file has no weights
    #[arg(long, value_name = "SEED", default_value_t = 0)]
    pub(crate) seed: u64,
}

impl Maps {
    pub(crate) fn apply(&self, config: &mut Config) {
        if let Some(map) = &self.feature_map {
            config.feature_map = map.clone();
        }
        config.query_feature_map = self.query_map.clone();
        config.l2_norm = self.l2_norm;
    }
}

impl fmt::Display for Maps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let map = |map: &Option<FeatureMap>| map.as_ref().map(ToString::to_string);
        let options =
            [("--feature-map", map(&self.feature_map)), ("--query-map", map(&self.query_map))];
        let given = options.into_iter().filter_map(|(name, map)| Some(format!("{name} {}", map?)));
        write!(f, "{}", given.collect::<Vec<_>>().join(" "))
    }
}

/// The message of an invalid `config`, with the option that names the invalid map.
pub(crate) fn explain(config: &Config, error: &ConfigError) -> String {
    let text = error.to_string();
    let (ConfigError::FeatureMap { feature_map, .. } | ConfigError::Phi { feature_map, .. }) =
        error
    else {
        return text;
    };
    // A map of queries that does not match the map of keys may have the same name.
    let of_queries = text.contains("keys' map") || config.feature_map.name() != feature_map;
    let option = if of_queries { "--query-map" } else { "--feature-map" };
    format!("{option} {}", text.trim_start_matches("feature map "))
}

/// The source of weights that the file does not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Missing {
    /// Random features are drawn from this seed, trained ones asked for.
    DrawRandom(u64),
    /// All are drawn, whatever the file has: trained ones as their initial weights.
    DrawAll(u64),
}

/// The weights that the maps of `config` need: a file's or drawn.
pub(crate) fn weights(
    tensors: &SafeTensors<'_>,
    config: &Config,
    [heads, kv_heads]: [u32; 2],
    missing: Missing,
) -> Result<Option<Weights>, String> {
    if !config.needs_weights() {
        return Ok(None);
    }
    let maps = [config.key_map(), config.query_map()];
    let has = |name| tensors.tensor(name).is_ok();
    let is_random = maps.iter().all(|map| map.is_random() || map.projections(1) == 0);
    let (seed, draws) = match missing {
        Missing::DrawAll(seed) => (seed, true),
        Missing::DrawRandom(seed) => {
            (seed, is_random && !has("key_weight") && !has("query_weight"))
        }
    };
    if draws {
        return Weights::sample(config, seed).map_err(|error| error.to_string());
    }
    let of = |side: &str, map: &FeatureMap, heads| {
        read(tensors, side, map.projections(config.key_dim), config.key_dim, heads).map(Some)
    };
    let [of_keys, of_queries] = maps.map(|map| map.projections(config.key_dim) > 0);
    let keys = if of_keys { of("key", maps[0], kv_heads)? } else { None };
    // Queries may have those of the keys.
    let queries = match of_queries && (has("query_weight") || !of_keys) {
        true => of("query", maps[1], heads)?,
        false => None,
    };
    Ok(Some(Weights::apart(keys, queries)))
}

/// W `[P,K]` or `[heads,P,K]`, and b if the file has one.
fn read(
    tensors: &SafeTensors<'_>,
    side: &str,
    projections: u32,
    key_dim: u32,
    heads: u32,
) -> Result<Projection, String> {
    let (name, bias_name) = (format!("{side}_weight"), format!("{side}_bias"));
    let weight = required(tensors, &name)?;
    let of_heads = weight.shape().len() == 3;
    let shape = |sizes: &[u32]| -> Vec<u32> {
        if of_heads {
            std::iter::once(heads).chain(sizes.iter().copied()).collect()
        } else {
            sizes.to_vec()
        }
    };
    expect_dtype(&name, &weight, Dtype::F32)?;
    expect_shape(&name, &weight, &shape(&[projections, key_dim]))?;
    let bias = tensors.tensor(&bias_name).ok();
    if let Some(bias) = &bias {
        expect_dtype(&bias_name, bias, Dtype::F32)?;
        expect_shape(&bias_name, bias, &shape(&[projections]))?;
    }
    let heads = if of_heads { heads } else { 1 };
    let (weight, bias) = (to_f32(&weight), bias.map(|bias| to_f32(&bias)));
    Projection::new(heads, projections, key_dim, &weight, bias.as_deref())
        .map_err(|error| format!("tensor {side}_{error}"))
}
