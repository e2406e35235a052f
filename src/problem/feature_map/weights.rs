//! The weights of a config's maps.

use crate::error::WeightsError;
use crate::problem::config::Config;
use crate::problem::feature_map::FeatureMap;
use crate::problem::feature_map::projection::Projection;
use crate::problem::shape::Shape;

/// The weights of a config's maps: of the keys' map, of the queries' map, or the same for both.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Weights {
    /// Of keys: of each of G key heads, or shared.
    pub keys: Option<Projection>,
    /// Of queries: of each of H query heads, or shared. Where it is `None` and the queries' map
    /// needs weights, a query has those of the key head that it reads through its value head.
    pub queries: Option<Projection>,
}

impl Weights {
    /// The same for keys and queries.
    #[must_use]
    pub fn new(projection: Projection) -> Self {
        Self { keys: Some(projection), queries: None }
    }

    /// Of keys and of queries.
    #[must_use]
    pub fn apart(keys: Option<Projection>, queries: Option<Projection>) -> Self {
        Self { keys, queries }
    }

    /// The initial weights of the maps of `config`: see [`Projection::sample`]. Keys and queries of
    /// one map have the same. `None` where no map has weights.
    ///
    /// # Errors
    ///
    /// As [`Projection::sample`].
    pub fn sample(config: &Config, seed: u64) -> Result<Option<Self>, WeightsError> {
        let (keys, queries) = (config.key_map(), config.query_map());
        let sample = |map: &FeatureMap| match map.projections(config.key_dim) {
            0 => Ok(None),
            _ => Projection::sample(map, config.key_dim, seed).map(Some),
        };
        let own = if keys == queries { None } else { sample(queries)? };
        let weights = Self { keys: sample(keys)?, queries: own };
        Ok(config.needs_weights().then_some(weights))
    }

    /// The heads that have weights of their own.
    #[must_use]
    pub fn heads(&self) -> WeightHeads {
        let of = |projection: &Option<Projection>| projection.as_ref().map_or(0, Projection::heads);
        WeightHeads { keys: of(&self.keys), queries: of(&self.queries) }
    }

    /// Checks that they are the weights that a call needs.
    ///
    /// # Errors
    ///
    /// Names the first that is missing, not wanted, or of another size.
    pub fn check(&self, config: &Config, shape: &Shape) -> Result<(), WeightsError> {
        self.heads().check(config, shape)?;
        check_sizes("keys", self.keys.as_ref(), config.key_map(), config)?;
        check_sizes("queries", self.queries.as_ref(), config.query_map(), config)
    }

    /// The same of those of keys alone.
    pub(crate) fn check_keys(&self, config: &Config, key_heads: u32) -> Result<(), WeightsError> {
        let is_needed = config.key_map().projections(config.key_dim) > 0;
        check_heads("keys", is_needed, self.heads().keys, key_heads)?;
        if is_needed && self.keys.is_none() {
            return Err(WeightsError::Missing { what: "keys" });
        }
        check_sizes("keys", self.keys.as_ref(), config.key_map(), config)
    }

    /// The elements that the shaders read: the keys' heads, then the queries'. See [`WeightHeads`].
    ///
    /// # Errors
    ///
    /// As [`Weights::check`], whatever the heads are.
    pub fn encode(&self, config: &Config) -> Result<Vec<f32>, WeightsError> {
        let shape = Shape::new(1, 1, self.heads().queries.max(1));
        let shape = shape.with_key_heads(self.heads().keys.max(1));
        self.check(config, &shape)?;
        let mut words = Vec::with_capacity((self.heads().size(config) / 4) as usize);
        if let Some(keys) = &self.keys {
            keys.pack(config.key_map(), &mut words);
        }
        if let Some(queries) = &self.queries {
            queries.pack(config.query_map(), &mut words);
        }
        Ok(words)
    }

    /// W and b of keys and of queries, empty where there are none, from elements that lie as
    /// [`Weights::encode`] lays them.
    pub(crate) fn decode(&self, config: &Config, from: &[f32]) -> [[Vec<f32>; 2]; 2] {
        let keys = WeightHeads { queries: 0, ..self.heads() }.size(config) / 4;
        let (keys, queries) = from.split_at((keys as usize).min(from.len()));
        let of = |projection: Option<&Projection>, map, from| {
            projection.map_or_else(Default::default, |projection| projection.unpack(map, from))
        };
        [
            of(self.keys.as_ref(), config.key_map(), keys),
            of(self.queries.as_ref(), config.query_map(), queries),
        ]
    }

    /// The projection of keys.
    pub(crate) fn of_keys(&self) -> Option<&Projection> {
        self.keys.as_ref()
    }

