//! Randomness of the model: everything is a pure function of a seed and an index.
//!
//! [`Lane`] answers "what is the n-th number of this lane" without having drawn the ones before, so the fate of the n-th
//! packet does not depend on which other impairments are switched on or what the queue dropped. Only basic IEEE
//! operations and square roots are used: the same seed gives the same bits on every platform.

/// One independent sequence of random numbers with random access.
///
/// The n-th number is output n of SplitMix64 (Steele, Lea, Flood: "Fast splittable pseudorandom number generators",
/// 2014), started from a point mixed out of the seed and the lane's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lane(u64);

impl Lane {
    /// Makes the lane `name` of `seed`.
    #[must_use]
    pub fn new(seed: u64, name: u64) -> Self {
        Self(mix(mix(seed ^ 0x6E65_7465_6D00_0000).wrapping_add(mix(name.wrapping_add(GOLDEN)))))
    }

    /// The `n`-th number, uniform over all 64-bit values.
    #[must_use]
    pub fn word(self, n: u64) -> u64 {
        mix(self.0.wrapping_add(n.wrapping_mul(GOLDEN)))
    }

    /// The `n`-th number as a share in `[0, 1)`.
    #[must_use]
    pub fn unit(self, n: u64) -> f64 {
        to_unit(self.word(n))
    }

    /// The `n`-th sample of a normal distribution with mean 0 and deviation 1, cut at 6 deviations
    /// (sum of 12 uniform numbers, Irwin-Hall).
    #[must_use]
    pub fn normal(self, n: u64) -> f64 {
        let word = self.word(n);
        (0..12).map(|k| to_unit(mix(word.wrapping_add((k + 1u64).wrapping_mul(GOLDEN))))).sum::<f64>() - 6.0
    }

    /// The `n`-th sample of a Pareto distribution of shape 3 moved to mean 0, cut at 20: rare, long delays.
    #[must_use]
    pub fn pareto(self, n: u64) -> f64 {
        (1.0 / cube_root(1.0 - self.unit(n)) - 1.5).min(20.0)
    }

    /// The `n`-th sample of an exponential distribution with mean 1.
    #[must_use]
    pub fn exponential(self, n: u64) -> f64 {
        -natural_log(1.0 - self.unit(n))
    }
}

/// A lane read from its beginning, for decisions that follow each other in time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stream {
    lane: Lane,
    next: u64,
}

impl Stream {
    /// Starts at the beginning of the lane `name` of `seed`.
    #[must_use]
    pub fn new(seed: u64, name: u64) -> Self {
        Self { lane: Lane::new(seed, name), next: 0 }
    }

    /// The next number as a share in `[0, 1)`.
    pub fn unit(&mut self) -> f64 {
        self.step(Lane::unit)
    }

    /// The next number, uniform over all 64-bit values.
    pub fn word(&mut self) -> u64 {
        self.step(Lane::word)
    }

    /// The next sample of an exponential distribution with mean 1.
    pub fn exponential(&mut self) -> f64 {
        self.step(Lane::exponential)
    }

    fn step<T>(&mut self, draw: impl Fn(Lane, u64) -> T) -> T {
        let value = draw(self.lane, self.next);
        self.next += 1;
        value
    }
}

/// Derives the seed of part `index` from the seed of the whole.
#[must_use]
pub fn derive_seed(seed: u64, index: u64) -> u64 {
    Lane::new(seed, 0x5EED).word(index)
}

const GOLDEN: u64 = 0x9E37_79B9_7F4A_7C15;

fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

fn to_unit(word: u64) -> f64 {
    (word >> 11) as f64 / (1u64 << 53) as f64
}

/// Cube root of a value in `(0, 1]` by Newton's method. The start is above the root, so the steps descend; one that does
/// not has reached it.
fn cube_root(value: f64) -> f64 {
    let mut root = 1.0;
    loop {
        let next = (2.0 * root + value / (root * root)) / 3.0;
        if next >= root {
            return root;
        }
        root = next;
    }
}

/// Natural logarithm of a value in `(0, 1]`: halving until near 1, then `ln x = 2 artanh((x-1)/(x+1))` as a series.
fn natural_log(mut value: f64) -> f64 {
    let mut halvings = 0.0;
    while value < 0.75 {
        value *= 2.0;
        halvings += 1.0;
    }
    let z = (value - 1.0) / (value + 1.0);
    let square = z * z;
    // |z| <= 0.2 once the value lies in [0.75, 1.5): twelve terms leave less than 1e-17
    let (mut term, mut sum, mut k) = (z, 0.0, 1.0);
    while k < 24.0 {
        sum += term / k;
        term *= square;
        k += 2.0;
    }
    2.0 * sum - halvings * std::f64::consts::LN_2
}

#[cfg(test)]
mod tests {
    use super::*;

    const N: u64 = 200_000;

    fn moments(draw: impl Fn(u64) -> f64) -> (f64, f64) {
        let mean = (0..N).map(&draw).sum::<f64>() / N as f64;
        let variance = (0..N).map(|n| (draw(n) - mean).powi(2)).sum::<f64>() / N as f64;
        (mean, variance.sqrt())
    }

    #[test]
    fn distributions_have_their_mean_and_deviation() {
        let lane = Lane::new(7, 1);
        let (mean, deviation) = moments(|n| lane.unit(n));
        assert!((mean - 0.5).abs() < 0.003 && (deviation - 0.288_675).abs() < 0.002, "uniform {mean} {deviation}");
        let (mean, deviation) = moments(|n| lane.normal(n));
        assert!(mean.abs() < 0.01 && (deviation - 1.0).abs() < 0.01, "normal {mean} {deviation}");
        let (mean, deviation) = moments(|n| lane.exponential(n));
        assert!((mean - 1.0).abs() < 0.01 && (deviation - 1.0).abs() < 0.02, "exponential {mean} {deviation}");
        let (mean, _) = moments(|n| lane.pareto(n));
        assert!(mean.abs() < 0.02, "pareto {mean}");
    }

    #[test]
    fn own_logarithm_and_cube_root_agree_with_the_library() {
        for x in (1..=1000).map(|k| f64::from(k) / 1000.0).chain([1e-9, 1e-16]) {
            assert!((natural_log(x) - x.ln()).abs() < 1e-12 * x.ln().abs().max(1.0), "ln {x}");
            assert!((cube_root(x) / x.cbrt() - 1.0).abs() < 1e-12, "cbrt {x}");
        }
    }

    #[test]
    fn lanes_and_seeds_are_independent() {
        let agree =
            |a: Lane, b: Lane| (0..N).filter(|&n| (a.unit(n) < 0.5) == (b.unit(n) < 0.5)).count() as f64 / N as f64;
        for (a, b) in
            [(Lane::new(1, 0), Lane::new(1, 1)), (Lane::new(1, 0), Lane::new(2, 0)), (Lane::new(0, 1), Lane::new(1, 0))]
        {
            assert!((agree(a, b) - 0.5).abs() < 0.01);
        }
    }

    #[test]
    fn numbers_are_the_same_on_every_machine() {
        // computed apart from this file; a change here would change the fate of every packet of every recorded run
        let words: Vec<u64> = (0..3).map(|n| Lane::new(1, 2).word(n)).collect();
        assert_eq!(words, [0xf380_5efc_47d7_5103, 0xe6da_ecc9_8134_beb1, 0xd2eb_6ebc_d7f5_6b31]);
    }
}
