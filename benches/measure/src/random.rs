//! Inputs to measure with.

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

/// q, k, v and, where a state is given, mu and nu, as a call takes them.
pub(crate) struct Drawn {
    pub(crate) q: Vec<f32>,
    pub(crate) k: Vec<f32>,
    pub(crate) v: Vec<f32>,
    pub(crate) state: Option<[Vec<f32>; 2]>,
}

impl Drawn {
    pub(crate) fn new(lens: &linear_attention::Lens, with_state: bool) -> Self {
        // nu is a sum of features, which elu + 1 makes positive.
        let nu = || random(lens.nu, 5).iter().map(|x| x.abs() + 0.5).collect();
        Self {
            q: random(lens.q, 1),
            k: random(lens.k, 2),
            v: random(lens.v, 3),
            state: with_state.then(|| [random(lens.mu, 4), nu()]),
        }
    }

    pub(crate) fn inputs(&self) -> linear_attention::Inputs<'_> {
        let inputs = linear_attention::Inputs::new(&self.q, &self.k, &self.v);
        match &self.state {
            Some([mu, nu]) => inputs.with_initial(mu, nu),
            None => inputs,
        }
    }
}
