//! Randomness for what is not secret: jitter and seeds. The pure layers take it as an argument.

/// Sixty-four bits from the system.
pub fn seed() -> u64 {
    // A system without randomness has shaken no hands, so nothing gets this far; jitter then loses its purpose only.
    getrandom::u64().unwrap_or(0x9e37_79b9_7f4a_7c15)
}

/// Uniform in [0, 1).
pub fn fraction() -> f64 {
    (seed() >> 11) as f64 / (1u64 << 53) as f64
}
