//! What a packet is to its user, by its DSCP.

use crate::wire::frame::Class;

/// Follows RFC 8325 §4 in what belongs together, and RFC 8622 for the lower effort.
pub(super) fn of(dscp: u8) -> Class {
    match dscp {
        // CS5 to CS7, VOICE-ADMIT, EF: telephony, signalling, routing.
        40 | 44 | 46 | 48 | 56 => Class::Interactive,
        // CS3, CS4, AF3x, AF4x: conferences and streaming.
        24 | 26 | 28 | 30 | 32 | 34 | 36 | 38 => Class::Video,
        // CS1, LE.
        1 | 8 => Class::Bulk,
        _ => Class::BestEffort,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_are_classes() {
        let marks = [
            (46, Class::Interactive),
            (34, Class::Video),
            (8, Class::Bulk),
            (1, Class::Bulk),
            (0, Class::BestEffort),
            (10, Class::BestEffort),
        ];
        for (dscp, class) in marks {
            assert_eq!(of(dscp), class, "{dscp}");
        }
    }
}
