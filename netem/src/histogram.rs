//! A histogram of fixed size with bounded relative error, for delays and lateness.

use serde::Serialize;

/// Counts values in buckets of at most 1/16 relative width; 1000 counters, whatever is added.
#[derive(Debug, Clone)]
pub struct Histogram {
    counts: Vec<u64>,
    total: u64,
    max: u64,
}

/// Quantiles of a [`Histogram`], in the unit of the values added.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Summary {
    /// How many values were added.
    pub count: u64,
    /// The median.
    pub p50: u64,
    /// 95 of 100 values are at most this.
    pub p95: u64,
    /// 99 of 100 values are at most this.
    pub p99: u64,
    /// 999 of 1000 values are at most this.
    pub p999: u64,
    /// The largest value, exact.
    pub max: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { counts: vec![0; BUCKETS], total: 0, max: 0 }
    }
}

impl Histogram {
    /// Counts one value.
    pub fn add(&mut self, value: u64) {
        self.counts[bucket(value)] += 1;
        self.total += 1;
        self.max = self.max.max(value);
    }

    /// The smallest bucket edge that `share` (0 to 1) of the values do not exceed; 0 when empty.
    #[must_use]
    pub fn quantile(&self, share: f64) -> u64 {
        let wanted = ((self.total as f64 * share).ceil() as u64).max(1);
        let mut seen = 0;
        for (index, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= wanted {
                return upper_edge(index).min(self.max);
            }
        }
        self.max
    }

    /// The usual quantiles.
    #[must_use]
    pub fn summary(&self) -> Summary {
        Summary {
            count: self.total,
            p50: self.quantile(0.5),
            p95: self.quantile(0.95),
            p99: self.quantile(0.99),
            p999: self.quantile(0.999),
            max: self.max,
        }
    }
}

/// Linear below 16, then 16 buckets for each power of two.
const BUCKETS: usize = 16 + 60 * 16;

fn bucket(value: u64) -> usize {
    if value < 16 {
        return value as usize;
    }
    let exponent = 63 - value.leading_zeros() as usize; // 4..=63
    16 + (exponent - 4) * 16 + ((value >> (exponent - 4)) & 15) as usize
}

fn upper_edge(index: usize) -> u64 {
    if index < 16 {
        return index as u64;
    }
    let (exponent, part) = ((index - 16) / 16, ((index - 16) % 16) as u64);
    ((16 + part) << exponent) + ((1u64 << exponent) - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_within_a_sixteenth() {
        let mut histogram = Histogram::default();
        (1..=100_000u64).for_each(|v| histogram.add(v));
        for (share, exact) in [(0.5, 50_000.0), (0.95, 95_000.0), (0.99, 99_000.0)] {
            let got = histogram.quantile(share) as f64;
            assert!(got >= exact && got <= exact * (1.0 + 1.0 / 16.0), "{share}: {got}");
        }
        assert_eq!(histogram.summary().max, 100_000);
        assert_eq!(Histogram::default().summary(), Summary::default());
    }

    #[test]
    fn every_value_falls_into_a_bucket_that_contains_it() {
        for value in (0..64).flat_map(|bit| [(1u64 << bit) - 1, 1u64 << bit, (1u64 << bit) + 1]).chain([u64::MAX]) {
            let index = bucket(value);
            assert!(upper_edge(index) >= value && (index == 0 || upper_edge(index - 1) < value), "{value}");
        }
    }
}
