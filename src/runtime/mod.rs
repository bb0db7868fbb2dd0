//! Drivers: the threads and tasks that feed the pure engine and carry out what it asks, and the one clock read.
//!
//! A session lives on one thread. [`shell::Shell`] holds its engine; [`link`] has the two tasks of each link; [`stream`]
//! is what the edges see. [`driver`] waits for time and commands.

mod alarm;
pub mod clock;
pub mod driver;
pub mod edge;
mod link;
pub mod netwatch;
pub mod random;
pub mod shell;
pub mod signal;
pub mod stream;

#[cfg(test)]
mod tests;

/// A runtime for one thread.
///
/// # Errors
/// The system has no more file descriptors for it.
pub fn thread() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().on_thread_unpark(clock::note_awake).build()
}

/// Prepares the process for many connections.
pub fn prepare() {
    match crate::transport::rlimit::raise_open_files() {
        Ok(files) => tracing::debug!(files, "open files allowed"),
        Err(error) => tracing::warn!(%error, "cannot raise the limit on open files"),
    }
}
