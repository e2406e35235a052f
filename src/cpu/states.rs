//! The states before and after a call.

use crate::cpu::pool::StatePool;
use crate::cpu::shared::{Parts, Shared};
use crate::problem::config::Config;
use crate::problem::state::StateSlices;

/// The states of a call, by sequence and value head.
pub(super) struct States<'a> {
    value_heads: usize,
    mu_len: usize,
    nu_len: usize,
    place: Place<'a>,
}

/// The memory that they are in.
enum Place<'a> {
    /// mu `[N,E,F,V]`, nu `[N,E,F]`.
    Slices { initial: Option<StateSlices<'a>>, last: Option<(Shared<'a, f32>, Shared<'a, f32>)> },
    /// The slots of sequences in a pool, updated in place. nu goes by way of `[N,E,F]` where
    /// threads share a value head, since another may not have read it yet.
    Pool { pool: &'a StatePool, slots: &'a [u32], nus: Option<Shared<'a, f32>> },
}

/// The memory of the parts of mu and nu.
#[derive(Debug, Default)]
pub(super) struct StateParts {
    mu: Parts<'static, f32>,
    nu: Parts<'static, f32>,
}

impl StateParts {
    /// For so many states of value heads.
    pub(super) fn new(states: usize) -> Self {
        Self { mu: Parts::with_capacity(states), nu: Parts::with_capacity(states) }
    }
}

impl<'a> States<'a> {
    /// Slices for the states before the call, if these are not zero, and after it, if anybody wants
    /// them.
    pub(super) fn in_slices(
        (config, value_heads): (&Config, u32),
        initial: Option<StateSlices<'a>>,
        last: Option<(&'a mut [f32], &'a mut [f32])>,
        parts: &mut StateParts,
    ) -> Self {
        let no_place = Place::Slices { initial: None, last: None };
        let mut states = Self::new(config, value_heads, no_place);
        let last = last.map(|(mu, nu)| {
            let nu = Shared::rows(nu, states.nu_len, &mut parts.nu);
            (Shared::rows(mu, states.mu_len, &mut parts.mu), nu)
        });
        states.place = Place::Slices { initial, last };
        states
    }

    /// Slots of a pool; `nus` where threads share value heads of which there is a nu.
    pub(super) fn in_pool(
        (config, value_heads): (&Config, u32),
        (pool, slots): (&'a StatePool, &'a [u32]),
        nus: Option<&'a mut [f32]>,
        parts: &mut StateParts,
    ) -> Self {
        let features = config.features() as usize;
        let nus = nus.map(|nus| Shared::rows(nus, features, &mut parts.nu));
        Self::new(config, value_heads, Place::Pool { pool, slots, nus })
    }

    fn new(config: &Config, value_heads: u32, place: Place<'a>) -> Self {
        let features = config.features() as usize;
        Self {
            value_heads: value_heads as usize,
            mu_len: features * config.value_dim as usize,
            nu_len: if config.is_normalized() { features } else { 0 },
            place,
        }
    }

    /// Gives the memory of the parts back.
    pub(super) fn finish(self, parts: &mut StateParts) {
        match self.place {
            Place::Slices { last: Some((mu, nu)), .. } => {
                (parts.mu, parts.nu) = (mu.into_parts(), nu.into_parts());
            }
            Place::Pool { nus: Some(nus), .. } => parts.nu = nus.into_parts(),
            _ => {}
        }
    }

    /// True where somebody wants the states after the call.
    pub(super) fn are_written(&self) -> bool {
        !matches!(self.place, Place::Slices { last: None, .. })
    }

    /// Calls `update` with the state before the call, in the place of that after it.
    #[inline(always)]
    pub(super) fn update(&self, [n, e]: [usize; 2], update: impl FnOnce(&mut [f32], &mut [f32])) {
        let in_place = matches!(self.place, Place::Pool { .. });
        self.write([n, e], true, |mu, nu| {
            if !in_place {
                mu.fill(0.0);
                nu.fill(0.0);
                self.read([n, e], |from_mu, from_nu| {
                    mu.copy_from_slice(from_mu);
                    nu.copy_from_slice(from_nu);
                });
            }
            update(mu, nu);
        });
    }

    /// Calls `read` with mu `[F,V]` and nu `[F]` of value head e of sequence n, or not where they
    /// are zero.
    pub(super) fn read(&self, [n, e]: [usize; 2], read: impl FnOnce(&[f32], &[f32])) {
        match &self.place {
            Place::Slices { initial: None, .. } => {}
            Place::Slices { initial: Some(initial), .. } => {
                let state = n * self.value_heads + e;
                let of = |all: &'a [f32], len: usize| &all[state * len..][..len];
                read(of(initial.mu, self.mu_len), of(initial.nu, self.nu_len));
            }
            Place::Pool { pool, slots, .. } => {
                pool.with(slots[n], e, |state| read(&state.mu, &state.nu));
            }
        }
    }

    /// Calls `write` with the same after the call, where anybody wants it; nu is empty but for the
    /// first of the threads that share a value head.
    pub(super) fn write(
        &self,
        [n, e]: [usize; 2],
        is_first: bool,
        write: impl FnOnce(&mut [f32], &mut [f32]),
    ) {
        let state = n * self.value_heads + e;
        let no_nu: &mut [f32] = &mut [];
        match &self.place {
            Place::Slices { last: None, .. } => {}
            Place::Slices { last: Some((mu, _)), .. } if !is_first || self.nu_len == 0 => {
                mu.with_row(state, |mu| write(mu, no_nu));
            }
            Place::Slices { last: Some((mu, nu)), .. } => {
                mu.with_row(state, |mu| nu.with_row(state, |nu| write(mu, nu)));
            }
            Place::Pool { pool, slots, nus } => pool.with(slots[n], e, |target| match nus {
                _ if !is_first => write(&mut target.mu, no_nu),
                None => write(&mut target.mu, &mut target.nu),
                Some(nus) => nus.with_row(state, |nu| write(&mut target.mu, nu)),
            }),
        }
    }
}
