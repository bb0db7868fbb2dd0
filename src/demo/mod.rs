//! stub
/// stub
pub fn run(_: crate::cli::Demo) -> anyhow::Result<()> {
    anyhow::bail!("later")
}
