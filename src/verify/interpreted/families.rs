//! The configs and layouts, which decide the modules.

use crate::kernel::layout::Layout;
use crate::problem::config::{Config, Normalization};
use crate::problem::dtype::Dtype;
use crate::problem::feature_map::FeatureMap;
use crate::problem::feature_map::custom::CustomMap;
use crate::problem::update_rule::{Beta, BetaActivation, Decay, DecayActivation, UpdateRule};

/// K and V: multiples of four and others, below and above a tile.
const WIDTHS: [[u32; 2]; 10] =
    [[4, 4], [8, 4], [4, 8], [1, 1], [3, 5], [5, 3], [7, 2], [8, 12], [9, 9], [16, 16]];

/// Every config with every layout that it has, in f32; every third of them in f16 and in bf16.
pub(super) fn families() -> Vec<(Config, Layout)> {
    let mut all = Vec::new();
    for [k, v] in WIDTHS {
        for (i, config) in configs(k, v).into_iter().enumerate() {
            for (j, layout) in layouts().into_iter().enumerate() {
                if layout.check(&config, &wgpu::Limits::default()).is_err() {
                    continue;
                }
                let dtypes = if (i + j) % 3 == 0 { &Dtype::ALL[..] } else { &Dtype::ALL[..1] };
                for dtype in dtypes {
                    let config = config.clone().with_dtype(*dtype);
                    if config.validate().is_ok() {
                        all.push((config, layout));
                    }
                }
            }
        }
    }
    all
}

/// Both sources of rows; lanes and threads along V, one and several, no power of two among them, each
/// also too wide for the problem; chunks that divide nothing.
fn layouts() -> Vec<Layout> {
    vec![
        Layout::direct(4),
        Layout::direct(8),
        Layout::workgroup(4, 4, 1, 1),
        Layout::workgroup(4, 4, 2, 2),
        Layout::workgroup(8, 8, 1, 3),
        Layout::workgroup(16, 4, 2, 4).with_chunk(3, 5),
        Layout::workgroup(4, 4, 4, 4).with_chunk(4, 3),
        Layout::workgroup(4, 4, 3, 2),
        Layout::workgroup(4, 4, 2, 3).with_chunk(3, 5).with_subgroup_sums(true),
    ]
}

fn configs(k: u32, v: u32) -> Vec<Config> {
    use FeatureMap::{
        Dpfp, Elu, Exp, Favor, FavorHyperbolic, Fourier, Hedgehog, HedgehogJoint, Identity,
        Product, Relu, ReluSquared, Sigmoid, Silu, Softmax, T2r, Taylor,
    };
    let of = |map: FeatureMap| Config::new(k, v).with_feature_map(map);
    let plain = |map: FeatureMap| of(map).with_normalization(Normalization::None);
    let mut all: Vec<Config> =
        [Elu, Relu, ReluSquared, Exp, Sigmoid, Softmax, Hedgehog, HedgehogJoint]
            .map(of)
            .into_iter()
            .chain([Identity, Silu, Elu, Exp, Taylor, Dpfp { nu: 1 }, Softmax].map(plain))
            .collect();
    let custom = CustomMap::new(
        "shifted",
        "fn phi(row: Row, feature: u32) -> f32 { return abs(x(row, feature * 7u)) + 0.5; }",
        6,
        |x, _, features| {
            let last = x.len() - 1;
            let feature = |i: usize| x[(7 * i).min(last)].abs() + 0.5;
            features.iter_mut().enumerate().for_each(|(i, f)| *f = feature(i));
        },
    );
    all.extend(custom.map(|map| of(FeatureMap::Custom(map.non_negative().into()))));
    let gated = |decay| UpdateRule::Gated(decay);
    let [constant, head, row] = [Decay::constant(), Decay::per_head(), Decay::per_row()];
    let softplus = head.with_activation(DecayActivation::Softplus);
    let bounded =
        row.with_dtype(Dtype::F16).with_activation(DecayActivation::Sigmoid { lower_bound: -5.0 });
    let sigmoid = Beta::per_head().with_activation(BetaActivation::Sigmoid);
    for rule in [gated(constant), gated(head), gated(softplus), gated(row), gated(bounded)] {
        all.push(Config::of_rule(k, v, rule));
        all.push(of(Elu).with_update_rule(rule));
    }
    for rule in [
        UpdateRule::Delta(Beta::shared()),
        UpdateRule::GatedDelta(head, Beta::per_head()),
        UpdateRule::GatedDelta(row, sigmoid.with_dtype(Dtype::F16)),
        UpdateRule::GatedDelta(bounded, sigmoid),
    ] {
        all.push(Config::of_rule(k, v, rule));
        all.push(Config::of_rule(k, v, rule).with_l2_norm(true));
    }
    all.push(of(Elu).with_query_feature_map(Relu));
    all.push(of(Sigmoid).with_l2_norm(true));
    // Maps with weights, and of several blocks of F.
    for features in [6, 8, 24, 264] {
        all.extend([T2r { features }, Favor { features }].map(of));
        all.push(of(T2r { features }).with_query_feature_map(Favor { features }));
        all.push(plain(Product { features }));
        if features % 8 == 0 {
            all.push(of(FavorHyperbolic { features }));
            all.push(plain(Fourier { features }));
        }
    }
    all
}
