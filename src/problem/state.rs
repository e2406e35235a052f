//! States as buffers hold them and as slices.

/// A state as slices: mu `[N,E,F,V]`, nu `[N,E,F]`.
#[derive(Clone, Copy, Debug)]
pub struct StateSlices<'a> {
    /// The accumulated key-value state.
    pub mu: &'a [f32],
    /// The accumulated key state; empty where o is not normalised.
    pub nu: &'a [f32],
}

/// mu and nu of N sequences as buffers hold them: for each, mu `[E,F,V]` and then nu `[E,F]`.
/// There is no nu where o is not normalised: `nu` is empty then.
///
/// ```
/// use linear_attention::state;
///
/// let (mu, nu) = ([1.0, 2.0, 3.0, 4.0], [5.0, 6.0]);
/// let states = state::join(2, &mu, &nu);
/// assert_eq!(states, [1.0, 2.0, 5.0, 3.0, 4.0, 6.0]);
/// assert_eq!(state::split(2, mu.len(), &states), (mu.to_vec(), nu.to_vec()));
/// assert_eq!(state::join(2, &mu, &[]), mu);
/// ```
#[must_use]
pub fn join(sequences: usize, mu: &[f32], nu: &[f32]) -> Vec<f32> {
    let n = sequences.max(1);
    let (mu_len, nu_len) = (mu.len().div_ceil(n), nu.len().div_ceil(n));
    let part = |of: usize, len: usize, i: usize| (i * len).min(of)..((i + 1) * len).min(of);
    let mut states = Vec::with_capacity(mu.len() + nu.len());
    for i in 0..n {
        states.extend_from_slice(&mu[part(mu.len(), mu_len, i)]);
        states.extend_from_slice(&nu[part(nu.len(), nu_len, i)]);
    }
    states
}

/// The reverse of [`join`], where `mu_len` elements of `states` are mu's.
#[must_use]
pub fn split(sequences: usize, mu_len: usize, states: &[f32]) -> (Vec<f32>, Vec<f32>) {
    let n = sequences.max(1);
    let mu_len = mu_len / n;
    let (mut mu, mut nu) = (Vec::new(), Vec::new());
    for state in states.chunks(states.len().div_ceil(n).max(1)) {
        let (first, rest) = state.split_at(mu_len.min(state.len()));
        mu.extend_from_slice(first);
        nu.extend_from_slice(rest);
    }
    (mu, nu)
}
