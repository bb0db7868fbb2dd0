//! How the process itself behaves: `[daemon]`.

use crate::config::reader::Section;
use crate::config::shape::Shape;

/// How the process itself behaves.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Process {
    /// Who it becomes once everything is bound; `None`: whoever started it.
    pub user: Option<String>,
}

impl Process {
    pub(super) fn read(section: &Section<'_>) -> Self {
        let shape = Shape::optional("string", "none", "name or number of a user");
        Self { user: section.parsed("user", shape, user) }
    }
}

/// useradd(8) permits 256 bytes since shadow 4.17; names with `:` would break /etc/passwd.
pub(super) fn user(text: &str) -> Result<String, &'static str> {
    let good = |c: char| c.is_ascii_graphic() && !matches!(c, ':' | '/' | ',');
    if (1..=256).contains(&text.len()) && text.chars().all(good) { Ok(text.to_owned()) } else { Err("is not a user") }
}