    /// The projection of queries, and whether it is that of keys, of the key head that a query
    /// reads.
    pub(crate) fn of_queries(&self) -> (Option<&Projection>, bool) {
        match &self.queries {
            Some(queries) => (Some(queries), false),
            None => (self.keys.as_ref(), true),
        }
    }
}

/// The heads that have weights of their own in a buffer. Such a buffer has, in f32, for each of the
/// keys' heads and then for each of the queries' heads, W transposed and b beneath it, `[K' + 1,
/// P']`: row i has the weights of element i of q or k, rows from K on are zero, and the last row is
/// b. K' is K rounded up to a multiple of 4, and P' likewise the rows of a matrix;
/// [`FeatureMap::Product`] has W₁ and W₂ contiguous in each row, `[K' + 1, 2, P']`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct WeightHeads {
    /// Heads that keys have weights of: G, 1 where all share them, 0 where there are none.
    pub keys: u32,
    /// The same of queries: H, 1, or 0 where queries have those of the keys that they read.
    pub queries: u32,
}

impl WeightHeads {
    /// Those of so many heads.
    #[must_use]
    pub fn new(keys: u32, queries: u32) -> Self {
        Self { keys, queries }
    }

    /// Checks that they are as many as a call needs.
    ///
    /// # Errors
    ///
    /// [`WeightsError::Missing`], [`WeightsError::Unexpected`] or [`WeightsError::Heads`].
    pub fn check(&self, config: &Config, shape: &Shape) -> Result<(), WeightsError> {
        let needs = |map: &FeatureMap| map.projections(config.key_dim) > 0;
        let (keys, queries) = (config.key_map(), config.query_map());
        if needs(keys) && self.keys == 0 {
            return Err(WeightsError::Missing { what: "keys" });
        }
        // Queries without weights of their own have those of keys, of as many projections.
        let size = |map: &FeatureMap| (map.matrix_rows(config.key_dim), map.matrices());
        if needs(queries) && self.queries == 0 && size(keys) != size(queries) {
            return Err(WeightsError::Missing { what: "queries" });
        }
        check_heads("keys", needs(keys), self.keys, shape.key_heads)?;
        check_heads("queries", needs(queries), self.queries, shape.heads)
    }

    /// Bytes of a buffer that has them.
    #[must_use]
    pub fn size(&self, config: &Config) -> wgpu::BufferAddress {
        let vec4s = |map: &FeatureMap, heads: u32| {
            let (rows, matrices) = (map.matrix_rows(config.key_dim), map.matrices());
            Projection::head_vec4s(rows, matrices, config.key_dim).saturating_mul(heads.into())
        };
        let all = vec4s(config.key_map(), self.keys)
            .saturating_add(vec4s(config.query_map(), self.queries));
        all.saturating_mul(16)
    }

    /// Offsets of a head's weights in vec4s: the stride of keys, and the begin and the stride of
    /// queries.
    pub(crate) fn offsets(&self, config: &Config) -> WeightOffsets {
        let of = |map: &FeatureMap| {
            let (rows, matrices) = (map.matrix_rows(config.key_dim), map.matrices());
            Projection::head_vec4s(rows, matrices, config.key_dim) as u32
        };
        let stride = |vec4s: u32, heads: u32| if heads > 1 { vec4s } else { 0 };
        let key_stride = stride(of(config.key_map()), self.keys);
        if self.queries == 0 {
            return WeightOffsets {
                key_stride,
                query_begin: 0,
                query_stride: key_stride,
                is_shared: true,
            };
        }
        let query = of(config.query_map());
        WeightOffsets {
            key_stride,
            query_begin: self.keys.saturating_mul(of(config.key_map())),
            query_stride: stride(query, self.queries),
            is_shared: false,
        }
    }
}

#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct WeightOffsets {
    pub(crate) key_stride: u32,
    pub(crate) query_begin: u32,
    pub(crate) query_stride: u32,
    /// True if a query has the weights of the key head that it reads.
    pub(crate) is_shared: bool,
}

fn check_heads(
    what: &'static str,
    is_needed: bool,
    heads: u32,
    all: u32,
) -> Result<(), WeightsError> {
    if heads > 0 && !is_needed {
        return Err(WeightsError::Unexpected { what });
    }
    if heads > 1 && heads != all {
        let required = if all == 1 { "1".to_owned() } else { format!("1 or {all}") };
        return Err(WeightsError::Heads { what, required, actual: heads });
    }
    Ok(())
}

fn check_sizes(
    what: &'static str,
    projection: Option<&Projection>,
    map: &FeatureMap,
    config: &Config,
) -> Result<(), WeightsError> {
    let Some(projection) = projection else { return Ok(()) };
    let required = [map.projections(config.key_dim), config.key_dim];
    let actual = projection.sizes();
    if required == actual { Ok(()) } else { Err(WeightsError::Sizes { what, required, actual }) }
}
