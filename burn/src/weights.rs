//! The weights of feature maps: W and b as a caller has them, and the one tensor that the shaders
//! read.

use burn::tensor::{DType, Tensor};
use linear_attention::feature_map::{Projection, WeightHeads, Weights};
use linear_attention::gradients::Gradients;
use linear_attention::{Config, FeatureMap, Normalization};

use crate::error::Error;

/// W `[heads,P,K]` and b `[heads,P]` of y = W x + b.
#[derive(Clone, Debug)]
pub(crate) struct Affine {
    pub(crate) weight: Tensor<3>,
    pub(crate) bias: Option<Tensor<2>>,
}

/// The weights of keys and then of queries in one tensor, laid out as [`WeightHeads`] says. Burn's
/// own operations lay them, so that its graph has the way back to W and b.
pub(crate) fn pack(
    config: &Config,
    keys: Option<Affine>,
    queries: Option<Affine>,
) -> Result<(Option<Tensor<1>>, WeightHeads), Error> {
    let heads = |affine: &Option<Affine>| {
        let heads = affine.as_ref().map_or(0, |affine| affine.weight.dims()[0]);
        u32::try_from(heads).unwrap_or(u32::MAX)
    };
    let heads = WeightHeads::new(heads(&keys), heads(&queries));
    let mut parts = Vec::new();
    let given = [
        (keys, config.key_map(), ["key_weight", "key_bias"]),
        (queries, config.query_map(), ["query_weight", "query_bias"]),
    ];
    for (affine, map, names) in given {
        // Weights of a map that has none are refused with the call.
        if let Some(affine) = affine.filter(|_| map.projections(config.key_dim) > 0) {
            parts.push(affine.pack(map, config.key_dim, names)?);
        }
    }
    if let [first, second] = &parts[..]
        && first.device() != second.device()
    {
        return Err(Error::OtherDevice { tensor: "query_weight" });
    }
    let packed = match parts.len() {
        0 => None,
        1 => parts.pop(),
        _ => Some(Tensor::cat(parts, 0)),
    };
    Ok((packed, heads))
}

impl Affine {
    fn pack(
        self,
        map: &FeatureMap,
        key_dim: u32,
        names: [&'static str; 2],
    ) -> Result<Tensor<1>, Error> {
        let Self { weight, bias } = self;
        let [of_weight, of_bias] = names;
        let [heads, rows, width] = weight.dims();
        let projections = map.projections(key_dim) as usize;
        let required = vec![heads, projections, key_dim as usize];
        if weight.dims().to_vec() != required {
            return Err(Error::Shape {
                tensor: of_weight,
                required,
                actual: vec![heads, rows, width],
            });
        }
        let types =
            [(of_weight, Some(weight.dtype())), (of_bias, bias.as_ref().map(Tensor::dtype))];
        for (tensor, dtype) in types {
            if let Some(dtype) = dtype.filter(|dtype| *dtype != DType::F32) {
                let actual = format!("{dtype:?}");
                return Err(Error::Dtype { tensor, required: "F32", actual });
            }
        }
        let device = weight.device();
        let zeros = |dims: [usize; 4]| Tensor::<4>::zeros(dims, &device);
        let matrices = matrices(map);
        let rows = rows / matrices;
        let bias = match bias {
            None => zeros([heads, matrices, rows, 1]),
            Some(bias) => {
                let (actual, required) = (bias.dims().to_vec(), vec![heads, projections]);
                if actual != required {
                    return Err(Error::Shape { tensor: of_bias, required, actual });
                }
                if bias.device() != device {
                    return Err(Error::OtherDevice { tensor: of_bias });
                }
                bias.reshape([heads, matrices, rows, 1])
            }
        };
        // The columns of W, zeros, and b; then rows of zeros.
        let mut columns = vec![weight.reshape([heads, matrices, rows, width])];
        let all = width.next_multiple_of(4);
        if all > width {
            columns.push(zeros([heads, matrices, rows, all - width]));
        }
        columns.push(bias);
        let mut packed = Tensor::cat(columns, 3);
        let all_rows = rows.next_multiple_of(4);
        if all_rows > rows {
            let below = zeros([heads, matrices, all_rows - rows, all + 1]);
            packed = Tensor::cat(vec![packed, below], 2);
        }
        Ok(packed.permute([0, 3, 1, 2]).reshape([heads * (all + 1) * matrices * all_rows]))
    }
}

/// Weight matrices of a map.
fn matrices(map: &FeatureMap) -> usize {
    if matches!(map, FeatureMap::Product { .. }) { 2 } else { 1 }
}

/// The places of the elements of W and of b of one map in a packed tensor.
struct Places {
    heads: u32,
    projections: u32,
    weight: Vec<usize>,
    bias: Vec<usize>,
    end: usize,
}

impl Places {
    fn new(map: &FeatureMap, key_dim: u32, heads: u32, begin: usize) -> Self {
        let (matrices, width, projections) =
            (matrices(map), key_dim as usize, map.projections(key_dim));
        let rows = projections as usize / matrices;
        let (all_rows, all) = (rows.next_multiple_of(4), width.next_multiple_of(4));
        let of_head = (all + 1) * matrices * all_rows;
        let (mut weight, mut bias) = (Vec::new(), Vec::new());
        for head in 0..heads as usize {
            for row in 0..projections as usize {
                let place = |x: usize| {
                    let at = x * matrices + row / rows;
                    begin + head * of_head + at * all_rows + row % rows
                };
                weight.extend((0..width).map(place));
                bias.push(place(all));
            }
        }
        Self { heads, projections, weight, bias, end: begin + heads as usize * of_head }
    }

