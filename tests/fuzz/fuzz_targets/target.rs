//! Targets: what was read is written and read again as the same, with nothing left over.

use ghostwire::wire::target::{NAME_MAX, PATH_MAX, Target};

pub fn run(data: &[u8]) {
    let mut input = data;
    while let Some(target) = Target::take(&mut input) {
        if let Target::Name(name, _) = &target {
            assert!((1..=NAME_MAX).contains(&name.len()));
            assert!(!name.chars().any(|c| c.is_control() || c.is_whitespace()));
        }
        if let Target::Unix(path) = &target {
            assert!(path.starts_with('/') && path.len() <= PATH_MAX);
            assert!(path[1..].split('/').all(|part| !matches!(part, "" | "." | "..")));
        }
        let mut out = Vec::new();
        target.put(&mut out);
        let mut again = out.as_slice();
        assert_eq!(Target::take(&mut again).as_ref(), Some(&target));
        assert!(again.is_empty(), "{target} leaves {} bytes", again.len());
    }
}
