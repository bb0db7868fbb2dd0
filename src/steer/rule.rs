//! What the user says about the choice of uplinks, and what it means for one flow.

use std::net::IpAddr;
use std::ops::RangeInclusive;

use super::Uplink;
use crate::units::IpNet;

/// Uplinks as bits; at most [`NAMED_MAX`] can be named.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Mask(u64);

/// Uplinks that a rule can tell apart.
pub const NAMED_MAX: u16 = 63;

impl Mask {
    /// None of them.
    pub const NONE: Self = Self(0);
    /// One that there never is: for a rule whose uplinks are all unknown, and which speaks of some all the same.
    pub const NOWHERE: Self = Self(1 << NAMED_MAX);

    /// With this one too. An uplink beyond [`NAMED_MAX`] cannot be named.
    #[must_use]
    pub fn with(self, uplink: Uplink) -> Self {
        if uplink.0 < NAMED_MAX { Self(self.0 | 1 << uplink.0) } else { self }
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
    /// Port of the target; of a packet, those of both ends.
    pub ports: [Option<u16>; 2],
    /// Address of the target, if it is known here; of a packet, those of both ends.
    pub addresses: [Option<IpAddr>; 2],
    /// Where it is accepted: the listener's text.
    pub listener: Option<&'a str>,
}

/// One `[[steer.rule]]`: all that is said must hold.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Rule {
    /// What it is about.
    pub about: About,
    /// What follows.
    pub action: Action,
}

/// What a rule is about; an empty list asks nothing.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct About {
    /// Any of these code points.
    pub dscp: Vec<u8>,
    /// Any of these ports.
    pub ports: Vec<RangeInclusive<u16>>,
    /// Any of these networks.
    pub prefixes: Vec<IpNet>,
    /// Any of these listeners.
    pub listeners: Vec<String>,
}

/// A rule as it is written: its uplinks are names, of which some may not be known yet.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Wish {
    /// What it is about.
    pub about: About,
    /// What is asked for.
    pub verb: Verb,
    /// Of which uplinks.
    pub uplinks: Vec<String>,
}

/// What a [`Wish`] asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verb {
    /// [`Action::Prefer`].
    Prefer,
    /// [`Action::Only`].
    Only,
    /// [`Action::Avoid`].
    Avoid,
}

impl Wish {
    /// The rule, as far as its uplinks are known.
    pub fn rule(&self, find: impl Fn(&str) -> Option<Uplink>) -> Rule {
        let known = self.uplinks.iter().filter_map(|name| find(name)).fold(Mask::NONE, Mask::with);
        let mask = if known.is_empty() { Mask::NOWHERE } else { known };
        let action = match self.verb {
            Verb::Prefer => Action::Prefer(mask),
            Verb::Only => Action::Only(mask),
            Verb::Avoid => Action::Avoid(mask),
        };
        Rule { about: self.about.clone(), action }
    }
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

impl About {
    fn fits(&self, flow: &Traits<'_>) -> bool {
        let dscp = self.dscp.is_empty() || flow.dscp.is_some_and(|dscp| self.dscp.contains(&dscp));
        let mut ports = flow.ports.iter().flatten();
        let port = self.ports.is_empty() || ports.any(|p| self.ports.iter().any(|range| range.contains(p)));
        let mut addresses = flow.addresses.iter().flatten();
        let prefix = self.prefixes.is_empty() || addresses.any(|ip| self.prefixes.iter().any(|net| net.contains(*ip)));
        let listener =
            self.listeners.is_empty() || flow.listener.is_some_and(|name| self.listeners.iter().any(|l| l == name));
        dscp && port && prefix && listener
    }
}

/// Applies `rules` in their order.
pub fn judge(rules: &[Rule], flow: &Traits<'_>) -> Verdict {
    let mut verdict = Verdict::default();
    for rule in rules.iter().filter(|rule| rule.about.fits(flow)) {
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
