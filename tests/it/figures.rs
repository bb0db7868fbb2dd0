//! The arithmetic of the benchmark's tables.

#[path = "../bench/stats.rs"]
mod stats;

use stats::{median, quantile};

#[test]
fn the_median_is_in_the_middle_whatever_the_order() {
    assert_eq!(median(&[]), None);
    assert_eq!(median(&[3.0]), Some(3.0));
    assert_eq!(median(&[9.0, 1.0, 5.0]), Some(5.0));
    assert_eq!(median(&[4.0, 1.0, 2.0, 100.0]), Some(3.0));
}

#[test]
fn a_quantile_is_one_of_the_values() {
    let values: Vec<f64> = (1..=100).map(f64::from).collect();
    assert_eq!(quantile(&values, 0.99), Some(99.0));
    assert_eq!(quantile(&values, 0.5), Some(50.0));
    assert_eq!(quantile(&values, 1.0), Some(100.0));
    assert_eq!(quantile(&values[..1], 0.99), Some(1.0));
    assert_eq!(quantile(&[], 0.99), None);
}
