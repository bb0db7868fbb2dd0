//! What the user says about the choice of uplinks, and what it means for one flow.

use std::ops::RangeInclusive;

use super::Uplink;

/// Uplinks as bits; at most 64 can be named.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Mask(u64);

impl Mask {
    /// None of them.
    pub const NONE: Self = Self(0);

    /// With this one too. An uplink beyond the 64th cannot be named.
    #[must_use]
    pub fn with(self, uplink: Uplink) -> Self {
        Self(self.0 | 1u64.checked_shl(u32::from(uplink.0)).unwrap_or(0))
    }

    /// Whether it is among them.
    pub fn contains(self, uplink: Uplink) -> bool {
        1u64.checked_shl(u32::from(uplink.0)).is_some_and(|bit| self.0 & bit != 0)
    }

    /// Whether there is none.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }
}

/// What is known of a flow when its uplink is chosen.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Traits<'a> {
    /// Differentiated services code point, 0 to 63.
    pub dscp: Option<u8>,
    /// Port of the target.
    pub port: Option<u16>,
    /// Where it is accepted: the listener's text.
    pub listener: Option<&'a str>,
}

/// One `[[steer.rule]]`: all that is said must hold.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Rule {
    /// Any of these code points.
    pub dscp: Vec<u8>,
    /// Any of these ports of the target.
    pub ports: Vec<RangeInclusive<u16>>,
    /// Any of these listeners.
    pub listeners: Vec<String>,
    /// What follows.
    pub action: Action,
}

/// What a rule asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Action {
    /// These while one of them works, others otherwise.
    Prefer(Mask),
    /// These or none.
    Only(Mask),
    /// Others while one of them works.
    Avoid(Mask),
    /// Twice, over the two best.
    Duplicate,
}

/// What all rules together mean for a flow. The first rule of each kind that fits decides.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Verdict {
    /// Tried first.
    pub prefer: Mask,
    /// Nothing else is used, if there is one.
    pub only: Mask,
    /// Tried last.
    pub avoid: Mask,
    /// Sent twice.
    pub duplicate: bool,
}

impl Rule {
    fn fits(&self, flow: &Traits<'_>) -> bool {
        let dscp = self.dscp.is_empty() || flow.dscp.is_some_and(|dscp| self.dscp.contains(&dscp));
        let port =
            self.ports.is_empty() || flow.port.is_some_and(|p| self.ports.iter().any(|range| range.contains(&p)));
        let listener =
            self.listeners.is_empty() || flow.listener.is_some_and(|name| self.listeners.iter().any(|l| l == name));
        dscp && port && listener
    }
}

/// Applies `rules` in their order.
pub fn judge(rules: &[Rule], flow: &Traits<'_>) -> Verdict {
    let mut verdict = Verdict::default();
    for rule in rules.iter().filter(|rule| rule.fits(flow)) {
        match rule.action {
            Action::Prefer(mask) if verdict.prefer.is_empty() => verdict.prefer = mask,
            Action::Only(mask) if verdict.only.is_empty() => verdict.only = mask,
            Action::Avoid(mask) if verdict.avoid.is_empty() => verdict.avoid = mask,
            Action::Duplicate => verdict.duplicate = true,
            Action::Prefer(_) | Action::Only(_) | Action::Avoid(_) => {}
        }
    }
    verdict
}
