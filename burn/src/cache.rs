//! Things that are made once for a config and a shape.

use linear_attention::{Config, Shape};

/// Entries of the most shapes that are kept.
const CAPACITY: usize = 64;

/// Values by config and shape, of which the one that was not asked for the longest goes first.
#[derive(Debug)]
pub(crate) struct Cache<T> {
    entries: Vec<(Config, Shape, T)>,
}

impl<T> Cache<T> {
    pub(crate) const fn new() -> Self {
        Self { entries: Vec::new() }
    }

    /// The value, which is the last to go from now on.
    pub(crate) fn get(&mut self, config: &Config, shape: &Shape) -> Option<&mut T> {
        let index = self.entries.iter().position(|(c, s, _)| s == shape && c == config)?;
        let entry = self.entries.remove(index);
        self.entries.push(entry);
        self.entries.last_mut().map(|(_, _, value)| value)
    }

    pub(crate) fn insert(&mut self, config: Config, shape: Shape, value: T) {
        if self.entries.len() >= CAPACITY {
            self.entries.remove(0);
        }
        self.entries.push((config, shape, value));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_goes_first() {
        let (config, mut cache) = (Config::new(4, 4), Cache::new());
        let shape = |n: usize| Shape::new(1, n as u32 + 1, 1);
        for n in 0..CAPACITY {
            cache.insert(config.clone(), shape(n), n);
        }
        assert_eq!(cache.get(&config, &shape(0)), Some(&mut 0));
        cache.insert(config.clone(), shape(CAPACITY), CAPACITY);
        assert_eq!(cache.get(&config, &shape(0)), Some(&mut 0));
        assert_eq!(cache.get(&config, &shape(1)), None);
        assert_eq!(cache.get(&Config::new(4, 8), &shape(2)), None);
    }
}
