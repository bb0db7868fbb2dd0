//! The demonstration.

mod blob;
mod download;
mod http;
mod impair;
mod origin;

/// stub
pub fn run(_: crate::cli::Demo) -> anyhow::Result<()> {
    anyhow::bail!("later")
}
