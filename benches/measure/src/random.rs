//! Inputs to measure with.

use linear_attention::feature_map::Weights;
use linear_attention::shape::Lens;
use linear_attention::{Config, Error, Inputs, Normalization};

/// Numbers from -1 to 1 by splitmix64, the same in every run.
pub(crate) fn random(len: u64, seed: u64) -> Vec<f32> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut x = state;
        x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((x ^ (x >> 31)) >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    (0..len).map(|_| next()).collect()
}

/// q, k, v, the gates of the update rule and, where a state is given, mu and nu, as a call takes
/// them.
pub(crate) struct Drawn {
    pub(crate) q: Vec<f32>,
    pub(crate) k: Vec<f32>,
    pub(crate) v: Vec<f32>,
    pub(crate) decay: Option<Vec<f32>>,
    pub(crate) beta: Option<Vec<f32>>,
    pub(crate) state: Option<[Vec<f32>; 2]>,
    pub(crate) weights: Option<Weights>,
}

impl Drawn {
    pub(crate) fn new(config: &Config, lens: &Lens, with_state: bool) -> Result<Self, Error> {
        // nu is a sum of features, which most maps make positive.
        let nu = || random(lens.nu, 5).iter().map(|x| x.abs() + 0.5).collect();
        // A sum of weights that may be negative is one of weights that are not, where it is
        // checked.
        let is_signed = matches!(config.normalization, Normalization::SignedSum { .. });
        let rows = |len, seed| -> Vec<f32> {
            random(len, seed).iter().map(|x| if is_signed { x.abs() } else { *x }).collect()
        };
        let rule = config.update_rule;
        let mut k = rows(lens.k, 2);
        if rule.beta().is_some() {
            // Keys of any norm make a delta rule diverge.
            for row in k.chunks_mut(config.key_dim as usize) {
                let norm = row.iter().map(|x| x * x).sum::<f32>().sqrt();
                row.iter_mut().for_each(|x| *x = config.dtype.round(*x / norm));
            }
        }
        let in_unit = |len, seed| random(len, seed).into_iter().map(|x| 0.5 + 0.5 * x);
        Ok(Self {
            q: rows(lens.q, 1),
            k,
            v: random(lens.v, 3),
            decay: rule.decay().map(|_| in_unit(lens.decay, 7).map(|x| -0.2 * x).collect()),
            beta: rule.beta().map(|_| in_unit(lens.beta, 8).collect()),
            state: with_state.then(|| [random(lens.mu, 4), nu()]),
            weights: Weights::sample(config, 6)?,
        })
    }

    pub(crate) fn inputs(&self) -> Inputs<'_> {
        let mut inputs = Inputs::new(&self.q, &self.k, &self.v);
        inputs.weights = self.weights.as_ref();
        (inputs.decay, inputs.beta) = (self.decay.as_deref(), self.beta.as_deref());
        match &self.state {
            Some([mu, nu]) => inputs.with_initial_state(mu, nu),
            None => inputs,
        }
    }
}