    /// Those of keys and of queries.
    fn of(config: &Config, heads: WeightHeads) -> [Self; 2] {
        let keys = Self::new(config.key_map(), config.key_dim, heads.keys, 0);
        let queries = Self::new(config.query_map(), config.key_dim, heads.queries, keys.end);
        [keys, queries]
    }

    fn projection(&self, key_dim: u32, packed: &[f32]) -> Result<Option<Projection>, Error> {
        if self.heads == 0 {
            return Ok(None);
        }
        let of = |places: &[usize]| -> Vec<f32> { places.iter().map(|at| packed[*at]).collect() };
        let (weight, bias) = (of(&self.weight), of(&self.bias));
        let (heads, projections) = (self.heads, self.projections);
        Ok(Some(Projection::new(heads, projections, key_dim, &weight, Some(&bias))?))
    }
}

/// The weights of a packed tensor, for the CPU engine.
pub(crate) fn unpack(
    config: &Config,
    heads: WeightHeads,
    packed: &[f32],
) -> Result<Weights, Error> {
    let [keys, queries] = Places::of(config, heads);
    let [keys, queries] = [keys, queries].map(|places| places.projection(config.key_dim, packed));
    Ok(Weights::apart(keys?, queries?))
}

/// The gradients by a packed tensor, from those by W and b.
pub(crate) fn pack_gradients(
    config: &Config,
    heads: WeightHeads,
    found: &Gradients<f32>,
) -> Vec<f32> {
    let places = Places::of(config, heads);
    let mut packed = vec![0.0; places[1].end];
    for (places, [weight, bias]) in places.iter().zip([&found.key_weights, &found.query_weights]) {
        for (places, gradients) in [(&places.weight, weight), (&places.bias, bias)] {
            for (at, gradient) in places.iter().zip(gradients) {
                packed[*at] = *gradient;
            }
        }
    }
    packed
}

/// W and b of the initial weights of a map, `[1,P,K]` and `[1,P]`.
pub(crate) fn initial(
    config: &Config,
    map: &FeatureMap,
    seed: u64,
) -> Result<[Vec<f32>; 2], Error> {
    let projection = Projection::sample(map, config.key_dim, seed)?;
    let places = Places::new(map, config.key_dim, 1, 0);
    let of_map = Config::new(config.key_dim, 1)
        .with_feature_map(map.clone())
        .with_normalization(Normalization::None);
    let packed = Weights::new(projection).encode(&of_map)?;
    Ok([&places.weight, &places.bias].map(|places| places.iter().map(|at| packed[*at]).collect()))
}
