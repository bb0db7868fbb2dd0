//! What is known of a key apart from its value: type, default and range, for messages and for the documentation.

/// A key that the program knows, for comparison with the documentation.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Key {
    /// Sections and key joined by dots; entries of an array of tables share one path.
    pub(super) path: String,
    /// How its value reads.
    pub(super) shape: Shape,
}

/// How the value of a key reads, as documented.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Shape {
    /// Type of value.
    pub(super) kind: &'static str,
    /// What holds when the key is absent.
    pub(super) fallback: Fallback,
    /// Range or choice, in words.
    pub(super) allowed: String,
}

/// What holds when a key is absent.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Fallback {
    /// The file is wrong.
    Required,
    /// Something that is not a fixed value, in words.
    Words(&'static str),
    /// This value, as it would be written in the file.
    Value(String),
}

impl Shape {
    /// A key that must be there.
    pub(super) fn required(kind: &'static str, allowed: impl Into<String>) -> Self {
        Self { kind, fallback: Fallback::Required, allowed: allowed.into() }
    }

    /// A key whose absence means something that is no value.
    pub(super) fn optional(kind: &'static str, absent: &'static str, allowed: impl Into<String>) -> Self {
        Self { kind, fallback: Fallback::Words(absent), allowed: allowed.into() }
    }

    /// A key with a default, written as in the file.
    pub(super) fn default(kind: &'static str, default: String, allowed: impl Into<String>) -> Self {
        Self { kind, fallback: Fallback::Value(default), allowed: allowed.into() }
    }
}
