//! Certificate files that change are shown to the next visitor. Looked at now and then, because a file that is replaced by
//! renaming, on a network file system or through a link, tells nobody.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::transport::tls::{CertSource, Certificates};

/// Between looks: renewals happen every few weeks, and a look costs two system calls.
const LOOK: Duration = Duration::from_secs(10);

/// Reloads `certificates` whenever one of their files is another one, until aborted. Files that do not fit together (one is
/// there before the other) are tried again at every look.
pub(super) async fn watch(certificates: Arc<Certificates>) {
    let mut shown = stamps(&files(&certificates));
    let mut complained = None;
    loop {
        tokio::time::sleep(LOOK).await;
        let files = files(&certificates);
        let found = stamps(&files);
        if found == shown {
            continue;
        }
        match certificates.reload() {
            Ok(()) => {
                tracing::info!(certificate = %files[0].display(), "certificate read again");
                shown = found;
            }
            Err(error) => {
                if complained.as_ref() != Some(&found) {
                    tracing::warn!(certificate = %files[0].display(), %error, "changed certificate is of no use; the old one stays");
                    complained = Some(found);
                }
            }
        }
    }
}

fn files(certificates: &Certificates) -> Vec<PathBuf> {
    match certificates.source() {
        CertSource::Files { certificate, private_key } => vec![certificate, private_key],
        CertSource::SelfSigned { .. } => Vec::new(),
    }
}

/// What tells one state of the files from another.
fn stamps(files: &[PathBuf]) -> Vec<(PathBuf, Option<(SystemTime, u64)>)> {
    let stamp = |file: &PathBuf| {
        let about = std::fs::metadata(file).ok()?;
        Some((about.modified().ok()?, about.len()))
    };
    files.iter().map(|file| (file.clone(), stamp(file))).collect()
}

#[cfg(test)]
mod tests {
    use tokio::task::{LocalSet, spawn_local};

    use super::*;

    fn write(files: &[PathBuf], what: &str) {
        let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
        std::fs::write(&files[0], made.cert.pem()).unwrap();
        if what == "both" {
            std::fs::write(&files[1], made.signing_key.serialize_pem()).unwrap();
        }
    }

    #[test]
    fn a_changed_pair_is_shown_and_one_that_does_not_fit_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let files = vec![folder.path().join("cert.pem"), folder.path().join("key.pem")];
        write(&files, "both");
        let source = CertSource::Files { certificate: files[0].clone(), private_key: files[1].clone() };
        let certificates = Arc::new(Certificates::load(source).unwrap());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        LocalSet::new().block_on(&runtime, async {
            spawn_local(watch(Arc::clone(&certificates)));
            tokio::time::sleep(LOOK / 2).await;
            let first = certificates.fingerprint();
            write(&files, "certificate only");
            tokio::time::sleep(LOOK * 3).await;
            assert_eq!(certificates.fingerprint(), first, "key and certificate do not belong together");
            write(&files, "both");
            tokio::time::sleep(LOOK * 2).await;
            assert_ne!(certificates.fingerprint(), first);
        });
    }
}
